#!/usr/bin/env python3
"""The dense path on one GPU: kernels beside their peers, pass keys and whole prompts through the server.

    gpu_dense_bench.py --build build/release --out docs/benchmarks/gpu-dense.json [--model DIR] [--skip kernels,...]
        [--lengths 32768 131072 262144 524288] [-- flags of longhaul serve]

Parts: kernels (attention_bench, attention_peers.py, cuda_gemm_bench, cuda_kernel_bench), sustained (gpu_sustained.py,
with --sustained-seconds), pass_keys (pass_key_bench.py), prompts (a 7B shape with dummy weights: --model, a folder with
config.json and the tokenizer). Times of prompts are the client's, tokenizer included, prefix cache off. The floor of a
prompt is what its linear layers and its attention take by the rates in the summary. Meanwhile memory, clocks and power
are sampled; the peak of memory stands beside what the rank's budget allowed, and status 1 says that it was exceeded.
Writes the summary with every sample after each prompt, and prints it. What FILE has from earlier runs and this one does
not measure stays, other lengths too; `run` of a sample is the index of its run.

    gpu_dense_bench.py --build build/release --out docs/benchmarks/gpu-dense.json --skip kernels,pass_keys --model DIR
        --lengths 1004000 -- --max-num-batched-tokens 16384         adds a million tokens, and nothing else
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import time

import dummy_prompt
from bench_cluster import Cluster, events
from gpu_samples import GpuSamples, card, memory_kept, memory_mib, used_gb

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
HIDDEN, INTER, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 3584, 18944, 28, 28, 4, 128, 152064
QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM
GEMMS = {"qkv": (QKV, HIDDEN), "o": (HIDDEN, HIDDEN), "gate_up": (2 * INTER, HIDDEN), "down": (HIDDEN, INTER)}
LAYER_WEIGHTS = sum(n * k for n, k in GEMMS.values())


def json_lines(command, timeout=600):
    """What a program prints as JSON, a line each."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise SystemExit(f"{command}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def keep(result, part, **values):
    """Adds a sample of this run."""
    result["samples"].append({"part": part, "run": len(result["runs"]) - 1, **values})


def measure_kernels(build, result):
    ours = json_lines([build / "bench" / "attention_bench"])
    peers = json_lines([sys.executable, SOURCE / "tests/bench/cuda/attention_peers.py"])
    keep(result, "kernels", card=card(), attention=ours, peers=peers)
    cudnn = {line["case"]: line for line in peers if line["peer"] == "cudnn" and "tflops" in line}
    prefill = {line["case"]: line["tflops"] for line in ours if line["op"] == "prefill_attention"}
    result["attention_prefill_tflops"] = prefill
    ratios = {case: round(prefill[case] / cudnn[case]["tflops"], 3) for case in prefill if case in cudnn}
    result["attention_prefill_vs_cudnn"] = ratios
    result["attention_prefill_vs_cudnn_min"] = min(ratios.values())
    decode = {line["case"]: line["tb_per_s"] for line in ours if line["op"] == "decode_attention"}
    result["decode_1m_tb_per_s"] = decode["1 x 1048576"]
    gemm = json_lines([build / "bench" / "cuda_gemm_bench"])
    other = json_lines([build / "bench" / "cuda_kernel_bench"])
    keep(result, "kernels", card=card(), gemm=gemm, other=other)
    rates = {line["shape"]: line["tflop_per_s"] for line in gemm if line["op"] == "gemm"}
    result["gemm_tflops"] = {name: next(rate for shape, rate in rates.items() if shape.startswith(f"{name} M=32768 "))
                             for name in GEMMS}


def measure_sustained(build, seconds, result):
    """Rates that the card keeps up; shares of them that the short measurements of attention have."""
    lines = json_lines([sys.executable, SOURCE / "tests/bench/gpu_sustained.py", "--bench",
                        build / "bench" / "attention_bench", "--seconds", str(seconds)])
    gemm, attention = lines
    keep(result, "sustained", lines=lines)
    result["sustained"] = {
        "seconds": seconds, "gemm_tflops": gemm["tflops"], "gemm_tflops_of": gemm["products"],
        "attention_tflops": attention["tflops"], "attention_case": attention["case"],
        "attention_share_of_gemm": attention["share_of_gemm"],
        "sm_mhz": {line["op"]: line["gpu"].get("sm_mhz") for line in lines},
        "power_w": {line["op"]: line["gpu"].get("power_w") for line in lines}}
    if "attention_prefill_tflops" in result:
        result["sustained"]["attention_prefill_share_of_gemm"] = {
            case: round(rate / gemm["tflops"], 3) for case, rate in result["attention_prefill_tflops"].items()}


