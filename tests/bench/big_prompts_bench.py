#!/usr/bin/env python3
"""Ten prompts of 5 MB at once, and what others notice of them.

    big_prompts_bench.py --bin build/release/bin --model models/demo [--max-model-len N] [--timeout S] [--priority P]

Starts `longhaul serve`, sends the big prompts as streaming chats, and meanwhile asks /health ten times a second and
one request of one token each second, all on connections of their own. After --seconds the big ones are cancelled by
closing their connections. Prints Markdown: median, p99 and worst seconds of each, before the big prompts came, beside
them and after they were cancelled, how many were refused (429) or still open in the end, and each process's memory at
its peak. --timeout and --priority are those of the one-token requests.
With a --max-model-len below the prompts' length they are tokenized and refused: what is left is the cost of that.
Needs no packages.
"""

import argparse
import collections
import http.client
import json
import pathlib
import statistics
import threading
import time

from bench_cluster import Cluster

# 5.7 bytes a token in the demo's vocabulary: 5 MB stay below its 1,048,576 tokens.
SENTENCE = ("Some special information hidden within the following documentation: "
            "remember the irrelevant important text. ")
HEALTH_PERIOD, REQUEST_PERIOD = 0.1, 1.0
BEFORE_SECONDS = AFTER_SECONDS = 5.0


class Poll:
    """Asks every `period` seconds, in threads of their own, so that slow answers delay no question."""

    def __init__(self, ask, period):
        self._ask, self._period = ask, period
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._open = {}  # number: when it was asked
        self.samples = []  # (when it was asked, what came of it, seconds)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        number, due = 0, time.monotonic()
        while not self._stop.is_set():
            threading.Thread(target=self._once, args=(number,), daemon=True).start()
            number, due = number + 1, due + self._period
            time.sleep(max(0.0, due - time.monotonic()))

    def _once(self, number):
        begin = time.monotonic()
        with self._lock:
            self._open[number] = begin
        try:
            outcome = "answered" if self._ask() else "refused"
        except (OSError, http.client.HTTPException):
            outcome = "broken"
        with self._lock:
            if self._open.pop(number, None) is not None:
                self.samples.append((begin, outcome, time.monotonic() - begin))

    def end(self):
        self._stop.set()
        self._thread.join()
        with self._lock:
            self.samples += [(begin, "open", 0.0) for begin in self._open.values()]
            self._open.clear()


def one_token(cluster, arguments):
    """Whether it was answered, or the error that refused it."""
    connection = cluster.connect()
    connection.request("POST", "/v1/chat/completions", json.dumps(
        {"model": cluster.model, "max_tokens": 1, "priority": arguments.priority, "timeout": arguments.timeout,
         "messages": [{"role": "user", "content": "What is the pass key?"}]}))
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    return None if reply.status == 200 else json.loads(body)["error"]["message"]


class BigPrompt:
    """A streaming chat; what became of it so far."""

    def __init__(self, cluster, text):
        self.state, self.tokens, self.processed, self._cancelled = "sending", None, 0, False
        self._begin = time.monotonic()
        self.seconds = None  # to the refusal or the first event that counts tokens
        # On a small machine a prefill of hours is predicted: within the default hour it would be refused at once.
        body = json.dumps({"model": cluster.model, "stream": True, "stream_options": {"include_progress": True},
                           "timeout": 86400,
                           "messages": [{"role": "user", "content": text}]})
        self._connection = cluster.connect()
        self._thread = threading.Thread(target=self._run, args=(body,), daemon=True)
        self._thread.start()

    def _run(self, body):
        try:
            self._connection.request("POST", "/v1/chat/completions", body)
            self._socket = self._connection.sock
            reply = self._connection.getresponse()
            if reply.status != 200:
                self.seconds = time.monotonic() - self._begin
                self.state = f"refused, {reply.status}: {json.loads(reply.read())['error']['message']}"
                return
            self.state = "accepted"
            for line in reply:
                if line.startswith(b"data: {"):
                    self._on_event(json.loads(line[6:]))
        except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:
            if not self._cancelled:
                self.state = f"failed: {error!r}"

    def _on_event(self, event):
        if "error" in event:
            self.state = f"failed: {event['error']['message']}"
        elif "progress" in event:
            self.tokens, self.processed = event["progress"]["prompt_tokens"], event["progress"]["processed_tokens"]
            self.state = "prefilling"
            self.seconds = self.seconds or time.monotonic() - self._begin

    def cancel(self):
        self._cancelled = True
        sock = getattr(self, "_socket", None)
        if sock is not None:
            sock.shutdown(2)  # wakes the reader; the server sees the end


def shown(samples):
    counts = collections.Counter(outcome for _, outcome, _ in samples)
    cells = [counts["answered"], counts["refused"], counts["open"] + counts["broken"]]
    answered = sorted(seconds for _, outcome, seconds in samples if outcome == "answered")
    if answered:
        p99 = answered[max(0, round(0.99 * len(answered)) - 1)]
        cells += [f"{value:.3f}" for value in (statistics.median(answered), p99, answered[-1])]
    else:
        cells += ["-"] * 3
    return " | ".join(str(cell) for cell in cells)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--bytes", type=int, default=5_000_000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--max-model-len", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=3600)
    parser.add_argument("--priority", type=int, default=0)
    arguments = parser.parse_args()
    flags = ["--max-model-len", str(arguments.max_model_len)] if arguments.max_model_len else []
    cluster = Cluster(arguments.bin, arguments.model, *flags)
    polls, refusals = {}, []

    def ask_one_token():
        refusals.extend(filter(None, [refusal := one_token(cluster, arguments)]))
        return refusal is None

    try:
        ask_one_token()
        polls = {"/health": Poll(cluster.health, HEALTH_PERIOD),
                 "one token": Poll(ask_one_token, REQUEST_PERIOD)}
        time.sleep(BEFORE_SECONDS)
        sent = time.monotonic()
        text = SENTENCE * (arguments.bytes // len(SENTENCE))
        prompts = [BigPrompt(cluster, f"Number {i}. {text}") for i in range(arguments.prompts)]
        time.sleep(arguments.seconds)
        states = collections.Counter(prompt.state for prompt in prompts)
        peaks = {name: cluster.peak_mib(name) for name in cluster.PROGRAMS}
        for prompt in prompts:
            prompt.cancel()
        over = time.monotonic()
        time.sleep(AFTER_SECONDS)
        for poll in polls.values():
            poll.end()
        print("| asked | when | answered | refused | open | median, s | p99, s | worst, s |\n"
              "|---|---|---|---|---|---|---|---|")
        for name, poll in polls.items():
            for when, begin, end in (("before", 0, sent), ("beside the prompts", sent, over), ("after", over, 1e18)):
                print(f"| {name} | {when} | {shown([s for s in poll.samples if begin <= s[0] < end])} |")
        for state, count in states.items():
            print(f"{count} prompts of {arguments.bytes:,} bytes: {state}")
        if refusals:
            print("one-token requests refused:", refusals[-1])
        known = [prompt.seconds for prompt in prompts if prompt.seconds]
        if known:
            print(f"first word about {len(known)} of them after {min(known):.2f} to {max(known):.2f} s")
        print("prefilled:", ", ".join(f"{p.processed:,} of {p.tokens:,} tokens" for p in prompts if p.tokens) or "none")
        print("peak of resident memory:", ", ".join(f"{name} {mib:,.0f} MiB" for name, mib in peaks.items()))
    finally:
        for poll in polls.values():
            poll.end()
        cluster.stop()


if __name__ == "__main__":
    main()
