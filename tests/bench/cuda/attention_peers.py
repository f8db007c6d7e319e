#!/usr/bin/env python3
"""The cases of attention_bench by PyTorch's cuDNN and FlashAttention-2 backends, on the same card.

    attention_peers.py        prints a JSON line a case and backend; needs PyTorch with CUDA

28 query heads and 4 KV heads of 128, bf16. Where queries stand behind a history (32768 x 131072) a peer attends to
all keys, without a mask: its rate counts what it computes. Peers that take no grouped heads get K and V repeated
outside the time.
"""
import json
import statistics

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

HEADS, KV_HEADS, HEAD_DIM = 28, 4, 128
CASES = [("causal 8192", 8192, 8192, True), ("causal 32768", 32768, 32768, True),
         ("causal 131072", 131072, 131072, True), ("32768 x 131072", 32768, 131072, False),
         ("32768 x 1048576", 32768, 1 << 20, False), ("1 x 1048576", 1, 1 << 20, False)]
REPEATS = 5


def timed(call):
    call()
    torch.cuda.synchronize()
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def measure(name, rows, keys, causal, backend_name, backend):
    q = torch.randn(1, HEADS, rows, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(1, KV_HEADS, keys, HEAD_DIM, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    with sdpa_kernel(backend):
        try:
            ms = timed(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True))
        except RuntimeError as error:
            print(json.dumps({"peer": backend_name, "case": name, "error": str(error).split("\n")[0][:120]}))
            return
    pairs = rows * (rows + 1) / 2 if causal else rows * keys
    print(json.dumps({"peer": backend_name, "case": name, "ms": round(ms, 4),
                      "tflops": round(4 * HEAD_DIM * HEADS * pairs / ms * 1e-9, 1),
                      "tb_per_s": round(keys * KV_HEADS * HEAD_DIM * 4 / ms * 1e-9, 3)}), flush=True)


def main():
    for case in CASES:
        measure(*case, "cudnn", SDPBackend.CUDNN_ATTENTION)
    for case in CASES:
        if case[0] != "32768 x 1048576":  # seconds a run
            measure(*case, "flash_attention_2", SDPBackend.FLASH_ATTENTION)


if __name__ == "__main__":
    main()
