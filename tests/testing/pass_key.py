"""Pass-key prompts: a five-digit key hidden in filler text, and the question for it.

`announcement()` is the prompt of the Qwen2.5-1M announcement. `build()` makes a prompt of a wanted
number of tokens with the key at a wanted depth. Texts are the user's message; token counts are
those of models/demo, its chat template and default system message included. Needs no packages.
"""

import dataclasses
import random

INTRO = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there.\n\n"
)
NEEDLE = "The pass key is {key}. Remember it. {key} is the pass key.\n"
FILLER = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
)
QUESTION = "\nWhat is the pass key?"
ANSWER = "The pass key is {key}."

# The filler's tokens in models/demo: every word and every full stop is one.
_FILLER_TOKENS = FILLER.replace(".", " .").split()
# Tokens of everything that is not filler: template, intro, needle, question.
_FIXED_TOKENS = 110

MIN_TOKENS = _FIXED_TOKENS + len(_FILLER_TOKENS)


@dataclasses.dataclass(frozen=True)
class PassKeyPrompt:
    """A prompt and what a model that retrieves it must say."""

    text: str
    key: str
    answer: str


def announcement(key: str = "28884", repeats: int = 800, depth: float = 0.0) -> PassKeyPrompt:
    """`repeats` times the filler, the key after the share `depth` of them (0: before all)."""
    before = round(repeats * depth)
    return _assemble(key, FILLER * before, FILLER * (repeats - before))


def build(tokens: int, depth: float, key: str | None = None, seed: int = 0) -> PassKeyPrompt:
    """A prompt of exactly `tokens` tokens (>= MIN_TOKENS), the key at `depth` (0 to 1).

    Without `key`, one is drawn from `seed`, tokens and depth, so that prompts differ in their keys.
    """
    if tokens < MIN_TOKENS or not 0 <= depth <= 1:
        raise ValueError(
            f"{tokens} tokens at depth {depth}: at least {MIN_TOKENS} at 0 to 1 are needed"
        )
    key = key or f"{random.Random(f'{seed} {tokens} {depth}').randrange(100_000):05d}"
    num_units = tokens - _FIXED_TOKENS
    num_units -= _unit(num_units - 1) == "."
    # The needle stands between two whole repeats; the last, possibly a part of one, follows it.
    repeats = (num_units - 1) // len(_FILLER_TOKENS)
    before = round(repeats * depth)
    after = num_units - before * len(_FILLER_TOKENS)
    text = " ".join(_unit(i) for i in range(after)).replace(" .", ".")
    # A full stop and the question's line break are one token: the text then ends with the word
    # before it and a space, which count the same.
    ends_early = num_units < tokens - _FIXED_TOKENS
    return _assemble(key, FILLER * before, text + (" " if ends_early else ""))


def _unit(index: int) -> str:
    return _FILLER_TOKENS[index % len(_FILLER_TOKENS)]


def _assemble(key: str, before: str, after: str) -> PassKeyPrompt:
    text = INTRO + before + NEEDLE.format(key=key) + after + QUESTION
    return PassKeyPrompt(text=text, key=key, answer=ANSWER.format(key=key))