def floor_seconds(result, tokens):
    """Linear layers and attention of a prompt by the rates in the summary, seconds."""
    linear = sum(2 * n * k * tokens * LAYERS / (result["gemm_tflops"][name] * 1e12) for name, (n, k) in GEMMS.items())
    cases = {int(case.split()[1]): rate for case, rate in result["attention_prefill_tflops"].items()
             if case.startswith("causal")}
    rate = cases[min(cases, key=lambda length: abs(length - tokens))]
    return linear + attention_flops(tokens) / (rate * 1e12)


def sustained_floor_seconds(result, tokens):
    """The same by the rates that the card keeps up; None if they were not measured."""
    if "sustained" not in result:
        return None
    rates = result["sustained"]
    linear = sum(2 * n * k * tokens * LAYERS / (rates["gemm_tflops_of"][name] * 1e12) for name, (n, k) in GEMMS.items())
    return linear + attention_flops(tokens) / (rates["attention_tflops"] * 1e12)


def attention_flops(tokens):
    return 4 * HEAD_DIM * HEADS * LAYERS * tokens * tokens / 2


def random_text(rng, words):
    vocabulary = (SOURCE / "models/demo/words.txt").read_text().split()
    return " ".join(rng.choices(vocabulary, k=words))


class Prompts:
    """Prompts of exact lengths. Text is made a little too long and cut by the server; ids come as they are."""

    MARGIN = 1.02
    SAMPLE_WORDS = 2000

    def __init__(self, cluster, rng, ids_of=None):
        self._rng, self._seed = rng, rng.randrange(2**32)
        self._vocabulary = ids_of and dummy_prompt.ordinary_tokens(ids_of)
        self._tokens_per_word = None
        if not ids_of:
            self._tokens_per_word = ask(cluster, random_text(rng, self.SAMPLE_WORDS), 1)[0] / self.SAMPLE_WORDS

    def body(self, tokens):
        if self._vocabulary:
            self._seed += 1
            return {"prompt": dummy_prompt.dummy_prompt(self._vocabulary, tokens, self._seed)}
        words = int(tokens / self._tokens_per_word * self.MARGIN) + 16
        return {"prompt": random_text(self._rng, words), "truncate_prompt_tokens": tokens}


def ask(cluster, prompt, max_tokens):
    """Prompt tokens, tokens of the answer, and the seconds at which each of these came. `prompt`: text, or a body."""
    prompt_tokens, tokens, times = 0, 0, []
    body = {"max_tokens": max_tokens, "ignore_eos": True, "temperature": 0, "stream_options": {"include_usage": True},
            **(prompt if isinstance(prompt, dict) else {"prompt": prompt})}
    for seconds, event in events(cluster, "/v1/completions", body):
        if event.get("choices"):
            times.append(seconds)
        if event.get("usage"):
            prompt_tokens, tokens = event["usage"]["prompt_tokens"], event["usage"]["completion_tokens"]
    return prompt_tokens, tokens, times


def enter(result, length, line):
    """Takes a measured prompt into the summary, which keeps what it has of other lengths."""
    result["samples"].append(line)
    key = str(length)
    result.setdefault("ttft_s", {})[key] = line["ttft_s"]
    result.setdefault("tpot_ms", {})[key] = line["tpot_ms"]
    if line["floor_share"]:
        shares = result.setdefault("ttft_floor_share", {})
        shares[key] = line["floor_share"]
        result["ttft_floor_share_min"] = min(shares.values())
    if length >= 1_000_000:
        result["tpot_ms_1m"] = line["tpot_ms"]
    for name in ("ttft_s", "tpot_ms", "ttft_floor_share"):
        if name in result:
            result[name] = dict(sorted(result[name].items(), key=lambda item: int(item[0])))


