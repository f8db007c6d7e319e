#!/usr/bin/env python3
"""How much sooner a prompt has its first token when the prefix cache has it.

    prefix_bench.py --bin build/release/bin [--model models/demo] [--prompt-tokens 32768] [--rounds 3] [--offload-gib G]

Each round: a fresh random prompt, the same again, a fresh one that is cancelled half way and then sent whole. With
--offload-gib the KV cache holds hardly more than one of them, and the first comes once more, from host memory then.
Prints Markdown: median seconds to the first token (lowest to highest) and the ratio to the fresh prompt of the same
round.
"""

import argparse
import os
import pathlib
import statistics
import time

from bench_cluster import Cluster, Completion, random_prompt, seeded

KV_GIB_A_TOKEN = 2**21 / 256 / 2**30  # the demo's, fp32
PROGRESS_SECONDS = 0.01


def first_token(cluster, prompt):
    done = Completion(cluster, prompt).wait()
    return done.first_token, done.cached


def half_prefilled(cluster, prompt):
    """Sends the prompt and cancels it about half way."""
    sent = Completion(cluster, prompt, progress=True)
    while sent.processed < len(prompt) // 2:
        if not sent.running:
            raise SystemExit(f"a prompt ended before half of it was processed: {sent.error}")
        time.sleep(PROGRESS_SECONDS)
    sent.cancel()
    while cluster.leader_metrics()["kv_blocks_used"]:
        time.sleep(PROGRESS_SECONDS)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--prompt-tokens", type=int, default=32_768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--offload-gib", type=float, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("flags", nargs="*", help="of longhaul serve")
    arguments = parser.parse_args()
    rng, tokens = seeded(arguments.seed), arguments.prompt_tokens
    room = tokens * KV_GIB_A_TOKEN * (1.1 if arguments.offload_gib else 4)
    seconds = {}  # what: (seconds, ratio to the fresh one, cached tokens) of each round

    def note(what, fresh, measured):
        seconds.setdefault(what, []).append((measured[0], fresh / measured[0], measured[1]))

    with Cluster(arguments.bin, arguments.model, "--kv-cache-gib", f"{room:.3f}",
                 "--kv-offload-gib", str(arguments.offload_gib), *arguments.flags) as cluster:
        first_token(cluster, random_prompt(rng, 1024))
        for _ in range(arguments.rounds):
            prompt = random_prompt(rng, tokens)
            fresh = first_token(cluster, prompt)
            note("fresh", fresh[0], fresh)
            note("again", fresh[0], first_token(cluster, prompt))
            other = random_prompt(rng, tokens)
            half_prefilled(cluster, other)
            note("after half a prefill", fresh[0], first_token(cluster, other))
            if arguments.offload_gib:
                note("again, from host memory", fresh[0], first_token(cluster, prompt))
    print(f"{tokens:,} tokens, {arguments.rounds} rounds, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n"
          "| prompt | cached tokens | first token, s | fresh / this |\n|---|---|---|---|")
    for what, rounds in seconds.items():
        times, ratios, cached = zip(*rounds)
        print(f"| {what} | {statistics.median(cached):,.0f} | {statistics.median(times):.3f} ({min(times):.3f} to "
              f"{max(times):.3f}) | {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) |")


if __name__ == "__main__":
    main()
