#!/usr/bin/env python3
"""Rates of the two things a prefill does on a GPU, by the rows of its chunk, as JSON.

bf16 products of a layer (cuBLAS through PyTorch) and attention of a chunk over its history (cuDNN
through PyTorch), for the shapes of Qwen2.5-7B and 14B, on random data. The card is kept busy
throughout, so that clocks and power are those of sustained work; every figure is the median of
three timings of at least --seconds together. The rates by rows in
common/planning/gpus/ come from here.

Needs PyTorch with CUDA and a card of at least 24 GB.
"""

import argparse
import json
import statistics
import subprocess

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

MODELS = {
    "7b": {"hidden": 3584, "intermediate": 18944, "heads": 28, "kv_heads": 4},
    "14b": {"hidden": 5120, "intermediate": 13824, "heads": 40, "kv_heads": 8},
}
HEAD_DIM = 128
GEMM_ROWS = [1, 64, 256, 512, 1024, 1536, 2048, 2560, 3072, 4096, 5120, 6144, 8192, 16384, 32768]
ATTENTION_ROWS = [256, 512, 1024, 1536, 2048, 2560, 3072, 4096, 5120, 6144, 8192, 16384, 32768]
CONTEXTS = [4096, 16384, 131072, 524288, 1048576]
SPLIT_ROWS = [256, 512, 1024, 1792, 2048, 2304, 2560, 3072, 4096, 6144]


def seconds_of(run, at_least):
    run()
    timings = []
    for _ in range(3):
        count = 1
        while True:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(count):
                run()
            end.record()
            end.synchronize()
            total = begin.elapsed_time(end) / 1e3
            if total >= at_least / 3:
                break
            count = max(count + 1, int(count * min(16, 1.2 * at_least / 3 / max(total, 1e-5))))
        timings.append(total / count)
    return statistics.median(timings)


def products_of(model):
    hidden, head_rows = model["hidden"], HEAD_DIM * (model["heads"] + 2 * model["kv_heads"])
    return {
        "qkv": (hidden, head_rows),
        "o": (HEAD_DIM * model["heads"], hidden),
        "gate_up": (hidden, 2 * model["intermediate"]),
        "down": (model["intermediate"], hidden),
    }


def measure_gemm(at_least):
    results = []
    for name, model in MODELS.items():
        for product, (inner, outer) in products_of(model).items():
            weight = torch.randn(outer, inner, device="cuda", dtype=torch.bfloat16) * 0.02
            for rows in GEMM_ROWS:
                x = torch.randn(rows, inner, device="cuda", dtype=torch.bfloat16)
                out = torch.empty(rows, outer, device="cuda", dtype=torch.bfloat16)
                seconds = seconds_of(lambda: torch.mm(x, weight.t(), out=out), at_least)
                results.append({"model": name, "product": product, "rows": rows,
                                "seconds": seconds,
                                "tflops": 2e-12 * rows * inner * outer / seconds})
    return results


def measure_attention(at_least):
    results = []
    for name, model in MODELS.items():
        heads, kv_heads = model["heads"], model["kv_heads"]
        k, v = (torch.randn(1, kv_heads, max(CONTEXTS), HEAD_DIM, device="cuda",
                            dtype=torch.bfloat16) for _ in range(2))
        for context in CONTEXTS:
            for rows in ATTENTION_ROWS:
                q = torch.randn(1, heads, rows, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
                for causal in (False, True):
                    if causal and context != rows:
                        continue
                    keys, values = k[:, :, :context], v[:, :, :context]

                    def run(q=q, keys=keys, values=values, causal=causal):
                        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                            torch.nn.functional.scaled_dot_product_attention(
                                q, keys, values, is_causal=causal, enable_gqa=True)

                    seconds = seconds_of(run, at_least)
                    flops = 4 * heads * HEAD_DIM * rows * context * (0.5 if causal else 1)
                    results.append({"model": name, "rows": rows, "keys": context,
                                    "causal": causal, "seconds": seconds,
                                    "tflops": flops / seconds / 1e12})
    return results


def measure_split_attention(at_least):
    """Attention whose keys are cut into ranges, each with a partial result: as a batch of ranges."""
    results = []
    for name, model in MODELS.items():
        heads, kv_heads = model["heads"], model["kv_heads"]
        k, v = (torch.randn(kv_heads, max(CONTEXTS), HEAD_DIM, device="cuda",
                            dtype=torch.bfloat16) for _ in range(2))
        for context in CONTEXTS[-2:]:
            for keys_of_range in (131072, 262144):
                ranges = context // keys_of_range
                keys, values = (t[:, :context].view(kv_heads, ranges, keys_of_range, HEAD_DIM)
                                .transpose(0, 1) for t in (k, v))
                for rows in SPLIT_ROWS:
                    q = torch.randn(1, heads, rows, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
                    q = q.expand(ranges, heads, rows, HEAD_DIM)

                    def run(q=q, keys=keys, values=values):
                        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                            torch.nn.functional.scaled_dot_product_attention(
                                q, keys, values, enable_gqa=True)

                    seconds = seconds_of(run, at_least)
                    flops = 4 * heads * HEAD_DIM * rows * context
                    results.append({"model": name, "rows": rows, "keys": context,
                                    "keys_of_range": keys_of_range, "seconds": seconds,
                                    "tflops": flops / seconds / 1e12})
    return results


def power_and_clocks():
    query = "clocks.sm,clocks.mem,power.draw,temperature.gpu,driver_version"
    return subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
                          capture_output=True, text=True, check=False).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.12, help="Least time of one figure.")
    parser.add_argument("--only", choices=["gemm", "attention", "split"], help="One part.")
    parser.add_argument("--out", required=True, help="File for the JSON.")
    arguments = parser.parse_args()
    torch.manual_seed(1)
    warm = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(2000):  # about 3 s
        warm @ warm
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__,
              "cudnn": torch.backends.cudnn.version(), "before": power_and_clocks()}
    for part, measure in (("gemm", measure_gemm), ("attention", measure_attention),
                          ("split", measure_split_attention)):
        if arguments.only in (None, part):
            result[part] = measure(arguments.seconds)
            result[f"after_{part}"] = power_and_clocks()
    with open(arguments.out, "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