def measure_prompts(arguments, result, save):
    rng = random.Random(arguments.seed)
    run = len(result["runs"]) - 1
    flags = ["--device", arguments.device, "--load-format", "dummy", "--enable-prefix-caching", "false",
             *arguments.flags]
    before = used_gb()
    with GpuSamples() as gpu:
        begin = time.monotonic()
        with Cluster(arguments.build / "bin", arguments.model, *flags) as cluster:
            result["start_s"] = round(time.monotonic() - begin, 1)
            prompts = Prompts(cluster, rng, arguments.model if arguments.prompt_ids else None)
            ask(cluster, prompts.body(700), 64)  # what comes with the first request
            _, tokens, times = ask(cluster, prompts.body(700), 256)
            result["tpot_ms_short"] = round((times[-1] - times[0]) / (tokens - 1) * 1e3, 3)
            print(json.dumps({"tpot_ms_short": result["tpot_ms_short"], "start_s": result["start_s"]}), flush=True)
            save()
            for length in arguments.lengths:
                body = prompts.body(length)
                sent = time.monotonic()
                tokens, generated, times = ask(cluster, body, arguments.tokens + 1)
                tpot = (times[-1] - times[0]) / max(1, generated - 1) * 1e3
                floor = floor_seconds(result, tokens) if "gemm_tflops" in result else None
                kept = sustained_floor_seconds(result, tokens)
                line = {"part": "ttft", "run": run, "length": length, "prompt_tokens": tokens,
                        "sent_as": "ids" if isinstance(body["prompt"], list) else "text",
                        "ttft_s": round(times[0], 3), "tpot_ms": round(tpot, 3), "generated": generated,
                        "floor_s": floor and round(floor, 3), "floor_share": floor and round(floor / times[0], 3),
                        "floor_sustained_share": kept and round(kept / times[0], 3),
                        "prefill": gpu.summary(sent, sent + times[0]),
                        "decode": gpu.summary(sent + times[0], sent + times[-1])}
                enter(result, length, line)
                print(json.dumps(line), flush=True)
                save()
            peak = gpu.summary(begin, time.monotonic()).get("memory_peak_gb", 0)
            for budget in cluster.budgets.values():
                result["memory"] = memory_kept(budget, before, peak, *memory_mib())
                result["memory_peak_gb"] = result["memory"]["memory_peak_gb"]
                result["memory_allowed_gb"] = result["memory"]["memory_allowed_gb"]
                print(json.dumps(result["memory"]), flush=True)
                save()


def measure_pass_keys(arguments, result):
    lines = json_lines([sys.executable, SOURCE / "tests/bench/pass_key_bench.py", "--bin", arguments.build / "bin",
                        "--model", SOURCE / "models/demo", "--tokens", "16384", "65536", "262144", "1048500",
                        "--prompts", str(arguments.prompts), "--", "--device", "cuda", "--max-num-batched-tokens",
                        "8192"])
    keep(result, "pass_keys", lines=lines)
    result["passkey_accuracy"] = {f"{line['pass_key_tokens']} {line['temperature']}": line["right"] / line["of"]
                                  for line in lines}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda",
                        help="of the prompts: cpu to try this script")
    parser.add_argument("--lengths", type=int, nargs="*", default=[32_768, 131_072, 262_144, 524_288])
    parser.add_argument("--prompts", type=int, default=3, help="pass keys of each length and rule")
    parser.add_argument("--skip", default="", help="parts, separated by commas")
    parser.add_argument("--commit", help="that the programs were built from; asked of git otherwise")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64, help="behind the first one of each long prompt")
    parser.add_argument("--sustained-seconds", type=int, default=0, help="of gpu_sustained.py, each part; 0 = not run")
    parser.add_argument("--prompt-ids", action="store_true",
                        help="prompts as token ids, of dummy_prompt.py; else text, tokenized within the time")
    parser.add_argument("flags", nargs="*", help="of longhaul serve")
    arguments = parser.parse_args()
    if arguments.tokens < 1 or min(arguments.lengths, default=1) < 1:
        parser.error("--tokens and --lengths are at least 1")
    if arguments.model and not (arguments.model / "tokenizer.json").exists():
        parser.error(f"--model {arguments.model}: there is no tokenizer.json in it")
    # What an earlier run wrote, and this one does not measure, stays.
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    commit = arguments.commit or subprocess.run(["git", "-C", SOURCE, "rev-parse", "HEAD"], capture_output=True,
                                                text=True).stdout.strip()
    result.setdefault("samples", [])
    result.setdefault("runs", []).append({"argv": sys.argv[1:], "commit": commit or "unknown", "card": card()})

    def save():
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")

    parts = {"kernels": lambda: measure_kernels(arguments.build, result),
             "sustained": lambda: (measure_sustained(arguments.build, arguments.sustained_seconds, result)
                                   if arguments.sustained_seconds else None),
             "pass_keys": lambda: measure_pass_keys(arguments, result),
             "prompts": lambda: measure_prompts(arguments, result, save) if arguments.model else None}
    unknown = set(filter(None, arguments.skip.split(","))) - set(parts)
    if unknown:
        parser.error(f"--skip {', '.join(sorted(unknown))}: the parts are {', '.join(parts)}")
    for name, measure in parts.items():
        if name not in arguments.skip.split(","):
            measure()
            save()
    print(json.dumps({key: value for key, value in result.items() if key not in ("samples", "runs")}, indent=1))
    if not result.get("memory", {}).get("memory_kept", True):
        print("the rank took more memory than its budget allows", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
