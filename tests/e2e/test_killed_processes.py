"""Leaders and ranks killed and stopped: in idleness, in mid-prefill and in mid-decode.

Two groups of two ranks stand behind one router, each under a leader that this test starts again
when it is dead, as an orchestrator would. Everywhere: what the client sees, how soon the loss is
noticed, how soon the group is ready again, that no process is left over, and that a request of the
other group goes on.
"""

import calendar
import json
import os
import pathlib
import signal
import threading
import time

import httpx
import pytest

import metrics
import pass_key
from conftest import children_of
from programs import Leader, Router

RANKS = 2
NOTICED_SECONDS = 5
READY_SECONDS = 30
PROMPT_REPEATS = 400  # of the filler: 10,000 tokens, several steps
DECODE_TOKENS = 6000
# A rank of a killed leader is killed by the kernel.
ORPHAN_SECONDS = 5
# Far more than any answer takes on a machine with other work.
ANSWER_SECONDS = 120


class Stream(threading.Thread):
    """A streamed chat, read until its end or until `leave`."""

    def __init__(self, router, content, **fields):
        super().__init__(daemon=True)
        self._url = router.rest + "/chat/completions"
        self._request = {"model": router.model, "stream": True, "logprobs": True, "temperature": 0,
                         "stream_options": {"include_progress": True},
                         "messages": [{"role": "user", "content": content}], **fields}
        self._left = threading.Event()
        self.tokens = []
        self.token_times = []
        self.processed_tokens = 0
        self.error = None
        self.finish_reason = None
        self.ended_at = None
        self.start()

    def run(self):
        try:
            with httpx.stream("POST", self._url, json=self._request,
                              timeout=ANSWER_SECONDS) as reply:
                assert reply.status_code == 200, reply.read()
                for line in reply.iter_lines():
                    if self._left.is_set():
                        return
                    if line.startswith("data: {"):
                        self._read(json.loads(line[6:]))
        except (httpx.HTTPError, AssertionError) as problem:
            self.error = {"message": repr(problem)}
        finally:
            self.ended_at = time.time()

    def _read(self, event):
        self.error = event.get("error", self.error)
        if "progress" in event:
            self.processed_tokens = event["progress"]["processed_tokens"]
        for choice in event.get("choices", ()):
            self.finish_reason = choice["finish_reason"] or self.finish_reason
            for token in (choice.get("logprobs") or {}).get("content") or ():
                self.tokens.append(token["token"])
                self.token_times.append(time.time())

    def end(self):
        self.join(ANSWER_SECONDS)
        assert not self.is_alive(), "the answer does not end"
        return self

    def leave(self):
        self._left.set()
        return self.end()

    def longest_pause(self):
        return max(after - before for before, after in zip(self.token_times, self.token_times[1:]))


def alive(pid):
    """Whether the process runs or is stopped."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def logged_at(line):
    """The time that a line of a program's log carries, as time.time()."""
    seconds, fraction = line.split()[0].rstrip("Z").split(".")
    return calendar.timegm(time.strptime(seconds, "%Y-%m-%dT%H:%M:%S")) + float("0." + fraction)


def wait_for_line(program, since, *words):
    """When the program logged a line with all `words`, after its first `since` lines."""
    found = []

    def look():
        found.extend(line for line in program.log[since:] if all(word in line for word in words))
        return found
    assert metrics.wait_for(look, READY_SECONDS), (words, "".join(program.log[since:]))
    return logged_at(found[0]), found[0]


