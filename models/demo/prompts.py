"""Retrieval prompts for training and measuring the demo model, and their tokenizer.

A prompt hides one pass key or one to four named magic numbers in filler, and asks for one of them.
Prompts are built of token ids, not of text, so that any length can be met; the filler is a repeated
sentence or English documentation text.
"""

import ast
import dataclasses
import glob
import pathlib
import sysconfig

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
PASS_INTRO = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there.\n\n"
)
NUMBER_INTRO = (
    "Some special magic numbers are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the numbers afterwards.\n"
)
GRASS = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Learned tokens of the vocabulary; the three special ones follow.
_LEARNED_TOKENS = 2040
# Qwen2.5's: single digits, words with at most one leading mark, runs of marks, runs of space.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def documentation_text() -> list[str]:
    """English text found on any machine: Python's docstrings and Debian's licences."""
    texts = []
    for path in sorted(glob.glob(sysconfig.get_paths()["stdlib"] + "/*.py"))[:400]:
        try:
            tree = ast.parse(pathlib.Path(path).read_text(encoding="utf8"))
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                docstring = ast.get_docstring(node)
                if docstring and len(docstring) > 80:
                    texts.append(docstring)
    for path in sorted(glob.glob("/usr/share/common-licenses/*")):
        try:
            texts.append(pathlib.Path(path).read_text(encoding="utf8"))
        except (OSError, UnicodeDecodeError):
            continue
    return texts


def train_tokenizer(texts: list[str], words: list[str]) -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer that gives the prompts' own sentences few tokens."""
    number_needles = [
        f"One of the special magic numbers for {a}-{b} is: 1234567."
        for a, b in zip(words, reversed(words))
    ]
    corpus = texts + [PASS_INTRO + GRASS * 2, NUMBER_INTRO] * 50 + number_needles * 3
    corpus += [f"{TURN_START}system\n{SYSTEM}"] * 20
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=_LEARNED_TOKENS, initial_alphabet=alphabet, show_progress=False
        ),
    )
    if tokenizer.get_vocab_size() != _LEARNED_TOKENS:
        raise ValueError(
            f"the text gives {tokenizer.get_vocab_size()} tokens, {_LEARNED_TOKENS} are needed"
        )
    tokenizer.add_special_tokens(
        [
            tokenizers.AddedToken(t, special=True, normalized=False)
            for t in (END_OF_TEXT, TURN_START, TURN_END)
        ]
    )
    return tokenizer


@dataclasses.dataclass(frozen=True)
class Sample:
    """A prompt up to the assistant's turn, and that turn with its end; token ids, int32."""

    prompt: np.ndarray
    answer: np.ndarray


class PromptMaker:
    """Draws samples. Reads nothing after construction, so forked processes may share one."""

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, texts: list[str], words: list[str], seed: int
    ):
        self._tokenizer = tokenizer
        self._words = words
        shuffled = [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]
        self._bank = self._encode("\n\n".join(shuffled))
        self._grass = self._encode(GRASS)
        self._head = self._encode(f"{TURN_START}system\n{SYSTEM}{TURN_END}\n{TURN_START}user\n")
        self._tail = self._encode(f"{TURN_END}\n{TURN_START}assistant\n")
        self._intros = {"pass": self._encode(PASS_INTRO), "numbers": self._encode(NUMBER_INTRO)}
        self._end = np.array([tokenizer.token_to_id(TURN_END)], np.int32)

    def sample(self, length, rng, kind=None, num_needles=None, depth=None, grass=None) -> Sample:
        """A sample of `length` tokens, its answer included (more if the fixed parts need more).

        kind: "pass" or "numbers"; num_needles: 1 to 4 magic numbers; depth: share of the filler
        before the needle asked for, 0 to 1; grass: whether the filler is the repeated sentence.
        What is None is drawn from `rng`.
        """
        kind = kind or ("pass" if rng.random() < 0.4 else "numbers")
        if kind == "pass":
            needles, question, answer = self._pass_key(rng)
        else:
            needles, question, answer = self._magic_numbers(
                rng, num_needles or int(rng.integers(1, 5))
            )
        intro = self._intros[kind]
        parts = [self._head, intro, *needles, question, self._tail, answer]
        filler = self._filler(max(0, length - sum(map(len, parts)) - 1), rng, grass)

        shares = rng.random(len(needles))
        order = list(range(len(needles)))
        if depth is not None:
            shares[0] = depth
            order = list(np.argsort(shares, kind="stable"))
        else:
            rng.shuffle(order)
        prompt, begin = [self._head, intro], 0
        for cut, index in zip(sorted(int(share * len(filler)) for share in shares), order):
            prompt += [filler[begin:cut], needles[index]]
            begin = cut
        prompt += [filler[begin:], question, self._tail]
        return Sample(np.concatenate(prompt), np.concatenate([answer, self._end]))

    def _encode(self, text: str) -> np.ndarray:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def _pass_key(self, rng):
        key = _digits(rng, 5)
        needle = self._encode(f"The pass key is {key}. Remember it. {key} is the pass key.\n")
        return (
            [needle],
            self._encode("\nWhat is the pass key?"),
            self._encode(f"The pass key is {key}."),
        )

    def _magic_numbers(self, rng, num_needles: int):
        numbers = {}
        while len(numbers) < num_needles:
            first, second = (self._words[rng.integers(len(self._words))] for _ in range(2))
            numbers[f"{first}-{second}"] = _digits(rng, 7)
        needles = [
            self._encode(f" One of the special magic numbers for {name} is: {number}.")
            for name, number in numbers.items()
        ]
        name, number = next(iter(numbers.items()))
        asked = f"the special magic number for {name} mentioned in the provided text"
        return (
            needles,
            self._encode(f"\nWhat is {asked}?"),
            self._encode(f"The{asked[3:]} is {number}."),
        )

    def _filler(self, length: int, rng, grass) -> np.ndarray:
        if grass or (grass is None and rng.random() < 0.4):
            shift = 0 if grass or rng.random() < 0.7 else int(rng.integers(len(self._grass)))
            return np.resize(np.roll(self._grass, -shift), length)
        pieces, left = [np.zeros(0, np.int32)], length
        while left > 0:
            begin = int(rng.integers(len(self._bank) - 64))
            pieces.append(self._bank[begin : begin + min(left, int(rng.integers(64, 2048)))])
            left -= len(pieces[-1])
        return np.concatenate(pieces)


def _digits(rng, count: int) -> str:
    return "".join(map(str, rng.integers(0, 10, count)))
