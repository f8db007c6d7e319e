#!/usr/bin/env python3
"""Writes more than 20,000 strings and a digest of the ids that Hugging Face gives each, for
tests/unit/common/text/hugging_face_strings_test.cc to compare.

    make_tokenizer_strings.py NAME=MODEL_DIR...

    make_tokenizer_strings.py demo=models/demo qwen=../shared/models/qwen2.5-tokenizer

Writes, beside this file, tokenizer_strings.txt (a line "# kind", then JSON strings, a line each) and
tokenizer_strings_NAME.txt for each model (a line a string: the digest of its ids with special tokens
parsed; behind it, where it is another, that of the ids with all of them as text). The digests of the
sweeps, which both sides generate, follow in lines of their own. Needs the packages of
requirements.txt; tokenizers 0.22.2 gave the files. To see what Hugging Face gives for one text:

    make_tokenizer_strings.py --show 'JSON string' NAME=MODEL_DIR
"""

import json
import random
import sys
import unicodedata
from pathlib import Path

from tokenizers import Tokenizer

SEED = 20250130
SPACES = " \t\n\r\x0b\x0c\x1c\x85\xa0\u1680\u180e\u2003\u2007\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"
CONTEXTS = ["", "a", "Z", " ", "  ", "7", "\n", "'", "-", "\u4e2d", "e\u0301", ".\n", " the", "'s"]
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|vision_start|>",
    "<|object_ref_end|>",
    "<tool_call>",
    "</tool_call>",
    "<|repo_name|>",
]
# Every code point of planes 0 to 3 and 14 (without surrogates), and one block in 64 of the others,
# in which Unicode has assigned nothing or private use only.
BLOCK = 128
HANGUL_BLOCK = 84


def is_surrogate(c):
    return 0xD800 <= c < 0xE000


def sweeps():
    """What the test generates as well; keep the two alike."""
    for first in range(0, 0x110000, BLOCK):
        if 4 <= first >> 16 != 14 and first // BLOCK % 64 != 0:
            continue
        points = [chr(c) for c in range(first, first + BLOCK) if not is_surrogate(c)]
        # Line ends are one word behind a letter, two behind punctuation; marks show how c is ordered.
        yield "".join(f"x{c} {c}{c}\n \n\u0301{c}\u0323" for c in points)
    # Each Hangul syllable as conjoining jamo, which NFC composes.
    for first in range(0, 11172, HANGUL_BLOCK):
        yield "".join(unicodedata.normalize("NFD", chr(0xAC00 + i)) for i in range(first, first + HANGUL_BLOCK))


def pick(rng, alphabet, most):
    return "".join(rng.choices(alphabet, k=rng.randint(1, most)))


def span(*bounds):
    return [chr(c) for first, last in bounds for c in range(first, last + 1)]


def categories(rng):
    """Every general category but surrogates, in every neighbourhood."""
    members = {}
    for c in map(chr, range(0x110000)):
        members.setdefault(unicodedata.category(c), []).append(c)
    del members["Cs"]
    for name in sorted(members):
        for _ in range(160):
            yield "".join(
                rng.choice(CONTEXTS) + pick(rng, members[name], 3) for _ in range(rng.randint(1, 3))
            ) + rng.choice(CONTEXTS)


def normalization(rng):
    changed = [c for c in map(chr, range(0x110000)) if not is_surrogate(ord(c)) and not "\uac00" <= c <= "\ud7a3"]
    changed = [c for c in changed if unicodedata.normalize("NFD", c) != c]
    for i in range(0, len(changed), 3):
        yield " ".join(unicodedata.normalize("NFD", c) for c in changed[i : i + 3])
    marks = [c for c in map(chr, range(0x110000)) if unicodedata.combining(c)]
    bases = [unicodedata.normalize("NFD", c)[0] for c in changed]
    for _ in range(1200):
        yield "".join(rng.choice(bases) + pick(rng, marks, 5) for _ in range(rng.randint(1, 3)))


