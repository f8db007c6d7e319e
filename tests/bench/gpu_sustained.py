#!/usr/bin/env python3
"""What a GPU keeps up: bf16 products and our prefill attention in a loop, with clocks and power beside them.

    gpu_sustained.py --bench build/release/bench/attention_bench [--seconds 20] [--only gemm|attention]

gemm: the four products of a layer of the 7B at 32,768 rows, one after another, by cuBLAS (PyTorch). attention: a case
of attention_bench, ours. Each runs for --seconds without a pause; rates are those of its second half, when clocks have
fallen to what the card's power allows, beside those of its first second. Prints a JSON line each, with the share that
attention has of the products' rate. Status 2 if something is missing.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

from gpu_samples import GpuSamples

ROWS = 32_768
PRODUCTS = {"qkv": (4608, 3584), "o": (3584, 3584), "gate_up": (37888, 3584), "down": (3584, 18944)}  # N, K
LAYERS_AHEAD = 8  # enqueued before the first of them is waited for


def rates(times, flops, seconds):
    """TFLOP/s of the first second and of the second half. `times` of a call: (its end, seconds from the begin; ms)."""
    def rate(calls):
        return round(flops * len(calls) / sum(ms for _, ms in calls) * 1e-9, 1) if calls else None

    return {"tflops_first_second": rate([call for call in times if call[0] <= 1.0]),
            "tflops": rate([call for call in times if call[0] > seconds / 2])}


def measure_gemm(seconds):
    try:
        import torch
    except ImportError as error:
        raise SystemExit(f"products are measured through PyTorch: {error}") from error
    if not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no CUDA device")
    torch.manual_seed(1)
    products = {}
    for name, (n, k) in PRODUCTS.items():
        weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * 0.02
        x = torch.randn(ROWS, k, device="cuda", dtype=torch.bfloat16)
        products[name] = (x, weight.t(), torch.empty(ROWS, n, device="cuda", dtype=torch.bfloat16))
    for x, weight, out in products.values():
        torch.mm(x, weight, out=out)
    torch.cuda.synchronize()
    times = {name: [] for name in PRODUCTS}
    waiting = []
    begin = time.monotonic()

    def take():
        events = waiting.pop(0)
        events[-1].synchronize()
        now = time.monotonic() - begin
        for name, first, last in zip(PRODUCTS, events, events[1:]):
            times[name].append((now, first.elapsed_time(last)))

    while time.monotonic() - begin < seconds:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(len(PRODUCTS) + 1)]
        events[0].record()
        for (x, weight, out), event in zip(products.values(), events[1:]):
            torch.mm(x, weight, out=out)
            event.record()
        waiting.append(events)
        if len(waiting) >= LAYERS_AHEAD:
            take()
    while waiting:
        take()
    by_product = {name: rates(times[name], 2 * ROWS * n * k, seconds) for name, (n, k) in PRODUCTS.items()}
    layer = [(calls[0][0], sum(ms for _, ms in calls)) for calls in zip(*times.values())]
    return {"op": "gemm_sustained", "case": f"a layer of the 7B, {ROWS} rows", "seconds": seconds,
            **rates(layer, 2 * ROWS * sum(n * k for n, k in PRODUCTS.values()), seconds),
            "products": {name: rate["tflops"] for name, rate in by_product.items()}}


def measure_attention(bench, seconds):
    try:
        done = subprocess.run([bench, "--sustained", str(seconds)], capture_output=True, text=True,
                              timeout=seconds + 120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemExit(f"{bench}: {error}") from error
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or len(lines) != 1:
        raise SystemExit(f"{bench}: status {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return lines[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=pathlib.Path, required=True, help="attention_bench")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--only", choices=["gemm", "attention"])
    arguments = parser.parse_args()
    if arguments.seconds < 2:
        parser.error("--seconds is at least 2")
    parts = {"gemm": lambda: measure_gemm(arguments.seconds),
             "attention": lambda: measure_attention(arguments.bench, arguments.seconds)}
    ceiling = None
    with GpuSamples() as gpu:
        for name, measure in parts.items():
            if arguments.only not in (None, name):
                continue
            line = measure()
            end = time.monotonic()
            line["gpu"] = gpu.summary(end - arguments.seconds / 2, end)
            if name == "gemm":
                ceiling = line["tflops"]
            elif ceiling:
                line["share_of_gemm"] = round(line["tflops"] / ceiling, 3)
            print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SystemExit as failure:
        if isinstance(failure.code, str):
            print(failure.code, file=sys.stderr)
            sys.exit(2)
        raise
