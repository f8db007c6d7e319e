#!/usr/bin/env python3
"""Prompts for measurements with dummy weights (--load-format dummy): a completion request as JSON, on standard output.

    dummy_prompt.py --model DIR --tokens N [--seed S] [--max-tokens N]

Token ids are random, from a fixed seed: no filler is repeated, so no two places of a prompt look alike, and nothing is
found in a prefix cache that was not there. The first 30 are sinks, which draw attention from everywhere, as the first
tokens of real prompts do; further ones are where chance puts them, 0.5%. DIR holds config.json and, to tell ordinary
tokens from special ones, tokenizer.json. Needs no packages.
"""

import argparse
import json
import pathlib
import random

SINK_PERIOD = 200  # kDummySinkPeriod of worker/model/dummy_weights.h
SINK_POSITIONS = 30


def ordinary_tokens(model):
    """How many ids there are, from 0 on, that are no special tokens."""
    size = json.loads((model / "config.json").read_text())["vocab_size"]
    tokenizer = model / "tokenizer.json"
    if tokenizer.exists():
        special = [token["id"] for token in json.loads(tokenizer.read_text()).get("added_tokens", [])]
        size = min([size, *special])
    return size


def dummy_prompt(vocabulary, tokens, seed=1):
    """A list of ids below `vocabulary`; the same for the same arguments, and for a prefix of it."""
    rng = random.Random(seed)
    sinks = range(0, vocabulary, SINK_PERIOD)
    ids = rng.choices(sinks, k=SINK_POSITIONS)
    return ids[:tokens] + rng.choices(range(vocabulary), k=max(0, tokens - SINK_POSITIONS))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=1)
    arguments = parser.parse_args()
    prompt = dummy_prompt(ordinary_tokens(arguments.model), arguments.tokens, arguments.seed)
    print(json.dumps({"prompt": prompt, "max_tokens": arguments.max_tokens, "ignore_eos": True, "temperature": 0}))


if __name__ == "__main__":
    main()
