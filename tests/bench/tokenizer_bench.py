#!/usr/bin/env python3
"""Our tokenizer beside Hugging Face's, on one core each and in turns, so that a busy machine slows both.

    tokenizer_bench.py --bench build/release/bench/tokenizer_bench --model ../shared/models/qwen2.5-tokenizer

Needs a Python with tokenizers (tests/data/requirements.txt). Texts: tokenizer_texts.py, 5 MB each. Prints
Markdown: median seconds of CPU time (lowest to highest) and the ratio of the medians; stops with an error where
the two give other ids. --skip-peer measures ours only (the worst texts take Hugging Face long), --texts takes
part of the names. --search N looks for texts worse than these: N random ones of 60 KB, then the slowest five of
them at full size.
"""

import argparse
import array
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

from tokenizers import Tokenizer  # noqa: E402  reads the variables above

import tokenizer_texts  # noqa: E402


class Ours:
    def __init__(self, bench, model, folder):
        self._process = subprocess.Popen([bench, model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ids_file = folder / "ids"
        assert self._process.stdout.readline() == "ready\n"

    def encode(self, text_file):
        self._process.stdin.write(f"{text_file} {self._ids_file}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        ids = array.array("i")
        ids.frombytes(self._ids_file.read_bytes())
        return answer["cpu_seconds"], ids

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=10)


def encode_by_peer(tokenizer, text):
    # Its quickest way: unlike encode() it does not compute each token's place in the text.
    begin = time.process_time()
    ids = tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
    return time.process_time() - begin, array.array("i", ids)


def search(ours, tokenizer, arguments, folder):
    rng = random.Random(arguments.seed)
    vocabulary = [tokenizer.decode([i]) for i in range(tokenizer.get_vocab_size())]
    tokens = [token for token in vocabulary if token and "\ufffd" not in token]
    text_file = folder / "text"
    slowest = []
    for _ in range(arguments.search):
        state = rng.getstate()
        text_file.write_bytes(tokenizer_texts.random_hostile(60_000, tokens, rng).encode())
        slowest.append((ours.encode(text_file)[0], state))
        slowest = sorted(slowest, key=lambda found: -found[0])[:5]
    for _, state in slowest:
        rng.setstate(state)
        text = tokenizer_texts.random_hostile(60_000, tokens, rng)
        text = text * (arguments.bytes // len(text.encode()))
        text_file.write_bytes(text.encode())
        seconds = [ours.encode(text_file)[0] for _ in range(arguments.rounds)]
        print(f"{shown(seconds)} s for {json.dumps(text[:40])}...", flush=True)


def shown(seconds):
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--bytes", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", nargs="*", help="names of tokenizer_texts.py; default: all")
    parser.add_argument("--skip-peer", action="store_true")
    parser.add_argument("--search", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    names = arguments.texts or [*tokenizer_texts.ORDINARY, *tokenizer_texts.WORST]
    peer = Tokenizer.from_file(str(Path(arguments.model) / "tokenizer.json"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = Ours(arguments.bench, arguments.model, folder)
        if arguments.search:
            search(ours, peer, arguments, folder)
            ours.close()
            return
        print("| text | tokens | Longhaul, s | Hugging Face, s | Hugging Face / Longhaul |\n|---|---|---|---|---|")
        for text_name in names:
            text = tokenizer_texts.make(text_name, arguments.bytes, peer)
            text_file = folder / "text"
            text_file.write_bytes(text.encode())
            our_seconds, peer_seconds = [], []
            for _ in range(arguments.rounds):
                seconds, our_ids = ours.encode(text_file)
                our_seconds.append(seconds)
                if arguments.skip_peer:
                    continue
                seconds, peer_ids = encode_by_peer(peer, text)
                peer_seconds.append(seconds)
                if our_ids != peer_ids:
                    sys.exit(f"{text_name}: other ids than Hugging Face's")
            peer_shown, ratio = "-", "-"
            if peer_seconds:
                peer_shown = shown(peer_seconds)
                ratio = f"{statistics.median(peer_seconds) / statistics.median(our_seconds):.0f}"
            print(
                f"| {text_name} | {len(our_ids):,} | {shown(our_seconds)} | {peer_shown} | {ratio} |", flush=True
            )
        ours.close()


if __name__ == "__main__":
    main()
