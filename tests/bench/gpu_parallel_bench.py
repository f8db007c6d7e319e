#!/usr/bin/env python3
"""Two GPUs against one: what tensor and pipeline parallelism gain, and that answers stay what they are.

    gpu_parallel_bench.py --build build/release --model DIR [--tokens 262016] [--repeats 2] [--out FILE]
        [-- flags of longhaul serve]                                    scaling, on two GPUs
    gpu_parallel_bench.py --build build/release --sameness [--share-gpu] [--out FILE] [-- flags]

Scaling: the first token of one prompt (text, client's clock, prefix cache off, dummy weights of DIR's config.json) with
one GPU, --tensor-parallel-size 2 and --pipeline-parallel-size 2. scaling_tp2 and scaling_pp2 are quotients of medians.
bubble_pp2 is 1 - (busy seconds of both stages, as the ranks measure them) / (2 x the leader's seconds with plans in
flight) over that prompt; beside it the mean over the stages of what `longhaul plan --simulate` predicts.

Sameness: greedy answers and logprobs of prompts to models/demo, some longer than a Dual Chunk Attention segment. With
another cut (--max-num-batched-tokens) or two stages they must be equal, logprobs bit by bit: every cut is at a block of
256 tokens and prompts end in 128 tokens of one or more, so all units have the 128 rows that this takes on a GPU. With
two shards sums are rounded otherwise: the same tokens, but for ties nearer than --tolerance, and logprobs within it.
--share-gpu puts both ranks on the first GPU (NCCL 2.30 or newer): answers only, no scaling.

FILE keeps what it has. Status 1 if answers differ, 2 if something does not run.
"""

import argparse
import contextlib
import json
import pathlib
import random
import statistics
import subprocess
import sys
import time

import shared_gpu
from bench_cluster import Cluster
from dummy_prompt import dummy_prompt
from gpu_dense_bench import Prompts, ask
from gpu_golden_bench import TOP, compare, greedy, is_near_tie
from gpu_samples import GpuSamples, card, query

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "testing"))

import pass_key  # noqa: E402  (found through the line above)

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
ONE, TP2, PP2 = (), ("--tensor-parallel-size", "2"), ("--pipeline-parallel-size", "2")
BLOCK, MANY_ROWS = 256, 128
DEMO_TOKENS = 2040  # its ordinary ones
# Tokens of prompts; from 3,072 on a prompt has several segments. Each ends 128 tokens into a block.
PASS_KEYS = (1_152, 6_272, 20_096)
RANDOM_IDS = (384, 3_200, 12_416)
BATCHED_TOKENS = (2_048, 768)
SHARED_MEMORY = 0.35  # of what is free, for each of two ranks


def bubble(before, after, stages):
    """1 - busy share of the stages between two samples of the leader's metrics; None if nothing ran."""
    wall = after["busy_seconds_total"] - before["busy_seconds_total"]
    names = [f'stage_busy_seconds_total{{stage="{stage}"}}' for stage in range(stages)]
    busy = sum(after[name] - before.get(name, 0) for name in names)
    return 1 - busy / (stages * wall) if wall > 0 else None


def flag_of(flags, name):
    """The value of a flag in `flags`, written as two words or with =; None if it is not there."""
    for at, word in enumerate(flags):
        if word == name and at + 1 < len(flags):
            return flags[at + 1]
        if word.startswith(name + "="):
            return word.removeprefix(name + "=")
    return None


def predicted(arguments):
    """Of `longhaul plan --simulate` for two stages: {"bubble", "ttft_s", "scaling"}."""
    command = [arguments.build / "bin/longhaul", "plan", arguments.model, "--gpu", f"{arguments.gpu}:2",
               "--pipeline-parallel-size", "2", "--prompt-tokens", arguments.tokens, "--attention", "dense",
               "--simulate", "--json"]
    for name in ("--max-num-batched-tokens", "--max-step-ms"):
        value = flag_of(arguments.flags, name)
        command += [name, value] if value else ["--max-num-batched-tokens", 2048] if "batched" in name else []
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise SystemExit(f"longhaul plan: status {done.returncode}: {done.stderr[-500:]}")
    plan = json.loads(done.stdout)
    return {"bubble": round(statistics.mean(stage["bubble"] for stage in plan["stages"]), 4),
            "ttft_s": round(plan["ttft_s"], 3), "scaling": round(plan["ttft_one_card_s"] / plan["ttft_s"], 3)}


