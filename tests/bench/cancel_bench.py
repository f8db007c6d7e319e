#!/usr/bin/env python3
"""How soon a cancelled prefill holds no KV block any more.

    cancel_bench.py --bin build/release/bin [--model models/demo] [--cancels 50] [--prompt-tokens 65536] [-- flags]

Sends long random prompts one after another and breaks each off at a random moment of its prefill, by closing the
connection. Prints Markdown: from the closing until the leader's kv_blocks_used is 0, as this script sees it; and as
the leader measures it, from its cancel until the last plan that names the request has retired
(cancel_to_free_seconds), beside the length of units: the references drop within as many of them as plans are in
flight, one without pipeline stages and else one more than stages.
"""

import argparse
import os
import pathlib
import time

from bench_cluster import Cluster, Completion, quantile, random_prompt, seeded

POLL_SECONDS = 0.005


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--cancels", type=int, default=50)
    parser.add_argument("--prompt-tokens", type=int, default=65_536)
    parser.add_argument("--longest-wait", type=float, default=6, help="before a cancel, seconds")
    parser.add_argument("--seed", type=int)
    parser.add_argument("flags", nargs="*", help="of longhaul serve")
    arguments = parser.parse_args()
    rng = seeded(arguments.seed)
    freed, units, plans = [], [], []
    with Cluster(arguments.bin, arguments.model, *arguments.flags) as cluster:
        Completion(cluster, random_prompt(rng, 8192)).wait()  # what a step costs is known then
        before = cluster.leader_metrics()
        for _ in range(arguments.cancels):
            sent = Completion(cluster, random_prompt(rng, arguments.prompt_tokens))
            while not cluster.leader_metrics()["kv_blocks_used"]:
                time.sleep(POLL_SECONDS)
            time.sleep(rng.uniform(0, arguments.longest_wait))
            if not sent.running:
                raise SystemExit("a prompt was done before its cancel: make it longer, or the wait shorter")
            begin, busy = time.monotonic(), cluster.leader_metrics()
            sent.cancel()
            while (now := cluster.leader_metrics())["kv_blocks_used"]:
                time.sleep(POLL_SECONDS)
            freed.append(time.monotonic() - begin)
            plans.append(now["unit_seconds_count"] - busy["unit_seconds_count"])
            units.append((now["unit_seconds_sum"] - before["unit_seconds_sum"]) /
                         max(1, now["unit_seconds_count"] - before["unit_seconds_count"]))
        after = cluster.leader_metrics()
    count = after["cancel_to_free_seconds_count"] - before["cancel_to_free_seconds_count"]
    mean = (after["cancel_to_free_seconds_sum"] - before["cancel_to_free_seconds_sum"]) / count
    within = min(float(name.split('"')[1]) for name in after
                 if name.startswith("cancel_to_free_seconds_bucket") and
                 after[name] - before.get(name, 0) >= count)
    print(f"{arguments.cancels} cancels, {count:.0f} counted by the leader, load {os.getloadavg()[0]:.1f} on "
          f"{os.cpu_count()} cores\n"
          "| from cancel to free, s | median | p99 | worst |\n|---|---|---|---|\n"
          f"| from outside | {quantile(freed, 0.5):.3f} | {quantile(freed, 0.99):.3f} | {max(freed):.3f} |\n"
          f"| at the leader | mean {mean:.3f} | | at most {within} |\n"
          f"| steps retired meanwhile | {quantile(plans, 0.5):.0f} | {quantile(plans, 0.99):.0f} | "
          f"{max(plans):.0f} |\n"
          f"mean step {units[-1]:.3f} s")


if __name__ == "__main__":
    main()