def chinese_and_japanese(rng):
    han = span((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x200FF), (0xF900, 0xFAD9))
    kana = span((0x3041, 0x3096), (0x30A1, 0x30FA), (0x3099, 0x309C), (0xFF66, 0xFF9F))
    marks = "\uff0c\u3002\u3001\uff01\uff1f\u300c\u300d\u30fc\u3005\uff1a\u3000 1aA\n"
    for _ in range(1700):
        common = span((0x4E00, 0x5FFF)) if rng.random() < 0.7 else han
        yield "".join(
            pick(rng, rng.choice((common, common, kana)), 7) + rng.choice(marks) for _ in range(rng.randint(1, 3))
        )


def hangul(rng):
    syllables = span((0xAC00, 0xD7A3))
    jamo = span((0x1100, 0x1112), (0x1161, 0x1175), (0x11A7, 0x11C2))
    odd = span((0x1113, 0x115F), (0x1176, 0x11A6), (0x11C3, 0x11FF), (0x3131, 0x318E), (0xA960, 0xA97C))
    for _ in range(1500):
        yield "".join(
            pick(rng, rng.choice((syllables, jamo, jamo, odd)), 5) + rng.choice(("", "", " ", ".", "a"))
            for _ in range(rng.randint(1, 4))
        )


def arabic_and_hebrew(rng):
    letters = span((0x621, 0x64A), (0x671, 0x6D3), (0x5D0, 0x5EA))
    marks = span((0x64B, 0x65F), (0x610, 0x61A), (0x6D6, 0x6ED), (0x591, 0x5C7))
    other = "\u060c\u061b\u061f\u0660\u0669\u06f3\u200c\u200d\u200f\u202b\u202c\u2067\u2069\u0640 .\n"
    for _ in range(1500):
        yield "".join(
            rng.choice(letters) + (pick(rng, marks, 3) if rng.random() < 0.4 else "")
            + (rng.choice(other) if rng.random() < 0.3 else "")
            for _ in range(rng.randint(2, 10))
        )


def other_scripts(rng):
    scripts = [
        span((0x900, 0x97F)), span((0x980, 0x9FE)), span((0xB80, 0xBFA)), span((0xD00, 0xD7F)),
        span((0xE01, 0xE5B)), span((0xF00, 0xFDA)), span((0x1000, 0x109F)), span((0x1780, 0x17F9)),
        span((0x370, 0x3FF)), span((0x400, 0x52F)), span((0x10A0, 0x10FF)), span((0x1E00, 0x1FFF)),
        span((0x1200, 0x137C)), span((0x10400, 0x1044F)), span((0x1D400, 0x1D7FF)), span((0x13A0, 0x13FF)),
    ]  # fmt: skip
    for _ in range(1500):
        script = rng.choice(scripts)
        yield "".join(pick(rng, script, 6) + rng.choice(("", " ", "\u0301", ", ")) for _ in range(rng.randint(1, 3)))


def emoji(rng):
    people = list("\U0001f468\U0001f469\U0001f9d1\U0001f467\U0001f466\U0001f44d\U0001f64b\U0001f3c3")
    things = span((0x1F300, 0x1F6FF), (0x1F900, 0x1FAFF), (0x2600, 0x27BF))
    tones = span((0x1F3FB, 0x1F3FF))
    flags = span((0x1F1E6, 0x1F1FF))
    tags = span((0xE0061, 0xE007A))
    makers = [
        lambda: "\u200d".join(rng.choice(people) + rng.choice(("", rng.choice(tones))) for _ in range(rng.randint(2, 4))),
        lambda: rng.choice(things) + rng.choice(("", "\ufe0f", "\ufe0e", "\u20e3", rng.choice(tones))),
        lambda: rng.choice(flags) + rng.choice(flags),
        lambda: "\U0001f3f4" + pick(rng, tags, 5) + "\U000e007f",
        lambda: rng.choice("0123456789#*") + "\ufe0f\u20e3",
    ]
    for _ in range(1500):
        yield "".join(rng.choice(makers)() + rng.choice(("", "", " ", "!", "ok")) for _ in range(rng.randint(1, 3)))