def measure_prompt(arguments, name, parallel):
    """First tokens of the prompt with one way to use the GPUs, as a dict."""
    flags = ["--device", arguments.device, "--load-format", "dummy", "--enable-prefix-caching", "false", *parallel,
             *arguments.flags]
    stages = int(flag_of(parallel, "--pipeline-parallel-size") or 1)
    num_gpus = 2 if parallel else 1
    with (GpuSamples() if arguments.device == "cuda" else contextlib.nullcontext()) as gpu, \
            Cluster(arguments.build / "bin", arguments.model, *flags) as cluster:
        prompts = Prompts(cluster, random.Random(arguments.seed))
        ask(cluster, prompts.body(max(256, arguments.tokens // 16)), 1)  # what comes with the first long request
        result = {"part": name, "tokens": arguments.tokens, "ttft_s": [], "bubble": [], "gpus": []}
        for _ in range(arguments.repeats):
            body = prompts.body(arguments.tokens)
            before, begin = settled_metrics(cluster), time.monotonic()
            tokens, _, times = ask(cluster, body, 1)
            end = time.monotonic()
            if tokens != arguments.tokens:
                raise SystemExit(f"the prompt had {tokens} tokens, not {arguments.tokens}")
            result["ttft_s"].append(round(times[0], 3))
            after = settled_metrics(cluster)
            share = bubble(before, after, stages) if before and after else None
            result["bubble"].append(share and round(share, 4))
            if gpu:
                result["gpus"].append([gpu.summary(begin, end, index) for index in range(num_gpus)])
    print(json.dumps(result), flush=True)
    return result


def settled_metrics(cluster):
    """The leader's metrics once the last request's end has been counted; None, and a word, where they cannot be had."""
    deadline = time.monotonic() + 10
    try:
        metrics = cluster.leader_metrics()
        while metrics["running_requests"] > 0 and time.monotonic() < deadline:
            time.sleep(0.05)
            metrics = cluster.leader_metrics()
    except (SystemExit, OSError) as error:  # some sandboxes hide which process listens where
        print(f"no bubble is measured: {error}", file=sys.stderr)
        return None
    return metrics


def measure_scaling(arguments, result):
    lines = {name: measure_prompt(arguments, name, parallel)
             for name, parallel in (("one", ONE), ("tp2", TP2), ("pp2", PP2)) if name in arguments.ways}
    result["samples"] += lines.values()
    medians = {name: statistics.median(line["ttft_s"]) for name, line in lines.items()}
    summary = {"parallel_tokens": arguments.tokens,
               "parallel_ttft_s": {name: round(seconds, 3) for name, seconds in medians.items()}}
    for name in ("tp2", "pp2"):
        if name in medians and "one" in medians:
            summary[f"scaling_{name}"] = round(medians["one"] / medians[name], 3)
    if "pp2" in lines:
        shares = [share for share in lines["pp2"]["bubble"] if share is not None]
        summary["bubble_pp2"] = round(statistics.median(shares), 4) if shares else None
        summary["pp2_simulated"] = predicted(arguments)
    result.update(summary)
    print(json.dumps(summary), flush=True)
    return 0


def chat(cluster, text, tokens):
    """As greedy() has it, of a chat: tokens are the hexadecimals of their bytes."""
    connection = cluster.connect(3600)
    connection.request("POST", "/v1/chat/completions", json.dumps(
        {"model": cluster.model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens,
         "temperature": 0, "logprobs": True, "top_logprobs": TOP, "timeout": 3600}))
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    if reply.status != 200:
        raise SystemExit(f"{reply.status} {body[:500]}")
    choice = json.loads(body)["choices"][0]
    content = choice["logprobs"]["content"]
    return {"text": choice["message"]["content"].strip(),
            "tokens": [bytes(entry["bytes"]).hex() for entry in content],
            "logprobs": [entry["logprob"] for entry in content],
            "top": [{bytes(other["bytes"]).hex(): other["logprob"] for other in entry["top_logprobs"]}
                    for entry in content]}


def demo_answers(arguments, folder, parallel, batched_tokens):
    """Of every prompt: {what it is: answer}."""
    flags = ["--device", arguments.device, "--enable-prefix-caching", "false", "--warm-up-seconds", "0",
             "--kv-cache-gib", "1", "--max-model-len", "32768", *parallel, *arguments.flags,
             "--max-num-batched-tokens", str(batched_tokens)]
    environment = None
    if arguments.share_gpu:
        environment = shared_gpu.ENVIRONMENT
        flags += ["--gpu-memory-utilization", str(SHARED_MEMORY)]
    answers = {}
    with Cluster(folder, SOURCE / "models/demo", *flags, environment=environment) as cluster:
        for tokens in PASS_KEYS:
            prompt = pass_key.build(tokens, 0.3, seed=arguments.seed)
            answer = chat(cluster, prompt.text, 16)
            if answer["text"] != prompt.answer:
                raise SystemExit(f"pass key at {tokens} tokens: {answer['text']!r}, not {prompt.answer!r}")
            answers[f"pass key, {tokens} tokens"] = answer
        for tokens in RANDOM_IDS:
            ids = dummy_prompt(DEMO_TOKENS, tokens, arguments.seed)
            answers[f"random ids, {tokens} tokens"] = greedy(cluster, ids, 32)
    return answers


def judge(expected, actual, tolerance):
    """(is right, what to say) of two answers; `tolerance` None: bit by bit."""
    if len(expected["tokens"]) != len(actual["tokens"]) and tolerance is None:
        return False, f"{len(actual['tokens'])} tokens, expected {len(expected['tokens'])}"
    common = min(len(expected["tokens"]), len(actual["tokens"]))
    short = [{**answer, "tokens": answer["tokens"][:common]} for answer in (expected, actual)]
    result = compare(*short)
    difference = result["logprob_difference"]
    if result["at"] is not None:
        near = tolerance is not None and is_near_tie(result, tolerance)
        return near, (f"{'a near tie' if near else 'another token'} at {result['at']}, margins "
                      f"{[round(value, 5) for value, _ in result['margins']]}; logprobs before within {difference:.2g}")
    if len(expected["tokens"]) != len(actual["tokens"]):
        return False, f"{len(actual['tokens'])} tokens, expected {len(expected['tokens'])}"
    if tolerance is None:
        same = expected["logprobs"] == actual["logprobs"] and expected["top"] == actual["top"]
        return same, "bit by bit" if same else f"the same tokens, logprobs differ by {difference:.2g}"
    return difference <= tolerance, f"the same tokens, logprobs within {difference:.2g}"


def measure_sameness(arguments, result):
    for tokens in PASS_KEYS + RANDOM_IDS:
        assert tokens % BLOCK == 0 or tokens % BLOCK >= MANY_ROWS, tokens
    one_cut, another = BATCHED_TOKENS
    ways = {"one": (ONE, one_cut), "one, another cut": (ONE, another), "pp2": (PP2, one_cut),
            "pp2, another cut": (PP2, another), "tp2": (TP2, one_cut)}
    tolerance = arguments.tolerance
    if tolerance is None:
        tolerance = 0.25 if arguments.device == "cuda" else 1e-3
    report, wrong = {}, 0
    with (shared_gpu.programs(arguments.build / "bin") if arguments.share_gpu
          else contextlib.nullcontext(arguments.build / "bin")) as folder:
        expected = None
        for way, (parallel, batched_tokens) in ways.items():
            if way.split(",")[0] not in arguments.ways:
                continue
            answers = demo_answers(arguments, folder, parallel, batched_tokens)
            if expected is None:
                expected = answers
                continue
            for prompt, answer in answers.items():
                right, words = judge(expected[prompt], answer, tolerance if parallel == TP2 else None)
                wrong += not right
                report.setdefault(way, {})[prompt] = words
                print(f"{'same     ' if right else 'DIFFERENT'} {way}: {prompt}: {words}", flush=True)
    result["sameness"] = {"device": arguments.device, "shared_gpu": arguments.share_gpu, "tolerance_tp2": tolerance,
                          "different": wrong, "prompts": report}
    print(json.dumps({"sameness_different": wrong, "compared": sum(map(len, report.values())),
                      "tolerance_tp2": tolerance}), flush=True)
    return 1 if wrong else 0


def check_gpus(arguments):
    """What the GPUs are called; SystemExit if there are too few."""
    if arguments.device != "cuda":
        return None
    names = [line[0] for line in query(["name"])]
    if len(names) < 2 and not arguments.share_gpu and {"tp2", "pp2"} & set(arguments.ways):
        raise SystemExit(f"two GPUs are needed, here are {len(names)} ({names[0]}): --sameness --share-gpu compares "
                         "answers on one")
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, help="for scaling: config.json and tokenizer.json")
    parser.add_argument("--sameness", action="store_true", help="compare answers of models/demo")
    parser.add_argument("--share-gpu", action="store_true", help="both ranks on the first GPU; with --sameness")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tokens", type=int, default=262_016, help="of the prompt: 262,144 but for room")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=["one", "tp2", "pp2"], default=["one", "tp2", "pp2"])
    parser.add_argument("--gpu", choices=["h100-80g", "h200-141g"], help="for the simulation; default: by its name")
    parser.add_argument("--tolerance", type=float,
                        help="of logprobs with two shards; default 0.25 on GPUs, 0.001 on the CPU")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, help="JSON that keeps what it has")
    parser.add_argument("--commit", help="that the programs were built from; asked of git otherwise")
    parser.add_argument("flags", nargs="*", help="of longhaul serve")
    arguments = parser.parse_args()
    if arguments.share_gpu and not arguments.sameness:
        parser.error("--share-gpu: two ranks on one GPU say nothing of scaling; add --sameness")
    if not arguments.sameness and not (arguments.model and (arguments.model / "tokenizer.json").exists()):
        parser.error("--model DIR with config.json and tokenizer.json is needed, or --sameness")
    if arguments.sameness and "one" not in arguments.ways:
        parser.error("--sameness compares with one rank: --ways one ...")
    names = check_gpus(arguments)
    if not arguments.gpu:
        arguments.gpu = "h200-141g" if names and "H200" in names[0] else "h100-80g"
    result = json.loads(arguments.out.read_text()) if arguments.out and arguments.out.exists() else {}
    commit = arguments.commit or subprocess.run(["git", "-C", SOURCE, "rev-parse", "HEAD"], capture_output=True,
                                                text=True).stdout.strip()
    result.setdefault("samples", [])
    result.setdefault("runs", []).append({"argv": sys.argv[1:], "commit": commit or "unknown",
                                          "card": card() if names else "none", "gpus": names})
    status = (measure_sameness if arguments.sameness else measure_scaling)(arguments, result)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SystemExit as failure:
        if isinstance(failure.code, str):
            print(failure.code, file=sys.stderr)
            sys.exit(2)
        raise