class Groups:
    """Two leaders with their ranks, and the router before them."""

    def __init__(self):
        self.seen = set()  # process ids of leaders and ranks
        self.leaders = {}
        for _ in range(2):
            leader = self._start()
            self.leaders[leader.listen] = leader
        first, second = self.leaders
        self.router = Router(first, "--worker", second)
        self.routers_of = {address: Router(address) for address in self.leaders}
        self.wait_ready()

    def _start(self, **listen):
        leader = Leader("--tensor-parallel-size", RANKS, "--ranks-on-host", 2 * RANKS,
                        "--threads", 1, "--kv-cache-gib", 0.25, **listen)
        self.seen.add(leader.process.pid)
        return leader

    def ranks(self, address):
        """Process ids by rank."""
        found = {}
        for pid, command in children_of(self.leaders[address].process.pid).items():
            words = command.split()
            if "--rank" in words:
                found[int(words[words.index("--rank") + 1])] = pid
        self.seen.update(found.values())
        return found

    def num_ready(self):
        return metrics.value(self.router.base + "/metrics", "longhaul_router_groups_ready")

    def wait_ready(self):
        assert metrics.wait_for(lambda: self.num_ready() == 2, 2 * READY_SECONDS), (
            "".join(self.router.log[-20:]))

    def other(self, address):
        return next(each for each in self.leaders if each != address)

    def begin(self, content, **fields):
        """Starts a request; returns it and the address of the group that it runs on."""
        since = len(self.router.log)
        stream = Stream(self.router, content, **fields)
        _, line = wait_for_line(self.router, since, "event=dispatched")
        return stream, next(word for word in line.split() if word.startswith("group="))[6:]

    def start_again(self, address):
        """A new leader where the old one was; that one and its ranks are gone when it starts."""
        old = self.leaders[address].process
        ranks = self.ranks(address)
        old.kill()
        old.wait(timeout=READY_SECONDS)
        assert metrics.wait_for(lambda: not any(map(alive, ranks.values())), ORPHAN_SECONDS), ranks
        self.leaders[address] = self._start(listen=address)

    def repair(self):
        """After a test that failed half-way."""
        for address, leader in self.leaders.items():
            if leader.process.poll() is not None or is_stopped(leader.process.pid):
                self.start_again(address)
        self.wait_ready()
        for address in self.leaders:
            assert len(self.ranks(address)) == RANKS

    def stop(self):
        for address in self.leaders:
            self.ranks(address)
        programs = (self.router, *self.routers_of.values(), *self.leaders.values())
        for program in programs:
            if is_stopped(program.process.pid):
                program.process.kill()
            program.process.terminate()
        codes = [program.process.wait(timeout=READY_SECONDS) for program in programs]
        left = [pid for pid in self.seen if alive(pid)]
        assert not any(codes) and not left, (codes, left)


def is_stopped(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Table:
    """What each case took, printed when all are over."""

    COLUMNS = ("victim", "signal", "moment", "noticed s", "client s", "ready again s",
               "other's longest pause s", "client sees")

    def __init__(self):
        self.rows = []

    def add(self, *row):
        self.rows.append([f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row])

    def __str__(self):
        rows = [self.COLUMNS, *self.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.COLUMNS))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
                         for row in rows)


@pytest.fixture(scope="module")
def groups():
    running = Groups()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def table(request):
    table = Table()
    yield table
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + str(table))


def pass_key_prompt(number, repeats):
    """A prompt that shares no block with that of another number: the key stands in its first."""
    return pass_key.announcement(f"{number:05d}", repeats, 0.0)


def begin_main(groups, moment, number):
    """The request that the victim's group works on, just in that moment, and the group."""
    if moment == "prefill":
        stream, address = groups.begin(pass_key_prompt(number, PROMPT_REPEATS).text, max_tokens=16)
        assert metrics.wait_for(lambda: stream.processed_tokens > 0 or stream.ended_at)
    else:
        stream, address = groups.begin(pass_key_prompt(number, 10).text, max_tokens=DECODE_TOKENS,
                                       ignore_eos=True)
        assert metrics.wait_for(lambda: len(stream.tokens) > 3 or stream.ended_at)
    return stream, address


def check_moment(stream, moment):
    assert not stream.ended_at, stream.error
    assert bool(stream.tokens) == (moment == "decode"), len(stream.tokens)


def strike(groups, address, victim, number):
    """Sends the signal; returns when, and a function that waits until the loss was noticed."""
    leader, ranks = groups.leaders[address], groups.ranks(address)
    assert len(ranks) == RANKS
    router_since, leader_since = len(groups.router.log), len(leader.log)
    at = time.time()
    if victim == "leader":
        os.kill(leader.process.pid, number)
        return at, lambda: wait_for_line(groups.router, router_since, "group=" + address,
                                         "event=lost")[0] - at
    os.kill(ranks[int(victim[-1])], number)
    return at, lambda: wait_for_line(leader, leader_since, "event=group_lost")[0] - at


