#!/usr/bin/env python3
"""Writes what Hugging Face makes of nasty texts and chats, for tests/unit/common/text to compare.

    make_tokenizer_cases.py MODEL_DIR OUTPUT.json

MODEL_DIR holds tokenizer.json and tokenizer_config.json. Needs the packages of requirements.txt: tokenizers
0.22.2 and transformers 4.57.6 gave the files.
"""

import json
import math
import random
import struct
import sys
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

SEED = 20250129
NUM_RANDOM_TEXTS = 220
NUM_ID_SEQUENCES = 400
NUM_RANDOM_CHATS = 60

FIXED_TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "a",
    "Hello, world!",
    "The pass key is 28884. Remember it. 28884 is the pass key.\n",
    "I'm sure they'LL say it'S what we'd've DONE, isn't it? 'tis 'Twas '\u017f",
    "don\u2019t  \u2018quote\u2019 \u201cthis\u201d \u2014 or\u2026",
    "1234567890 3.14159 1,000,000 \u00bd \u2167 \u0661\u0662\u0663 \U0001d7d9 \u3007",
    "   leading and trailing   ",
    "tabs\tand\t\tmore\t \t mixed \t",
    "line\nbreaks\r\nof\rall\n\n\nkinds \n \n\t\n  x",
    "\u00a0no\u00a0break\u2003em\u3000ideographic\u202fnarrow\u1680ogham\u2028line\u2029paragraph\x85nel",
    "\u180e mongolian \u200b zero \ufeff width",
    "\x00\x01\x02\x1b[31mred\x1b[0m\x7f\x80\x9f",
    "def f(x: int) -> int:\n    return x ** 2 if x >= 0 else -x  # comment\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i]; }\n\n#include <vector>\n",
    "https://example.org/a/b?c=d&e=%20f#g user@example.org",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u8fd9\u662f\u4e00\u4e2a\u6d4b\u8bd5\u3002",
    "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c \u30ab\u30bf\u30ab\u30ca \u304b\u3099 \u30cf\u309a",
    "\uc548\ub155\ud558\uc138\uc694 \u1112\u1161\u11ab\u1100\u1173\u11af \uac00\u11a7 \uac00\u11a8 \u1161 \u11a8",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u0644\u064e\u0651 \u0644\u0651\u064e",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd \u05e9\u05b8\u05c1",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0958 \u0915\u093c \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0e33",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0438\u0306 \u0419",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea \u2764\ufe0f \U0001fae0",
    "e\u0301 \u00e9 e\u0323\u0301 e\u0301\u0323 \u1e69 s\u0307\u0323 \u0344 \u0340 \u0374 \u212b \u2126 \u212a",
    "\u1e9b\u0323 \ufb01 \ufb2a \u0f73 \u0f71\u0f72 \u0f81 \u09c7\u09be \u0dd9\u0dcf\u0dca \U0001d15e \U00011131\U00011127",
    "\u0c55\u0d3b \u0323\u0898 \U00011935\U00011930 \U0001e08f\u0323 \u0301alone",
    "\U00031350 \U0002ebf0 \u1c89 \U00010d40\U00010d41 \U000f0000 \ufffd \U0010ffff",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "<|im_start|<|im_end|>|im_end|>< |im_end|><|im_end|",
    '<tool_call>\n{"name": "f"}\n</tool_call> <|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>',
    "e<|im_end|>\u0301 \u0338<tool_call>\u0338",
    "a" * 200,
    " " * 200,
    " " * 100 + "x",
    "\n" * 70 + " " * 70 + "\n" + " " * 5 + "x",
    "!" * 130,
    "=" * 40 + "-" * 40 + "\n",
    "\u4e2d" * 60,
    "AAAaaaBBBbbb" * 10,
]

