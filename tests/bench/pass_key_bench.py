#!/usr/bin/env python3
"""Pass keys through the whole server, by prompt length and temperature rule, with the time to the first token.

    pass_key_bench.py --bin build/release/bin [--model models/demo] [--tokens 16384 65536] [--prompts 2]
        [-- flags of longhaul serve, such as --device cuda]

Each prompt is text sent over REST to a cluster that has not seen it; keys lie at depths spread over the prompt. An
answer is right when all of it is. Prints a JSON line for each length and rule; status 1 if an answer was wrong.
"""

import argparse
import json
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "testing"))

import pass_key  # noqa: E402  (found through the line above)
from bench_cluster import Cluster, events  # noqa: E402


def ask(cluster, text):
    """The whole answer and the seconds to its first token."""
    first, answer = None, ""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 24, "temperature": 0}
    for seconds, event in events(cluster, "/v1/chat/completions", body):
        for choice in event["choices"]:
            piece = choice["delta"].get("content") or ""
            if piece and first is None:
                first = seconds
            answer += piece
    return answer.strip(), first


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--tokens", type=int, nargs="+", default=[16_384, 65_536])
    parser.add_argument("--prompts", type=int, default=2, help="of each length and rule")
    parser.add_argument("--temperatures", nargs="+", default=["position", "request"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("flags", nargs="*", help="of longhaul serve")
    arguments = parser.parse_args()
    wrong = 0
    for rule in arguments.temperatures:
        with Cluster(arguments.bin, arguments.model, "--attention-temperature", rule,
                     "--enable-prefix-caching", "false", *arguments.flags) as cluster:
            ask(cluster, pass_key.build(1024, 0.5).text)  # what comes with the first request
            for tokens in arguments.tokens:
                right, seconds = 0, []
                for i in range(arguments.prompts):
                    prompt = pass_key.build(tokens, (i + 0.5) / arguments.prompts, seed=arguments.seed)
                    answer, first = ask(cluster, prompt.text)
                    right += answer == prompt.answer
                    if answer != prompt.answer:
                        print(f"{tokens} tokens, {rule}: {answer!r}, not {prompt.answer!r}", file=sys.stderr)
                    seconds.append(first)
                wrong += arguments.prompts - right
                print(json.dumps({"pass_key_tokens": tokens, "temperature": rule, "right": right,
                                  "of": arguments.prompts, "ttft_s": round(statistics.median(seconds), 3)}), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
