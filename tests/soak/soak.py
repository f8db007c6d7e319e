#!/usr/bin/env python3
"""Many requests of all sizes and fates against a whole cluster, and whether anything is left of them.

    soak.py [--requests N] [--groups G] [--tensor-parallel-size T] [--seed S] ... [-- flags of longhaul serve]

Two halves with the same lengths and fates, each in an order of its own: streams or not, REST or gRPC, of clients
that stay, leave, half-close, reset, or have a deadline that breaks. The KV cache is smaller than what a half needs.
Then every request has to have ended in exactly one way, the counters of router and leaders agree with what clients
saw and with the log, nothing runs, waits or holds KV blocks, the same prompts got the same answers, and no process
has grown by more than 5% since the end of the first half. Prints the seed and one table; status 1 says what is wrong.
Environment: as for tests/e2e (see scripts/soak.sh, which sets it).
"""

import argparse
import collections
import concurrent.futures
import os
import pathlib
import random
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import grpc
import httpx

import accounts
import conftest
import raw_http
import request_mix
import soak_clients

IDLE_SECONDS = 30
SIZES = (16, 256, 4096)  # tokens, of the table's rows
HOWS = ("stop", "length", "cancelled", "deadline", "refused", "left", "broken")
ALLOWED = {"stays": {"stop", "length"}, "leaves": {"stop", "length", "cancelled", "left"},
           "half-closes": {"stop", "length", "cancelled"}, "resets": {"left"},
           "expires": {"stop", "length", "deadline", "refused"}}


class Soak:
    def __init__(self, cluster, stubs, arguments):
        self._cluster, self._stubs = cluster, stubs
        self._concurrency, self._end = arguments.concurrency, time.monotonic() + arguments.seconds
        self.accounts = accounts.Accounts(cluster)
        self.results = []  # (request, ending), of all halves
        self._lock = threading.Lock()

    def run(self, requests):
        """Sends all, some at once; returns what is wrong."""
        before, done = self.accounts.ended(), len(self.results)
        rest = soak_clients.RestClient(raw_http.address_of(self._cluster.rest), self._cluster.model)
        with grpc.insecure_channel(self._cluster.grpc) as channel:
            rpc = soak_clients.GrpcClient(channel, self._stubs, self._cluster.model)
            with concurrent.futures.ThreadPoolExecutor(self._concurrency) as pool:
                clients = {"rest": rest, "grpc": rpc}
                for future in [pool.submit(self._one, clients[request.api], request)
                               for request in requests]:
                    future.result()
        wrong = [f"not idle: {name}: {state}"
                 for name, state in self.accounts.idle_after(IDLE_SECONDS).items()]
        endings = [ending for _, ending in self.results[done:]]
        return wrong + self.accounts.check_counters(endings, len(requests), before)

    def _one(self, client, request):
        if time.monotonic() > self._end:
            raise TimeoutError("--seconds are over")
        ending = client.ending(request)
        with self._lock:
            self.results.append((request, ending))

    def memory_kib(self):
        def ask():
            reply = httpx.post(self._cluster.rest + "/completions", timeout=60, json={
                "model": self._cluster.model, "prompt": [1, 2, 3], "max_tokens": 1, "ignore_eos": True})
            assert reply.status_code == 200, reply.text
        return self.accounts.memory_kib(ask)

    def check_endings(self):
        wrong = [f"{request.api}, {request.fate}, {tokens(request)} tokens: {ending.how} {ending.text}"
                 for request, ending in self.results if ending.how not in ALLOWED[request.fate]]
        answers = collections.defaultdict(set)
        for request, ending in self.results:
            if request.probe is not None and ending.how == "length":
                answers[request.probe].add(ending.text)
        return wrong + [f"probe {probe} got {len(texts)} different answers: {sorted(texts)}"
                        for probe, texts in sorted(answers.items()) if len(texts) > 1]


