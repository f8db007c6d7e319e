#!/usr/bin/env python3
"""Greedy tokens of the golden prompts on a GPU beside those on the CPU, both through the whole server.

    gpu_golden_bench.py --bin build/release/bin [--cpu-answers FILE | --write-cpu-answers FILE] [--near-tie X]
        [-- flags of longhaul serve]

The prompts are those of tests/data/golden_logits.safetensors, sent as ids; greedy, 64 tokens, end tokens like any
other. One server runs after the other: --device cpu, then --device cuda. With --cpu-answers the first is not needed:
its answers are in FILE, made by --write-cpu-answers on any machine (which needs no GPU then, and starts no second
server).

Prints a line for each prompt: equal, or where the first difference is and by how much each device prefers its own
token there (logprobs). Behind that the two answer different questions, and nothing is compared. The demo's margins are
as small as 0.004, and a GPU's matrices are bf16: --near-tie X lets differences pass where neither device prefers its
token by more than X, and counts them apart. Ends with a summary as JSON; status 1 if a prompt differs, 2 if one
could not be asked. Needs no packages.
"""

import argparse
import array
import json
import pathlib
import sys

from bench_cluster import Cluster

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
GOLDEN = SOURCE / "tests/data/golden_logits.safetensors"
TOP = 5  # the most that a completion can have


def ints_of(path, name):
    """An I32 tensor of a safetensors file, flat."""
    data = path.read_bytes()
    header_bytes = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8:8 + header_bytes])[name]
    if entry["dtype"] != "I32":
        raise SystemExit(f"{path}: {name} is {entry['dtype']}, expected I32")
    begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
    return array.array("i", data[begin:end]).tolist()


def golden_prompts(path=GOLDEN):
    offsets, ids = ints_of(path, "offsets"), ints_of(path, "prompt_ids")
    return [ids[begin:end] for begin, end in zip(offsets, offsets[1:])]


def greedy(cluster, prompt, tokens):
    """The answer's tokens and their logprobs, with the most probable alternatives: {"tokens", "logprobs", "top"}."""
    connection = cluster.connect(3600)
    connection.request("POST", "/v1/completions", json.dumps(
        {"model": cluster.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
         "logprobs": TOP, "timeout": 3600}))
    reply = connection.getresponse()
    text = reply.read()
    connection.close()
    if reply.status != 200:
        raise SystemExit(f"{reply.status} {text[:500]}")
    logprobs = json.loads(text)["choices"][0]["logprobs"]
    return {"tokens": logprobs["tokens"], "logprobs": logprobs["token_logprobs"], "top": logprobs["top_logprobs"]}


def margin(answer, at, other):
    """By how much the answer's device prefers its own token there: (at least so much, whether that is exact)."""
    top = answer["top"][at]
    own = answer["logprobs"][at]
    return (own - top[other], True) if other in top else (own - min(top.values()), False)


def compare(expected, actual):
    """{"at": first different token or None, "margins": of both there, "logprob_difference": the largest before it}."""
    largest = 0.0
    for at, (wanted, found) in enumerate(zip(expected["tokens"], actual["tokens"], strict=True)):
        if wanted != found:
            return {"at": at, "tokens": [wanted, found], "logprob_difference": largest,
                    "margins": [margin(expected, at, found), margin(actual, at, wanted)]}
        largest = max(largest, abs(expected["logprobs"][at] - actual["logprobs"][at]))
    return {"at": None, "logprob_difference": largest}


def is_near_tie(result, near_tie):
    return all(exact and value <= near_tie for value, exact in result["margins"])


def describe(index, prompt, result, near_tie):
    head = f"prompt {index}, {len(prompt)} tokens: "
    tail = f"; logprobs before differ by at most {result['logprob_difference']:.4f}"
    if result["at"] is None:
        return head + "equal" + tail.replace(" before", "")
    margins = [f"{'' if exact else 'at least '}{value:.4f}" for value, exact in result["margins"]]
    kind = "a near tie" if is_near_tie(result, near_tie) else "DIFFERENT"
    return (head + f"{kind} at token {result['at']}: CPU {result['tokens'][0]!r} by {margins[0]}, "
            f"GPU {result['tokens'][1]!r} by {margins[1]}" + tail)


def answers_of(arguments, device, prompts):
    flags = ["--device", device, "--enable-prefix-caching", "false", "--warm-up-seconds", "0", *arguments.flags]
    with Cluster(arguments.bin, arguments.model, *flags) as cluster:
        return [greedy(cluster, prompt, arguments.tokens) for prompt in prompts]


def cpu_answers(arguments, prompts):
    if not arguments.cpu_answers:
        return answers_of(arguments, "cpu", prompts)
    try:
        saved = json.loads(arguments.cpu_answers.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"--cpu-answers: {error}") from error
    if saved["tokens"] != arguments.tokens or saved["prompts"][:len(prompts)] != prompts:
        raise SystemExit(f"--cpu-answers {arguments.cpu_answers}: other prompts, or not {arguments.tokens} tokens")
    return saved["answers"][:len(prompts)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, default=SOURCE / "models/demo")
    parser.add_argument("--cpu-answers", type=pathlib.Path)
    parser.add_argument("--write-cpu-answers", type=pathlib.Path)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda",
                        help="of the second server: cpu to try this script")
    parser.add_argument("--prompts", type=int, help="so many, from the first on; default: all")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--near-tie", type=float, default=0.0)
    parser.add_argument("flags", nargs="*", help="of longhaul serve, for both devices")
    arguments = parser.parse_args()
    if arguments.cpu_answers and arguments.write_cpu_answers:
        parser.error("--cpu-answers reads what --write-cpu-answers writes: one of them")
    prompts = golden_prompts()[:arguments.prompts]
    expected = cpu_answers(arguments, prompts)
    if arguments.write_cpu_answers:
        arguments.write_cpu_answers.write_text(
            json.dumps({"tokens": arguments.tokens, "prompts": prompts, "answers": expected}))
        print(f"{len(expected)} answers in {arguments.write_cpu_answers}")
        return 0
    actual = answers_of(arguments, arguments.device, prompts)
    results = [compare(*pair) for pair in zip(expected, actual, strict=True)]
    for index, (prompt, result) in enumerate(zip(prompts, results)):
        print(describe(index, prompt, result, arguments.near_tie))
    other = [result for result in results if result["at"] is not None]
    different = [result for result in other if not is_near_tie(result, arguments.near_tie)]
    print(json.dumps({
        "golden_prompts": len(results), "golden_equal": len(results) - len(other),
        "golden_near_ties": len(other) - len(different), "golden_different": len(different),
        "largest_margin_at_a_difference": max((value for result in other for value, _ in result["margins"]),
                                              default=None),
        "largest_logprob_difference": max(result["logprob_difference"] for result in results)}))
    return 1 if different else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SystemExit as failure:
        if isinstance(failure.code, str):
            print(failure.code, file=sys.stderr)
            sys.exit(2)
        raise