def controls(rng):
    alphabet = span((0, 31), (0x7F, 0x9F)) + list("\u200e\u2060\ufff9\ufffd\ufffe\uffff\U000e0001")
    for _ in range(1000):
        yield "".join(pick(rng, alphabet, 4) + rng.choice(CONTEXTS) for _ in range(rng.randint(1, 3)))


def white_space(rng):
    for _ in range(1700):
        runs = []
        for _ in range(rng.randint(1, 4)):
            runs.append(rng.choice(SPACES) * rng.choice((1, 2, 3, 4, 7, 16)))
            if rng.random() < 0.4:
                runs.append(rng.choice(("x", "9", "!", "'s", "\u4f60", "\u0301", "Word")))
        yield "".join(runs)
    for count in list(range(1, 140)) + [255, 256, 257, 1000, 4100]:
        yield " " * count
        yield " " * count + "x"
        yield "\n" * count
        yield "\t" * count + "x"


def runs_of_one(rng):
    alphabet = list("abestxyzAEX.-_=*#!?/'\"0") + ["\u00e9", "\u4e2d", "\u0301", "\ufffd", "\U0001f600", "\u3042", "\u1161"]
    for c in alphabet:
        for count in (2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 100, 127, 128, 129):
            yield c * count
    for _ in range(40):  # beyond one window of the merging
        yield pick(rng, "abcdefghij ", 6) * rng.randint(200, 700)


def code(rng):
    names = "i n self.x foo_bar HTTPServer __init__ std::vector<int> $var arr[i] data2 kMaxBytes".split()
    lines = [
        "for (int {a} = 0; {a} < {n}; ++{a}) {{\n\t{b} += {a};\n}}\n",
        "def {a}({b}: int = {n}) -> str:\n    return f'{{{b}}}'  # {a}\n",
        "if ({a} != {b} && {b} >= 0x{n:x}) return;\r\n",
        "SELECT {a}, COUNT(*) FROM {b} WHERE id={n};\n",
        '{{"{a}": [{n}, null, "{b}\\n"]}}',
        "    {a} = {b}->{a}();  // {n}\n\n",
        "<div class=\"{a}\">{b}&nbsp;{n}</div>\n",
        "https://example.org/{a}?q={b}&n={n}#x",
        "#include <{a}.h>\n#define {b} {n}\n",
        "{a}@{b}.com ~/{a}/{b}.py:{n}",
        "`{a}` **{b}** [{n}]({a}) | --- |\n* x\n",
    ]
    for _ in range(1500):
        yield rng.choice(lines).format(a=rng.choice(names), b=rng.choice(names), n=rng.randrange(10 ** rng.randint(1, 7)))


def numbers(rng):
    digits = "0123456789" * 3 + "\u0663\u0967\uff15\u00bd\u2167\u3007\U0001d7d9\u2075\u2460"
    for _ in range(1000):
        yield "".join(pick(rng, digits, 6) + rng.choice((".", ",", " ", "-", "e+", "%", "", "px", "\u20ac")) for _ in range(rng.randint(1, 3)))


def contractions(rng):
    endings = "'s 't 're 've 'm 'll 'd 'S 'T 'RE 'Ve 'M 'lL 'D '\u017f 'x ' '' 'r 'v 'l \u2019s \u2019t 'sx 'lls".split()
    for _ in range(900):
        yield "".join(
            rng.choice(("I", "they", "WE", "isn", "\u00e9", "9", " ", "!", "\u4f60", "")) + rng.choice(endings) + rng.choice(("", " ", "\n", "a"))
            for _ in range(rng.randint(1, 4))
        )


def special_tokens(rng):
    for _ in range(1700):
        parts = []
        for _ in range(rng.randint(1, 4)):
            token = rng.choice(SPECIAL)
            roll = rng.random()
            if roll < 0.2:
                token = token[: rng.randint(1, len(token))]
            elif roll < 0.35:
                token = token[rng.randint(0, len(token) - 1) :]
            elif roll < 0.45:
                token = token[:-1] + rng.choice(CONTEXTS) + token[-1]
            elif roll < 0.5:
                token = token.upper()
            parts.append(rng.choice(CONTEXTS) + token)
        yield "".join(parts) + rng.choice(CONTEXTS)