def tokens(request):
    """Of the prompt; of a chat's message about so many."""
    return len(request.prompt) if isinstance(request.prompt, list) else len(request.prompt) * 10 // 57


def show_endings(results):
    counts = collections.Counter()
    for request, ending in results:
        size = next((f"up to {size:,} tokens" for size in SIZES if tokens(request) <= size), "longer prompts")
        for row in (request.api, request.fate, size, "all"):
            counts[row, ending.how] += 1
    rows = ("rest", "grpc", *request_mix.FATES, *(f"up to {size:,} tokens" for size in SIZES), "longer prompts",
            "all")
    print("| requests | " + " | ".join(HOWS) + " |\n|---|" + "---|" * len(HOWS))
    for row in rows:
        print(f"| {row} | " + " | ".join(str(counts[row, how]) for how in HOWS) + " |")


def show_memory(halves):
    print("| RSS, KiB, after | " + " | ".join(halves[0]) + " |\n|---|" + "---|" * len(halves[0]))
    for number, half in enumerate(halves):
        print(f"| half {number + 1} | " + " | ".join(f"{half.get(name, 0):,}" for name in halves[0]) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--tensor-parallel-size", type=int, default=2)
    parser.add_argument("--pipeline-parallel-size", type=int, default=1)
    parser.add_argument("--kv-cache-gib", type=float, default=0.125, help="of a rank")
    parser.add_argument("--max-prompt-tokens", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=12)
    parser.add_argument("--max-growth", type=float, default=5, help="of a process's memory, percent")
    parser.add_argument("--seconds", type=float, default=7200, help="after which it gives up")
    parser.add_argument("--seed", type=int, default=int(os.environ.get(
        "LONGHAUL_TEST_SEED", random.SystemRandom().randrange(2**32))))
    parser.add_argument("flags", nargs="*", help="of longhaul serve")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed} (--seed, LONGHAUL_TEST_SEED); load {os.getloadavg()[0]:.1f} on "
          f"{os.cpu_count()} cores", flush=True)
    stubs = conftest.make_stubs()
    cluster = conftest.Cluster(
        "--groups", str(arguments.groups), "--tensor-parallel-size", str(arguments.tensor_parallel_size),
        "--pipeline-parallel-size", str(arguments.pipeline_parallel_size),
        "--kv-cache-gib", str(arguments.kv_cache_gib), *arguments.flags)
    wrong, memory, begin = [], [], time.monotonic()
    try:
        soak = Soak(cluster, stubs, arguments)
        mix = request_mix.Mix(arguments.seed, arguments.max_prompt_tokens)
        for number in range(2):
            wrong += soak.run(mix.half(number, arguments.requests // 2))
            memory.append(soak.memory_kib())
            if others := soak.accounts.check_processes():
                wrong += others
                break
            print(f"half {number + 1}: {time.monotonic() - begin:.0f} s, load {os.getloadavg()[0]:.1f}", flush=True)
        wrong += soak.check_endings() + soak.accounts.check_log()
        show_endings(soak.results)
        show_memory(memory)
        print(f"leaders: {soak.accounts.finished()}, " + ", ".join(
            f"{name} {soak.accounts.total(name)}" for name in
            ("preemptions_total", "requests_rejected_total", "prefill_tokens_total", "prefix_lookup_tokens_total",
             "prefix_hit_tokens_total", "repeated_tokens_total")))
    finally:
        status = cluster.stop()
    if status != 0:
        wrong.append(f"longhaul serve ended with {status}: " + "".join(cluster.log[-5:]))
    for name, kib in memory[0].items():
        if memory[-1].get(name, 0) > kib * (1 + arguments.max_growth / 100):
            wrong.append(f"{name} has grown from {kib:,} to {memory[-1][name]:,} KiB")
    for what in wrong[:50]:
        print("WRONG:", what)
    print(f"soak: {len(soak.results)} requests in {time.monotonic() - begin:.0f} s, "
          + (f"{len(wrong)} things wrong" if wrong else "all well"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
