#!/usr/bin/env python3
"""The dense path on one GPU: kernels beside their peers, pass keys and whole prompts through the server.

    gpu_dense_bench.py --build build/release --out docs/benchmarks/gpu-dense.json [--model DIR] [--skip kernels,...]
        [--lengths 32768 131072 262144 524288] [-- flags of longhaul serve]

Parts: kernels (attention_bench, attention_peers.py, cuda_gemm_bench, cuda_kernel_bench), pass_keys (pass_key_bench.py),
ttft and tpot (a 7B shape with dummy weights: --model, a folder with config.json and the tokenizer). Times of prompts
are the client's, tokenizer included, prefix cache off. The floor of a prompt is what its linear layers and its
attention take by the rates of this run. Writes the summary with every sample, and prints it.
"""

import argparse
import json
import pathlib
import random
import statistics
import subprocess
import sys
import time

from bench_cluster import Cluster, events

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


def card():
    fields = "name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu,memory.total"
    text = subprocess.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], check=True,
                          capture_output=True, text=True).stdout
    return dict(zip(fields.split(","), (value.strip() for value in text.splitlines()[0].split(","))))


def measure_kernels(build, result):
    ours = json_lines([build / "bench" / "attention_bench"])
    peers = json_lines([sys.executable, SOURCE / "tests/bench/cuda/attention_peers.py"])
    result["samples"] += [{"part": "kernels", "card": card(), "attention": ours, "peers": peers}]
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
    result["samples"] += [{"part": "kernels", "card": card(), "gemm": gemm, "other": other}]
    rates = {line["shape"]: line["tflop_per_s"] for line in gemm if line["op"] == "gemm"}
    result["gemm_tflops"] = {name: next(rate for shape, rate in rates.items() if shape.startswith(f"{name} M=32768 "))
                             for name in GEMMS}


def floor_seconds(result, tokens):
    """Linear layers and attention of a prompt by the rates of this run, seconds."""
    linear = sum(2 * n * k * tokens * LAYERS / (result["gemm_tflops"][name] * 1e12) for name, (n, k) in GEMMS.items())
    cases = {int(case.split()[1]): rate for case, rate in result["attention_prefill_tflops"].items()
             if case.startswith("causal")}
    rate = cases[min(cases, key=lambda length: abs(length - tokens))]
    return linear + 4 * HEAD_DIM * HEADS * LAYERS * tokens * tokens / 2 / (rate * 1e12)


def random_text(rng, words):
    vocabulary = (SOURCE / "models/demo/words.txt").read_text().split()
    return " ".join(rng.choices(vocabulary, k=words))


def ask(cluster, text, max_tokens):
    """Prompt tokens, tokens of the answer, and the seconds at which each of these came."""
    prompt_tokens, tokens, times = 0, 0, []
    body = {"prompt": text, "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0,
            "stream_options": {"include_usage": True}}
    for seconds, event in events(cluster, "/v1/completions", body):
        if event.get("choices"):
            times.append(seconds)
        if event.get("usage"):
            prompt_tokens, tokens = event["usage"]["prompt_tokens"], event["usage"]["completion_tokens"]
    return prompt_tokens, tokens, times


def measure_prompts(arguments, result):
    rng = random.Random(arguments.seed)
    for key in ("ttft_s", "tpot_ms", "ttft_floor_share_min"):
        result.pop(key, None)
    flags = ["--device", "cuda", "--load-format", "dummy", "--enable-prefix-caching", "false", *arguments.flags]
    begin = time.monotonic()
    with Cluster(arguments.build / "bin", arguments.model, *flags) as cluster:
        result["start_s"] = round(time.monotonic() - begin, 1)
        sample, _, _ = ask(cluster, random_text(rng, 2000), 1)
        per_word = sample / 2000
        _, tokens, times = ask(cluster, random_text(rng, 500), 256)
        result["tpot_ms_short"] = round((times[-1] - times[0]) / (tokens - 1) * 1e3, 3)
        print(json.dumps({"tpot_ms_short": result["tpot_ms_short"], "start_s": result["start_s"]}), flush=True)
        for length in arguments.lengths:
            tokens, generated, times = ask(cluster, random_text(rng, int(length / per_word)), 33)
            tpot = (times[-1] - times[0]) / max(1, generated - 1) * 1e3
            floor = floor_seconds(result, tokens) if "gemm_tflops" in result else None
            line = {"part": "ttft", "prompt_tokens": tokens, "ttft_s": round(times[0], 3), "tpot_ms": round(tpot, 3),
                    "floor_s": floor and round(floor, 3), "floor_share": floor and round(floor / times[0], 3),
                    "card": card()}
            print(json.dumps(line), flush=True)
            result["samples"].append(line)
            result.setdefault("ttft_s", {})[str(length)] = line["ttft_s"]
            result.setdefault("tpot_ms", {})[str(length)] = line["tpot_ms"]
            if floor:
                result["ttft_floor_share_min"] = min(result.get("ttft_floor_share_min", 9), line["floor_share"])
        if max(arguments.lengths, default=0) >= 1_000_000:
            result["tpot_ms_1m"] = result["tpot_ms"][str(max(arguments.lengths))]


def measure_pass_keys(arguments, result):
    lines = json_lines([sys.executable, SOURCE / "tests/bench/pass_key_bench.py", "--bin", arguments.build / "bin",
                        "--model", SOURCE / "models/demo", "--tokens", "16384", "65536", "262144", "1048500",
                        "--prompts", str(arguments.prompts), "--", "--device", "cuda", "--max-num-batched-tokens", "8192"])
    result["samples"].append({"part": "pass_keys", "lines": lines})
    result["passkey_accuracy"] = {f"{line['pass_key_tokens']} {line['temperature']}": line["right"] / line["of"]
                                  for line in lines}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--lengths", type=int, nargs="*", default=[32_768, 131_072, 262_144, 524_288])
    parser.add_argument("--prompts", type=int, default=3, help="pass keys of each length and rule")
    parser.add_argument("--skip", default="", help="parts, separated by commas")
    parser.add_argument("--commit", help="that the programs were built from; asked of git otherwise")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("flags", nargs="*", help="of longhaul serve")
    arguments = parser.parse_args()
    # What an earlier run wrote, and this one does not measure, stays.
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    commit = arguments.commit or subprocess.run(["git", "-C", SOURCE, "rev-parse", "HEAD"], capture_output=True,
                                                text=True).stdout.strip()
    result.setdefault("samples", [])
    result.setdefault("runs", []).append({"argv": sys.argv[1:], "commit": commit or "unknown", "card": card()})
    parts = {"kernels": lambda: measure_kernels(arguments.build, result),
             "pass_keys": lambda: measure_pass_keys(arguments, result),
             "prompts": lambda: measure_prompts(arguments, result) if arguments.model else None}
    for name, measure in parts.items():
        if name not in arguments.skip.split(","):
            measure()
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key not in ("samples", "runs")}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
