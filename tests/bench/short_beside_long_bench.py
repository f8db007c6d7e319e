#!/usr/bin/env python3
"""Short requests beside long prompts: when they have their first token, and what they cost the long ones.

    short_beside_long_bench.py --bin build/release/bin [--model models/demo] [--prompt-tokens 65536] [--shorts 200]
        [--rate 1] [--step-target-ms 500] [-- flags of longhaul serve]

Long random prompts, one after another without a pause; beside them short requests (1 to 64 tokens in, 4 out) at
random times, --rate a second, whether or not earlier ones have been answered. They come until there were --shorts
of them and a long prompt has begun and ended beside them. Before that, in the same cluster, short ones alone, and
before and after it long ones alone. Then all of it again without the guard: steps as long as their tokens make them.
Prints Markdown. Engine-busy seconds are the leader's unit_seconds_sum between a long prompt's sending and its first
token, without what the short ones of that time took when they were alone; rank CPU seconds likewise, which other
work on the machine changes less.
"""

import argparse
import os
import pathlib
import statistics
import threading
import time

from bench_cluster import Cluster, Completion, quantile, random_prompt, seeded

SHORT_TOKENS, SHORT_OUTPUT = 64, 4
ALONE_SHORTS = 20
UNGUARDED_MS = 3_600_000
STEP_BUCKETS = ("0.5", "1", "2.5")  # of unit_seconds: what the machine made of the steps


class Work:
    """What a cluster's engine has done between two moments."""

    def __init__(self, cluster):
        self._cluster = cluster
        self._begin = self._now()

    def _now(self):
        return self._cluster.leader_metrics()["unit_seconds_sum"], self._cluster.rank_cpu_seconds()

    def since(self):
        return tuple(now - begin for now, begin in zip(self._now(), self._begin))


class Shorts:
    """Requests at random times until `stop`."""

    def __init__(self, cluster, rng, rate):
        self._cluster, self._rng, self._rate = cluster, rng, rate
        self._stop = threading.Event()
        self.sent = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        due = time.monotonic()
        while not self._stop.is_set():
            self.sent.append(one_short(self._cluster, self._rng))
            due += self._rng.expovariate(self._rate)
            self._stop.wait(max(0.0, due - time.monotonic()))

    def end(self):
        """Seconds to the first token of each."""
        self._stop.set()
        self._thread.join()
        return [short.wait().first_token for short in self.sent]


def one_short(cluster, rng):
    return Completion(cluster, random_prompt(rng, rng.randint(1, SHORT_TOKENS)), SHORT_OUTPUT)


def long_alone(cluster, prompt):
    work = Work(cluster)
    Completion(cluster, prompt).wait()
    return work.since()


def beside(cluster, rng, arguments):
    """Seconds of the short ones, and (busy seconds, CPU seconds, shorts sent) of each whole long prompt."""
    shorts, longs = Shorts(cluster, rng, arguments.rate), []
    while True:
        work, before = Work(cluster), len(shorts.sent)
        sent = Completion(cluster, random_prompt(rng, arguments.prompt_tokens))
        while sent.running and (len(shorts.sent) < arguments.shorts or len(longs) < arguments.alone):
            time.sleep(0.05)
        if sent.running:
            seconds = shorts.end()
            sent.cancel()
            return seconds, longs
        sent.wait()
        longs.append((*work.since(), len(shorts.sent) - before))


def measure(arguments, rng, flags):
    with Cluster(arguments.bin, arguments.model, *flags, *arguments.flags) as cluster:
        Completion(cluster, random_prompt(rng, arguments.prompt_tokens // 4)).wait()  # costs are known then
        for _ in range(3):
            one_short(cluster, rng).wait()
        work = Work(cluster)
        own = [one_short(cluster, rng).wait().first_token for _ in range(ALONE_SHORTS)]
        own_work = [each / ALONE_SHORTS for each in work.since()]
        alone = [long_alone(cluster, random_prompt(rng, arguments.prompt_tokens))
                 for _ in range(arguments.alone)]
        begin, before = time.monotonic(), cluster.leader_metrics()
        seconds, longs = beside(cluster, rng, arguments)
        took, load = time.monotonic() - begin, os.getloadavg()[0]
        after = cluster.leader_metrics()
        grown = {name: value - before.get(name, 0) for name, value in after.items()}
        steps = [grown["unit_seconds_count"], *(grown[f'unit_seconds_bucket{{le="{le}"}}'] for le in STEP_BUCKETS)]
        alone += [long_alone(cluster, random_prompt(rng, arguments.prompt_tokens))
                  for _ in range(arguments.alone)]
    print(f"| {' '.join(flags)} | {len(seconds)} in {took:.0f} s, load {load:.1f} | "
          f"{steps[0]:.0f}: {', '.join(f'{100 * part / steps[0]:.1f}%' for part in steps[1:])} | "
          f"{quantile(own, 0.5):.3f}, {quantile(own, 0.99):.3f} | {quantile(seconds, 0.5):.3f} | "
          f"{quantile(seconds, 0.99):.3f} | {max(seconds):.3f} | ", end="")
    for kind in range(2 if alone else 0):  # busy, CPU
        by_itself = statistics.mean(each[kind] for each in alone)
        with_shorts = statistics.mean(each[kind] for each in longs)
        own_share = statistics.mean(each[2] for each in longs) * own_work[kind]
        print(f"{' and '.join(f'{each[kind]:.1f}' for each in alone)} | {with_shorts:.1f} - {own_share:.1f} "
              f"(n = {len(longs)}): {100 * ((with_shorts - own_share) / by_itself - 1):+.1f}% | ", end="")
    print(flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--prompt-tokens", type=int, default=65_536)
    parser.add_argument("--shorts", type=int, default=200)
    parser.add_argument("--rate", type=float, default=1)
    parser.add_argument("--step-target-ms", type=float, default=500)
    parser.add_argument("--alone", type=int, default=1, help="long prompts alone, before and after; 0 = no costs")
    parser.add_argument("--guard", choices=("on", "off", "both"), default="both")
    parser.add_argument("--seed", type=int)
    parser.add_argument("flags", nargs="*", help="of longhaul serve")
    arguments = parser.parse_args()
    rng = seeded(arguments.seed)
    print(f"| steps | short requests | steps within {', '.join(STEP_BUCKETS)} s | alone: median, p99, s | "
          "beside: median | p99 | worst | long alone, busy s | beside, busy s | long alone, CPU s | beside, CPU s |\n"
          "|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    if arguments.guard != "off":
        measure(arguments, rng, ["--step-target-ms", f"{arguments.step_target_ms:g}"])
    if arguments.guard != "on":
        measure(arguments, rng, ["--step-target-ms", str(UNGUARDED_MS), "--max-step-ms", str(UNGUARDED_MS)])


if __name__ == "__main__":
    main()
