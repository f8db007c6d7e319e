"""Writes golden_logits.safetensors: the demo model as Hugging Face transformers computes it.

Hugging Face runs in fp32 on the CPU with its eager attention and plain RoPE. All sequences stay
within original_max (4,096) tokens, where Dual Chunk Attention has exactly RoPE's distances and no
temperature, so it is an oracle for both.

golden_logits.safetensors (N = 50 prompts, V = 2,048, S = 64 steps)
    kinds           I32 [N]         0 pass-key prompt in the chat template, 1 random text,
                                    2 random token ids
    offsets         I32 [N + 1]     prompt i is prompt_ids[offsets[i] : offsets[i + 1]]
    prompt_ids      I32 [total]     prompts of 1 to 4,000 tokens, lengths log-uniform
    greedy_ids      I32 [N, S]      greedy continuation; end-of-sequence tokens are chosen and fed
                                    like any other
    logit_steps     I32 [4]         steps whose logits are stored; step j chooses greedy_ids[:, j],
                                    so step 0 is computed from the last prompt token and step j
                                    from greedy_ids[:, j - 1]
    logits          F32 [N, 4, V]   those rows
    margins         F32 [N]         smallest difference of the two largest logits over the S steps
golden_logits.json: kind, length, text and continuation of each prompt for a human reader; no test
reads it.

Bounds: max abs difference of logits <= 2e-3 and the same greedy tokens. A prompt with a margin
below 2 * 2e-3 would allow two right continuations under that bound; it is replaced by the next
candidate of the same kind and length, and the JSON file says how many were.

Needs the packages of tests/data/requirements.txt and about ten minutes on two cores.
"""

import argparse
import json
import math
import pathlib
import random
import sys

import numpy as np
import torch
import transformers

import tensor_file

_FOLDER = pathlib.Path(__file__).resolve().parent
_ROOT = _FOLDER.parent.parent
_MODEL = _ROOT / "models" / "demo"

sys.path.insert(0, str(_ROOT / "tests" / "testing"))

import pass_key  # noqa: E402  (found through the line above)

_KINDS = ("pass key", "random text", "random ids")
_NUM_PROMPTS = 50
_LENGTHS = (1, 4000)
_STEPS = 64
_LOGIT_STEPS = (0, 1, 31, 63)
_MIN_MARGIN = 4e-3
_ORDINARY_TOKENS = 2040


def random_text(rng: random.Random, words: list[str], num_pieces: int) -> str:
    """Words, numbers, punctuation and a few non-ASCII characters."""
    pieces = []
    while len(pieces) < num_pieces:
        draw = rng.random()
        if draw < 0.75:
            word = rng.choice(words)
            pieces.append(
                rng.choice(("", " ", " ", " ")) + (word.capitalize() if draw < 0.1 else word)
            )
        elif draw < 0.85:
            pieces.append(rng.choice(("", " ")) + str(rng.randrange(10 ** rng.randrange(1, 7))))
        elif draw < 0.97:
            pieces.append(
                rng.choice((".", ",", "?\n", ":\n\n", " -", "  ", " (", ")", "'s", "\t", " == "))
            )
        else:
            pieces.append(rng.choice((" é", "ß", " 中文", "日本", " Ω", "🙂", " naïve", "e\u0301")))
    return "".join(pieces)


def make_prompt(
    kind: int, length: int, rng: random.Random, tokenizer, words: list[str]
) -> list[int]:
    """A prompt of exactly `length` tokens."""
    if kind == 0:
        prompt = pass_key.build(length, depth=rng.random(), key=f"{rng.randrange(100_000):05d}")
        messages = [{"role": "user", "content": prompt.text}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    elif kind == 1:
        # A token holds at most one piece, so this many pieces are enough tokens.
        text = random_text(rng, words, length + 16)
        ids = tokenizer.encode(text, add_special_tokens=False)[:length]
    else:
        ids = [rng.randrange(_ORDINARY_TOKENS) for _ in range(length)]
    if len(ids) != length:
        raise ValueError(
            f"a prompt of kind {_KINDS[kind]} has {len(ids)} tokens, wanted were {length}"
        )
    return ids


@torch.no_grad()
def continue_greedily(model, prompt: list[int]) -> tuple[list[int], np.ndarray]:
    """Greedy tokens [S] and the logits they were chosen from, [S, V] fp32."""
    output = model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
    tokens, rows = [], []
    while True:
        rows.append(output.logits[0, -1].numpy().copy())
        tokens.append(int(rows[-1].argmax()))
        if len(tokens) == _STEPS:
            return tokens, np.stack(rows)
        output = model(
            torch.tensor([tokens[-1:]]), past_key_values=output.past_key_values, use_cache=True
        )


def smallest_margin(rows: np.ndarray) -> float:
    top = np.partition(rows, -2, axis=1)[:, -2:]
    return float((top[:, 1] - top[:, 0]).min())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=_FOLDER, help="folder to write to")
    parser.add_argument("--seed", type=int, default=20250127)
    parser.add_argument("--prompts", type=int, default=_NUM_PROMPTS)
    args = parser.parse_args()

    tokenizer = transformers.AutoTokenizer.from_pretrained(_MODEL)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        _MODEL, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    words = (_MODEL / "words.txt").read_text().split()
    rng = random.Random(args.seed)

    prompts, tokens, logits, margins, kinds, replaced, described = [], [], [], [], [], 0, []
    for index in range(args.prompts):
        length = round(math.exp(rng.uniform(math.log(_LENGTHS[0]), math.log(_LENGTHS[1]))))
        # The ends of the range are always there.
        length = _LENGTHS[index] if index < 2 else length
        kind = index % len(_KINDS)
        if kind == 0 and length < pass_key.MIN_TOKENS:
            kind = 1 + index % 2
        while True:
            prompt = make_prompt(kind, length, rng, tokenizer, words)
            continuation, rows = continue_greedily(model, prompt)
            margin = smallest_margin(rows)
            if margin >= _MIN_MARGIN:
                break
            replaced += 1
        prompts.append(prompt)
        tokens.append(continuation)
        logits.append(rows[list(_LOGIT_STEPS)])
        margins.append(margin)
        kinds.append(kind)
        text = tokenizer.decode(prompt)
        described.append(
            {
                "kind": _KINDS[kind],
                "tokens": length,
                "prompt": text if len(text) <= 160 else f"{text[:80]} ... {text[-80:]}",
                "continuation": tokenizer.decode(continuation),
                "margin": round(margin, 4),
            }
        )
        print(f"{index}: {_KINDS[kind]}, {length} tokens, margin {margin:.4f}", flush=True)

    size = tensor_file.save(
        args.out / "golden_logits.safetensors",
        {
            "kinds": np.array(kinds, np.int32),
            "offsets": np.cumsum([0] + [len(prompt) for prompt in prompts]).astype(np.int32),
            "prompt_ids": np.concatenate(prompts).astype(np.int32),
            "greedy_ids": np.array(tokens, np.int32),
            "logit_steps": np.array(_LOGIT_STEPS, np.int32),
            "logits": np.stack(logits).astype(np.float32),
            "margins": np.array(margins, np.float32),
        },
    )
    torch_version = torch.__version__.split("+")[0]
    summary = {
        "made by": f"transformers {transformers.__version__}, torch {torch_version}, fp32, CPU",
        "seed": args.seed,
        "candidates replaced for their margin": replaced,
        "prompts": described,
    }
    (args.out / "golden_logits.json").write_text(
        json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    )
    print(f"{size} bytes, {replaced} candidates replaced")


if __name__ == "__main__":
    main()