FRAGMENTS = [
    lambda r: chr(r.randrange(32, 127)),
    lambda r: r.choice(
        " \t\n\r\x0b\x0c\x85\xa0\u1680\u180e\u2003\u2028\u2029\u202f\u205f\u3000\u200b"
    ),
    lambda r: " " * r.randrange(1, 6),
    lambda r: "\n" * r.randrange(1, 4),
    lambda r: chr(r.randrange(0x4E00, 0x9FFF)),
    lambda r: chr(r.randrange(0xAC00, 0xD7A4)),
    lambda r: chr(r.randrange(0x1100, 0x1200)),
    lambda r: chr(r.randrange(0x600, 0x700)),
    lambda r: chr(r.randrange(0x300, 0x370)),
    lambda r: chr(r.randrange(0x900, 0xE00)),
    lambda r: chr(r.randrange(0x1F300, 0x1FA00)) + r.choice(["", "\u200d", "\ufe0f", "\U0001f3fd"]),
    lambda r: chr(r.randrange(0xC0, 0x250)),
    lambda r: chr(r.randrange(0x370, 0x530)),
    lambda r: chr(r.randrange(0x1E00, 0x2C00)),
    lambda r: chr(r.randrange(0, 32)),
    lambda r: chr(r.randrange(0x10000, 0x20000)),
    lambda r: str(r.randrange(10**9)),
    lambda r: r.choice(["'s", "'S", "'T", "'re", "'VE", "'m", "'Ll", "'d", "\u2019s", "'x", "''"]),
    lambda r: r.choice(
        [" the", " and", " function", "return ", "self.", "    ", "==", "->", "});\n"]
    ),
    lambda r: r.choice(["<|im_start|>", "<|im_end|>", "<tool_call>", "<|im_", "end|>", "<|", "|>"]),
]

WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Wetter f\u00fcr \u5317\u4eac & <others> "quoted" back\\slash\n\ttab \x01\x7f \u2028',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Z\u00fcrich", "\U0001f600"]},
                "days": {
                    "type": "integer",
                    "minimum": -1,
                    "maximum": 123456789012345678901234567890,
                },
            },
            "required": ["city"],
            "additionalProperties": False,
            "default": None,
        },
        "numbers": [0, -0.0, 1.0, 1e15, 1e16, 1.5e300, 1e-4, 1e-5, 0.1, 5e-324, 123456.789, 2.5e22],
        "empty": [{}, [], ""],
    },
}
SEARCH_TOOL = {"name": "search", "parameters": {}, "z": 1, "a": 2}


def call(name, arguments):
    return {"type": "function", "id": "call_1", "function": {"name": name, "arguments": arguments}}


CHATS = [
    ([{"role": "user", "content": "Hello"}], []),
    ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], []),
    ([{"role": "system", "content": ""}, {"role": "user", "content": ""}], []),
    ([{"role": "user", "content": "  spaces and\n\nlines \n"}], []),
    (
        [
            {
                "role": "user",
                "content": "\u0301mark first, \u00e9 e\u0301, \uc548\ub155 \U0001f44d\U0001f3fd",
            }
        ],
        [],
    ),
    (
        [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "2"},
            {"role": "system", "content": "Now in French."},
            {"role": "user", "content": "2+2?"},
        ],
        [],
    ),
    ([{"role": "user", "content": "Weather?"}], [WEATHER_TOOL]),
    (
        [
            {"role": "system", "content": "You call tools."},
            {"role": "user", "content": "Weather in Z\u00fcrich?"},
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [
                    call("get_weather", {"city": "Z\u00fcrich", "days": 2}),
                    call(
                        "search",
                        {"q": 'a "b" \\ c\n', "f": 1e100, "nested": [[], {"x": [None, True]}]},
                    ),
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": '{"t": 21}'},
            {"role": "tool", "tool_call_id": "call_1", "content": "nothing"},
            {"role": "assistant", "content": "21 degrees."},
            {"role": "user", "content": "Thanks"},
        ],
        [WEATHER_TOOL, SEARCH_TOOL],
    ),
    (
        [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": "", "tool_calls": [call("now", {})]},
            {"role": "tool", "content": ""},
        ],
        [SEARCH_TOOL],
    ),
    (
        [
            {"role": "tool", "content": "early"},
            {"role": "user", "content": "?"},
            {"role": "tool", "content": "x"},
        ],
        [],
    ),
    ([{"role": "assistant", "content": "I begin."}], []),
]



def random_words(rng):
    words = ["", "hi", "a b", " \n", "\u4f60\u597d", "\U0001f44d\U0001f3fd", "caf\u00e9", "e\u0301", "</tool_call>", "{}", '"q"', "\\n"]
    words += ["<tools>", "5 > 3 & 2 < 4", "'single'", "\u2028", "\x01\x7f", "http://x/?a=1", "line\nline\n", "\u0645\u0631"]
    return "".join(rng.choices(words, k=rng.choice((0, 1, 1, 2, 4))))