SIGNALS = {"KILL": signal.SIGKILL, "STOP": signal.SIGSTOP}
CASES = [(victim, name, moment) for name in SIGNALS for victim in ("leader", "rank 0", "rank 1")
         for moment in ("idle", "prefill", "decode")]


@pytest.mark.parametrize("victim, name, moment", CASES)
def test_a_lost_process_costs_no_more_than_it_must(groups, table, victim, name, moment):
    groups.repair()
    number = 10_000 + 777 * CASES.index((victim, name, moment))
    main, address = None, next(iter(groups.leaders))
    if moment != "idle":
        main, address = begin_main(groups, moment, number)
    other = Stream(groups.routers_of[groups.other(address)], pass_key_prompt(number, 10).text,
                   ignore_eos=True, max_tokens=DECODE_TOKENS)
    assert metrics.wait_for(lambda: len(other.tokens) > 3)
    if main is not None:
        check_moment(main, moment)

    ranks_before = set(groups.ranks(address).values())
    at, noticed = strike(groups, address, victim, SIGNALS[name])
    noticed_seconds = noticed()
    assert noticed_seconds < NOTICED_SECONDS

    if moment == "idle":  # the other group serves meanwhile
        answer = Stream(groups.router, pass_key_prompt(number, 10).text).end()
        assert answer.finish_reason == "stop", answer.error
    stopped_leader = (victim, name) == ("leader", "STOP")
    if main is not None and (moment == "decode" or stopped_leader):
        main.end()
    ready_from = at
    if victim == "leader":
        if stopped_leader:
            assert set(groups.ranks(address).values()) == ranks_before  # they wait for it
            ready_from = time.time()
        groups.start_again(address)
    assert metrics.wait_for(lambda: groups.num_ready() == 2, READY_SECONDS)
    ready_seconds = time.time() - ready_from
    assert ready_seconds < READY_SECONDS
    assert not any(map(alive, ranks_before))
    assert len(groups.ranks(address)) == RANKS

    seen = ""
    client_seconds = "" if main is None else main.end().ended_at - at
    if moment == "decode":
        # Some tokens may have been on their way: what the client has is what the message says.
        assert main.error, (main.finish_reason, len(main.tokens))
        seen = main.error["message"]
        assert f"lost after {len(main.tokens)} tokens: " in seen
        assert main.error["type"] == "service_unavailable"
        # Who was lost, and how if that can be known.
        lost = {"leader": address, "KILL": "signal 9", "STOP": victim}
        assert lost.get(victim, lost[name]) in seen
        assert client_seconds < NOTICED_SECONDS + 1
    elif moment == "prefill":
        assert main.error is None and main.finish_reason == "stop"
        seen = "answer"

    other.leave()
    assert other.error is None and len(other.tokens) > 3
    pause = other.longest_pause()
    assert pause < NOTICED_SECONDS
    if moment == "prefill":
        again, _ = groups.begin(pass_key_prompt(number, PROMPT_REPEATS).text, max_tokens=16)
        assert again.end().tokens == main.tokens
    table.add(victim, name, moment, noticed_seconds, client_seconds, ready_seconds, pause,
              seen[:100])


def test_a_stopped_leader_that_goes_on_serves_again(groups):
    groups.repair()
    main, address = begin_main(groups, "decode", 54_321)
    ranks_before = groups.ranks(address)
    at, noticed = strike(groups, address, "leader", signal.SIGSTOP)
    assert noticed() < NOTICED_SECONDS
    assert "lost after" in main.end().error["message"]
    leader = groups.leaders[address]
    time.sleep(2)  # longer than a rank may be silent
    os.kill(leader.process.pid, signal.SIGCONT)
    assert metrics.wait_for(lambda: groups.num_ready() == 2, READY_SECONDS)
    # It was the leader that slept: nothing is wrong with its ranks, or with what they hold.
    assert groups.ranks(address) == ranks_before
    url = f"http://{leader.ready['metrics']}/metrics"
    assert metrics.wait_for(
        lambda: metrics.value(url, "longhaul_worker_requests_finished_total", reason="cancelled"))
    assert metrics.value(url, "longhaul_worker_running_requests") == 0
    key = pass_key_prompt(54_322, 10)
    answer = Stream(groups.routers_of[address], key.text).end()
    assert answer.finish_reason == "stop", answer.error
    assert groups.ranks(address) == ranks_before
