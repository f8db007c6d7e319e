#!/usr/bin/env python3
"""A rank of a group of GPUs is killed while it decodes: what the client hears, and when the group answers again.

    gpu_failure_bench.py --build build/release [--share-gpu] [--device cpu] [--out FILE] [-- flags of longhaul serve]

For two shards and for two stages of models/demo: an answer, then the same request again, whose stream sees `kill -9` of
the last rank after its tenth token, then the same until it is answered. The first and the last answer must be equal, the
one between must end, with an error or whole, no process of the killed group may be left, and in the end all of it must
stop by itself. Status 1 otherwise.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import sys
import time

import shared_gpu
from bench_cluster import Cluster, events
from dummy_prompt import dummy_prompt

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
WAYS = {"tp2": ("--tensor-parallel-size", "2"), "pp2": ("--pipeline-parallel-size", "2")}
TOKENS, KILLED_AT = 400, 10
ENOUGH = 120  # seconds for a group to come back
STOP_LIMIT = 2  # seconds in which all of it ends by itself


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def ask(cluster, body, on_token=None):
    """(text, error or None, seconds) of a streamed completion."""
    text, error, begin, count = "", None, time.monotonic(), 0
    try:
        for _, event in events(cluster, "/v1/completions", body):
            if event.get("error"):
                error = event["error"].get("message")
            for choice in event.get("choices") or []:
                text += choice["text"]
                count += 1
                if on_token:
                    on_token(count)
    except (SystemExit, OSError) as failure:
        error = str(failure) or type(failure).__name__
    return text, error, time.monotonic() - begin


def measure(arguments, name, parallel):
    flags = ["--device", arguments.device, "--warm-up-seconds", "0", "--kv-cache-gib", "1", "--max-model-len", "32768",
             *parallel, *arguments.flags]
    if arguments.share_gpu:
        flags += ["--gpu-memory-utilization", "0.35"]
    body = {"prompt": dummy_prompt(2040, 6_272, 1), "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    with (shared_gpu.programs(arguments.build / "bin") if arguments.share_gpu
          else contextlib.nullcontext(arguments.build / "bin")) as folder, \
            Cluster(folder, SOURCE / "models/demo", *flags,
                    environment=shared_gpu.ENVIRONMENT if arguments.share_gpu else None) as cluster:
        expected, error, alone = ask(cluster, body)
        if error or not expected:
            raise SystemExit(f"{name}: no answer: {error}")
        ranks = cluster.pids["longhaul-worker rank"]
        killed = []

        def kill(count):
            if count == KILLED_AT:
                os.kill(ranks[-1], signal.SIGKILL)
                killed.append(time.monotonic())

        cut, cut_error, _ = ask(cluster, body, kill)
        ended = time.monotonic()
        again, last_error = "", "not asked"
        while last_error and time.monotonic() < killed[0] + ENOUGH:
            again, last_error, _ = ask(cluster, body)
        line = {"part": "failure", "way": name, "answer_s": round(alone, 2), "client_heard": cut_error,
                "cut_is_a_prefix": expected.startswith(cut), "client_heard_after_s": round(ended - killed[0], 2),
                "answered_again_after_s": None if last_error else round(time.monotonic() - killed[0], 2),
                "same_answer": again == expected, "processes_left": [pid for pid in ranks if is_alive(pid)]}
        stopping = time.monotonic()
    line["stopped_s"] = round(time.monotonic() - stopping, 2)  # a rank that has to be killed takes 2 s or more
    print(json.dumps(line), flush=True)
    return line


def is_right(line):
    return (line["same_answer"] and line["cut_is_a_prefix"] and not line["processes_left"]
            and line["answered_again_after_s"] is not None and line["stopped_s"] < STOP_LIMIT)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--share-gpu", action="store_true", help="both ranks on the first GPU")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--out", type=pathlib.Path, help="JSON that keeps what it has")
    parser.add_argument("flags", nargs="*", help="of longhaul serve")
    arguments = parser.parse_args()
    lines = [measure(arguments, name, WAYS[name]) for name in arguments.ways]
    if arguments.out:
        result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
        result["failure"] = lines
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(map(is_right, lines)) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SystemExit as failure:
        if isinstance(failure.code, str):
            print(failure.code, file=sys.stderr)
            sys.exit(2)
        raise
