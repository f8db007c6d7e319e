"""What a soak asks for: requests of all sizes, and what becomes of the clients that send them."""

import dataclasses
import math
import random

VOCABULARY = 2040  # the demo's ordinary tokens
SENTENCE = "Some special information hidden within the following documentation. "
SENTENCE_TOKENS = 12
NUM_DOCUMENTS = 2  # that prompts begin with
NUM_PROBES = 8     # prompts that come again and again, whose answers have to be the same

# What the client does, and how often. Only REST can half-close or reset.
FATES = {"stays": 56, "leaves": 14, "half-closes": 6, "resets": 8, "expires": 16}


@dataclasses.dataclass(frozen=True)
class Request:
    api: str               # rest | grpc
    stream: bool           # REST; gRPC always streams
    fate: str              # of FATES
    seconds: float         # after which the client leaves, half-closes or resets; or its deadline
    prompt: str | list     # a chat's message, or token ids
    max_tokens: int
    priority: int
    probe: int | None      # its number


class Mix:
    """Draws requests. The same `seed` draws the same; nothing else is random."""

    def __init__(self, seed, max_prompt_tokens):
        rng = random.Random(seed)
        self._seed = seed
        self._max_prompt_tokens = max_prompt_tokens
        self._documents = [_ids(rng, max_prompt_tokens) for _ in range(NUM_DOCUMENTS)]
        self._probes = [_ids(rng, round(_log_uniform(rng, 1, max_prompt_tokens // 2)))
                        for _ in range(NUM_PROBES)]

    def half(self, number, size):
        """`size` requests. Every half has the same lengths and fates, its own order, and its own
        texts behind the common documents and probes."""
        shapes = random.Random(f"{self._seed} shapes")
        texts = random.Random(f"{self._seed} texts {number}")
        requests = [self._request(shapes, texts) for _ in range(size)]
        texts.shuffle(requests)
        return requests

    def _request(self, shapes, texts):
        fate = shapes.choices(list(FATES), FATES.values())[0]
        api = "rest" if fate in ("half-closes", "resets") else shapes.choice(("rest", "grpc"))
        tokens = round(_log_uniform(shapes, 1, self._max_prompt_tokens))
        kind = shapes.choices(("own", "document", "probe", "chat"), (35, 35, 10, 20))[0]
        stream, seconds = shapes.random() < 0.5, _log_uniform(shapes, 0.005, 5)
        document, shared = shapes.randrange(NUM_DOCUMENTS), round(shapes.random() * tokens)
        # Long answers outgrow the KV blocks that their prompts took: others are preempted.
        output = round(_log_uniform(shapes, *((16, 400) if shapes.random() < 0.1 else (1, 16))))
        probe = shapes.randrange(NUM_PROBES) if kind == "probe" else None
        if kind == "chat":
            prompt = f"{texts.random()} " + SENTENCE * (tokens // SENTENCE_TOKENS)
        elif kind == "probe":
            prompt = self._probes[probe]
        elif kind == "document":
            prompt = self._documents[document][:shared] + _ids(texts, tokens - shared)
        else:
            prompt = _ids(texts, tokens)
        return Request(api=api, stream=stream, fate=fate, seconds=seconds, prompt=prompt,
                       max_tokens=8 if probe is not None else output,
                       priority=shapes.choice((-5, 0, 0, 0, 5)), probe=probe)


def _log_uniform(rng, low, high):
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _ids(rng, count):
    return rng.choices(range(VOCABULARY), k=count)