def vocabulary(rng, tokenizers):
    """Tokens put together anew: the hard cases of merging."""
    sizes = [(t, t.get_vocab_size()) for t in tokenizers]
    for i in range(2200):
        tokenizer, size = sizes[i % len(sizes)]
        text = tokenizer.decode([rng.randrange(size) for _ in range(rng.randint(1, 6))], skip_special_tokens=True)
        text = text.replace("\ufffd", "")
        if i % 3 == 0:
            text = text.replace(" ", "")
        if text:
            yield text


def ascii_noise(rng):
    alphabet = [chr(c) for c in range(32, 127)] + ["\n"]
    for _ in range(1000):
        yield pick(rng, alphabet, 24)


def mixture(rng):
    scripts = [span((97, 122)), span((65, 90)), list("0123456789"), list(SPACES), list(".,;:!?-'\"()[]{}<>|/\\"),
               span((0xC0, 0x24F)), span((0x300, 0x36F)), span((0x4E00, 0x9FFF)), span((0xAC00, 0xD7A3)),
               span((0x1100, 0x11FF)), span((0x600, 0x6FF)), span((0x900, 0xDFF)), span((0x1F300, 0x1F9FF)),
               span((0x10000, 0x1FFFF)), span((0x20000, 0x323AF)), span((0xE000, 0xF8FF))]  # fmt: skip
    for _ in range(1700):
        yield "".join(pick(rng, rng.choice(scripts), 3) for _ in range(rng.randint(2, 6)))


def kinds(tokenizers):
    yield "every category", categories
    yield "normalization", normalization
    yield "Chinese and Japanese", chinese_and_japanese
    yield "Hangul", hangul
    yield "Arabic and Hebrew", arabic_and_hebrew
    yield "other scripts", other_scripts
    yield "emoji", emoji
    yield "control characters", controls
    yield "white space", white_space
    yield "runs of one character", runs_of_one
    yield "code", code
    yield "numbers", numbers
    yield "contractions", contractions
    yield "special tokens", special_tokens
    yield "vocabulary", lambda rng: vocabulary(rng, tokenizers)
    yield "ASCII", ascii_noise
    yield "mixture", mixture


def digest(ids):
    value = 2166136261
    for token in ids:
        value = ((value ^ token) * 16777619) % 2**32
    return f"{value:08x}"


def encode(tokenizer, text, parse_special):
    tokenizer.encode_special_tokens = not parse_special
    return tokenizer.encode(text, add_special_tokens=False).ids


def digest_lines(tokenizer, strings):
    for text in strings:
        parsed, as_text = (digest(encode(tokenizer, text, parse)) for parse in (True, False))
        yield parsed if parsed == as_text else f"{parsed} {as_text}"
    for text in sweeps():
        yield digest(encode(tokenizer, text, False))


def main():
    arguments = sys.argv[1:]
    shown = None
    if arguments[0] == "--show":
        shown = json.loads(arguments[1])
        arguments = arguments[2:]
    models = [argument.split("=", 1) for argument in arguments]
    tokenizers = {name: Tokenizer.from_file(str(Path(path) / "tokenizer.json")) for name, path in models}
    if shown is not None:
        for name, tokenizer in tokenizers.items():
            print(name, "parse", encode(tokenizer, shown, True), "as text", encode(tokenizer, shown, False))
        return
    folder = Path(__file__).parent
    strings = []
    with (folder / "tokenizer_strings.txt").open("w", encoding="ascii") as file:
        seen = set()
        for kind, make in kinds(list(tokenizers.values())):
            file.write(f"# {kind}\n")
            for text in make(random.Random(f"{SEED} {kind}")):
                if text in seen:
                    continue
                seen.add(text)
                strings.append(text)
                file.write(json.dumps(text) + "\n")
    for name, tokenizer in tokenizers.items():
        lines = list(digest_lines(tokenizer, strings))
        (folder / f"tokenizer_strings_{name}.txt").write_text("\n".join(lines) + "\n", encoding="ascii")
        print(f"{name}: {len(strings)} strings, {len(lines) - len(strings)} blocks of the sweeps")


if __name__ == "__main__":
    main()