def random_float(rng):
    roll = rng.random()
    if roll < 0.3:
        return rng.choice([0.0, -0.0, 1e16, 1e15, 9999999999999998.0, 1e-4, 9.999e-5, 1e-7, 1e22, 1e23, 5e-324, 1.7976931348623157e308])
    if roll < 0.6:
        return float(rng.randrange(-(10**6), 10**6)) / rng.choice([1, 2, 3, 8, 10, 100])
    value = struct.unpack("<d", rng.getrandbits(64).to_bytes(8, "little"))[0]
    return value if math.isfinite(value) else 0.1


def random_value(rng, depth=0):
    kind = rng.randrange(8 if depth < 4 else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([0, -1, 2**63, -(2**63), 2**64, 10**30, -(10**25), rng.randrange(10**9)])
    if kind <= 3:
        return random_float(rng)
    if kind <= 5:
        return random_words(rng)
    if kind == 6:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {random_words(rng): random_value(rng, depth + 1) for _ in range(rng.randrange(4))}


def random_chat(rng):
    """Any order of roles that the template renders."""
    messages = []
    for _ in range(rng.randint(1, 7)):
        role = rng.choice(["system", "user", "user", "assistant", "assistant", "tool", "tool"])
        message = {"role": role, "content": random_words(rng)}
        if role == "assistant" and rng.random() < 0.6:
            names = ["f", "get_weather", "s\u00f6k", 'a"b']
            message["tool_calls"] = [
                call(rng.choice(names), {random_words(rng): random_value(rng) for _ in range(rng.randrange(4))})
                for _ in range(rng.randint(1, 3))
            ]
        messages.append(message)
    tools = [{"type": "function", "function": {"name": "f", "parameters": random_value(rng)}} for _ in range(rng.choice((0, 0, 1, 2)))]
    return messages, tools


def random_text(rng):
    fragments = rng.sample(FRAGMENTS, rng.randrange(1, 6))
    return "".join(rng.choice(fragments)(rng) for _ in range(rng.choice([1, 2, 3, 5, 8, 13, 30])))


def texts(tokenizer, rng):
    cases = []
    for text in FIXED_TEXTS + [random_text(rng) for _ in range(NUM_RANDOM_TEXTS)]:
        case = {"text": text}
        for key, as_text in (("parse", False), ("as_text", True)):
            tokenizer.encode_special_tokens = as_text
            case[key] = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append(case)
    tokenizer.encode_special_tokens = False
    return cases


def decodings(tokenizer, rng):
    """Random ids: their bytes are seldom well-formed."""
    cases = []
    size = tokenizer.get_vocab_size()
    for _ in range(NUM_ID_SEQUENCES):
        top = rng.choice([256, size])
        ids = [rng.randrange(top) for _ in range(rng.randrange(1, 12))]
        ids.insert(rng.randrange(len(ids)), size - 1 - rng.randrange(3))
        cases.append(
            {
                "ids": ids,
                "text": tokenizer.decode(ids, skip_special_tokens=False),
                "text_skipping_special": tokenizer.decode(ids, skip_special_tokens=True),
            }
        )
    return cases


def chats(tokenizer, chat_template, rng):
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=chat_template)
    cases = []
    for messages, tools in CHATS + [random_chat(rng) for _ in range(NUM_RANDOM_CHATS)]:
        for add_generation_prompt in (True, False):
            text = fast.apply_chat_template(
                messages,
                tools=tools or None,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
            cases.append(
                {
                    "messages": [stored_message(m) for m in messages],
                    "tools_json": [json.dumps(t) for t in tools],
                    "add_generation_prompt": add_generation_prompt,
                    "text": text,
                    "ids": tokenizer.encode(text, add_special_tokens=False).ids,
                }
            )
    return cases


def stored_message(message):
    stored = {"role": message["role"], "content": message["content"]}
    stored["tool_calls"] = [
        {"name": c["function"]["name"], "arguments_json": json.dumps(c["function"]["arguments"])}
        for c in message.get("tool_calls", [])
    ]
    return stored


def main():
    model_dir, output = Path(sys.argv[1]), Path(sys.argv[2])
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    config = json.loads((model_dir / "tokenizer_config.json").read_text(encoding="utf-8"))
    rng = random.Random(SEED)
    sections = {
        "texts": texts(tokenizer, rng),
        "decodings": decodings(tokenizer, rng),
        "chats": chats(tokenizer, config["chat_template"], rng),
    }
    with output.open("w", encoding="ascii") as file:
        file.write("{")
        for i, (name, cases) in enumerate(sections.items()):
            lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
            file.write(f'{"," if i else ""}\n"{name}": [\n{lines}\n]')
        file.write("\n}\n")


if __name__ == "__main__":
    main()
