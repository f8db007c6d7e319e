"""What a cluster says about itself: its counters, its processes' memory and its log, and whether they agree."""

import collections
import pathlib
import re
import time

import metrics

ROUTER = "longhaul_router_"
OUTCOMES = {"stop": "stop", "length": "length", "cancelled": "cancelled", "deadline": "deadline_exceeded",
            "refused": "resource_exhausted"}
ALL_OUTCOMES = ("stop", "length", "cancelled_by_worker", "cancelled", "unknown", "invalid_argument",
                "deadline_exceeded", "not_found", "already_exists", "permission_denied", "resource_exhausted",
                "failed_precondition", "aborted", "out_of_range", "unimplemented", "internal", "unavailable",
                "data_loss", "unauthenticated")
REASONS = ("stop", "length", "cancelled", "error")
LINE = re.compile(r"\S+Z ([DIWEF]) (\S+) \S+ (.*)")
FIELD = re.compile(r'(\w+)=("[^"]*"|\S+)')
SETTLING_SECONDS = 6
# Warnings that say nothing about requests: what happens on a machine that others use too.
EXPECTED = {"cost_fit_failed", "cost_fit_recovered", "held_up"}


class Accounts:
    """Of a running `cluster` (conftest.Cluster), from its start on."""

    def __init__(self, cluster):
        self._cluster = cluster
        self._log_begin = len(cluster.log)  # what start-up logged is its own affair
        self._router = cluster.base + "/metrics"
        self.names = _names(cluster.children())  # {pid: name}
        self.leaders = {name: metrics.WorkerMetrics(pid) for pid, name in self.names.items()
                        if name.startswith("leader")}
        self.names[cluster.process.pid] = "serve"

    def router(self, name, **labels):
        return round(metrics.value(self._router, ROUTER + name, **labels))

    def ended(self):
        """Requests by the router's outcome."""
        counts = {outcome: self.router("requests_total", outcome=outcome) for outcome in ALL_OUTCOMES}
        return collections.Counter({outcome: count for outcome, count in counts.items() if count})

    def total(self, name, **labels):
        """A counter of the leaders, summed."""
        return round(sum(leader(name, **labels) for leader in self.leaders.values()))

    def finished(self):
        return {reason: self.total("requests_finished_total", reason=reason) for reason in REASONS}

    def idle_after(self, seconds):
        """What is not as in a cluster without requests after so many seconds; empty if all is."""
        def busy():
            states = {name: dict(zip(("running", "waiting", "blocks used"), leader.load()))
                      for name, leader in self.leaders.items() if not leader.is_idle()}
            for name in ("live_requests", "queue_depth"):
                if count := self.router(name):
                    states[name] = count
            return states
        metrics.wait_for(lambda: not busy(), seconds)
        return busy()

    def memory_kib(self, ask):
        """Of each process the least while `ask()` is answered now and then: what requests have left
        behind goes with time."""
        least = {}
        end = time.monotonic() + SETTLING_SECONDS
        while time.monotonic() < end:
            ask()
            for pid, name in self.names.items():
                if pathlib.Path(f"/proc/{pid}").exists():  # else check_processes tells of it
                    least[name] = min(_rss_kib(pid), least.get(name, 1 << 40))
            time.sleep(0.1)
        return least

    def check_counters(self, endings, sent, before):
        """What is wrong with the counters after `endings` of `sent` requests; `before`: ended() then."""
        wrong = []
        ended = self.ended() - before
        known = collections.Counter(OUTCOMES[e.how] for e in endings if e.known and e.how in OUTCOMES)
        unknown = sum(not e.known for e in endings)
        for outcome, count in (known - ended).items():
            wrong.append(f"clients saw {count} more requests end as {outcome} than the router counted")
        rest = ended - known
        if not 0 <= rest.total() <= unknown:
            wrong.append(f"{unknown} endings were not seen by clients, but the router counted {rest.total()} "
                         f"of them: {dict(rest)}")
        if odd := set(ended) - set(OUTCOMES.values()):
            wrong.append(f"the router counted {({outcome: ended[outcome] for outcome in odd})}")
        if self.ended().total() != self.router("requests_received_total"):
            wrong.append(f"the router received {self.router('requests_received_total')} requests and ended "
                         f"{self.ended().total()}")
        if ended.total() > sent:
            wrong.append(f"{sent} requests were sent, the router ended {ended.total()}")
        finished = self.finished()
        for reason in ("stop", "length"):
            if finished[reason] < self.ended()[reason]:
                wrong.append(f"leaders finished {finished[reason]} with {reason}, the router "
                             f"{self.ended()[reason]}")
        for name in ("rank_restarts_total", "requests_replayed_total"):
            if count := self.total(name):
                wrong.append(f"{name} is {count}")
        if count := self.router("redispatched_total", reason="unavailable"):
            wrong.append(f"{count} requests were dispatched again because a group was lost")
        if self.total("requests_rejected_total") < self.router("redispatched_total", reason="rejected"):
            wrong.append("the router counted more rejections than the leaders")
        return wrong

    def check_log(self):
        """What is wrong with what the programs logged."""
        wrong, admitted, finished = [], collections.Counter(), collections.Counter()  # at leaders
        queued, ended = set(), collections.Counter()  # at the router
        for text in self._cluster.log[self._log_begin:]:
            line = LINE.fullmatch(text.rstrip("\n"))
            fields = {key: value.strip('"') for key, value in FIELD.findall(line[3] if line else "")}
            event, request = fields.get("event"), fields.get("request")
            if line is None or (line[1] in "WEF" and event not in EXPECTED):
                wrong.append(f"log: {text.strip()[:300]}")
                continue
            if line[2] == "router":
                if event == "queued":
                    queued.add(request)
                ended[request] += event in ("finished", "cancelled", "failed")
            elif event == "admitted":
                admitted[request] += 1
            elif event == "finished":
                finished[request] += 1
                if fields["reason"] == "error" and "deadline" not in fields["error"]:
                    wrong.append(f"log: {text.strip()[:300]}")
        if odd := [request for request in queued if ended[request] != 1]:
            wrong.append(f"{len(odd)} requests did not end once at the router, such as {odd[0]}: "
                         f"{ended[odd[0]]} times")
        if admitted != finished:
            odd = [request for request in admitted | finished if admitted[request] != finished[request]]
            wrong.append(f"{len(odd)} requests were admitted and did not finish once each, such as {odd[0]}: "
                         f"{admitted[odd[0]]} and {finished[odd[0]]} times")
        if twice := [request for request, count in admitted.items() if count > 1]:
            wrong.append(f"{len(twice)} requests were admitted more than once, such as {twice[0]}")
        if finished.total() != sum(self.finished().values()):
            wrong.append(f"{finished.total()} requests finished by the log, {self.finished()} by counters")
        return wrong

    def check_processes(self):
        now = _names(self._cluster.children())
        before = {pid: name for pid, name in self.names.items() if name != "serve"}
        return [] if now == before else [f"processes were {before}, are {now}"]


def _names(children):
    names = {}
    for pid, command in children.items():
        group = re.search(r"(?:group|control)-(\d+)", command)
        rank = re.search(r"--rank (\d+)", command)
        if "longhaul-router" in command:
            names[pid] = "router"
        elif "longhaul-worker leader" in command:
            names[pid] = f"leader {group[1]}"
        elif "longhaul-worker rank" in command:
            names[pid] = f"rank {group[1]}.{rank[1]}"
    return names


def _rss_kib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ValueError(f"process {pid} has no VmRSS")
