"""The texts of tokenizer_bench.py: ordinary ones and the worst that we found. Deterministic."""

import random
import unicodedata

# The most frequent English words, most frequent first.
FUNCTION_WORDS = (
    "the of and to a in is that it was for on as with be by he at his from are this or had not but "
    "which have an they you were her she all their there been one we has when would who will more "
    "if no out so said what up its about into than them can only other time new some could these "
    "two may then do first any my now such like our over man me even most made after also did many "
    "before must through back years where much your way well down should because each just those "
    "people how too little good world make very year still see own work long here get both between "
    "life being under three never know day same another while last us might great old off come"
).split()
SYLLABLES = (
    "ba ber bri cal can chor dan del dor el en fal fen gar ger hal hol in ist jor kar ken lan lin "
    "lor mar men mor nal ner nor os pel per quin ral ren rin ros sal sen stra tan ter tor ul ven "
    "ver vor wald wen wick yar zan zel"
).split()
VOCABULARY_WORDS = 24000
RARE_WORDS = 30000


class _Zipf:
    """Samples ranks with the frequencies of words in natural text (Zipf and Mandelbrot)."""

    def __init__(self, count):
        self._ranks = range(count)
        total, self._cumulative = 0.0, []
        for rank in range(count):
            total += 1 / (rank + 2.7) ** 1.07
            self._cumulative.append(total)

    def sample(self, rng, count):
        return rng.choices(self._ranks, cum_weights=self._cumulative, k=count)


def _english_words(tokenizer, rng):
    """Words by rank: function words, the vocabulary's own, and rare ones that it does not have."""
    known = [t[1:] for t in sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id) if t[:1] == "\u0120"]
    known = [w for w in known if len(w) > 2 and w.isascii() and w.isalpha() and w.islower()]
    words = list(dict.fromkeys(FUNCTION_WORDS + known[:VOCABULARY_WORDS]))
    common = words[200:6000]
    endings = ["s", "ed", "ing", "ly", "ness", "ful", "able", "ish", "'s", "-like", "hood"]
    for _ in range(RARE_WORDS):
        if rng.random() < 0.5 and common:
            words.append(rng.choice(common) + rng.choice(endings))
        else:
            name = "".join(rng.choices(SYLLABLES, k=rng.choice((2, 3, 3, 4))))
            words.append(name.capitalize() if rng.random() < 0.6 else name)
    return words


def prose(size, tokenizer, rng):
    words = _english_words(tokenizer, rng)
    zipf = _Zipf(len(words))
    pieces, length = [], 0
    while length < size:
        for _ in range(rng.randint(2, 7)):  # sentences of a paragraph
            sentence = [words[r] for r in zipf.sample(rng, rng.randint(5, 32))]
            for i in range(len(sentence)):
                roll = rng.random()
                if roll < 0.01:
                    sentence[i] = str(rng.choice((rng.randint(1, 99), rng.randint(1700, 2030))))
                elif roll < 0.015:
                    sentence[i] = f'"{sentence[i]}"'
                elif roll < 0.075:
                    sentence[i] += rng.choices((",", ";", ":", " -", "\u2019s"), (30, 3, 2, 2, 5))[0]
            text = " ".join(sentence) + rng.choices((". ", "? ", "! ", ".) ", ".\n"), (80, 5, 3, 2, 5))[0]
            pieces.append(text[0].upper() + text[1:])
            length += len(text)
        pieces.append("\n\n")
    return "".join(pieces)


def cjk(size, tokenizer, rng):
    """Chinese with its punctuation, some Japanese and Korean; characters by Zipf's law."""
    chinese = [chr(c) for c in range(0x4E00, 0x9FA6)]
    rng.shuffle(chinese)
    chinese = chinese[:6000]
    zipf = _Zipf(len(chinese))
    pieces, length = [], 0
    while length < size:
        roll = rng.random()
        if roll < 0.85:
            run = "".join(chinese[r] for r in zipf.sample(rng, rng.randint(3, 18)))
        elif roll < 0.95:
            run = "".join(chr(rng.randrange(0x3041, 0x3094)) for _ in range(rng.randint(2, 10)))
        else:
            run = "".join(chr(rng.randrange(0xAC00, 0xD7A4)) for _ in range(rng.randint(2, 6)))
        run += rng.choices(("\uff0c", "\u3002", "\u3001", "\uff01", "\n", "2024\u5e74"), (40, 30, 10, 5, 8, 3))[0]
        pieces.append(run)
        length += len(run.encode())
    return "".join(pieces)


def code(size, tokenizer, rng):
    words = _english_words(tokenizer, rng)[:4000]
    names = [rng.choice(words) + rng.choice(("", "_", "s_")) + rng.choice(words) for _ in range(5000)]
    names += [rng.choice(words) + rng.choice(words).capitalize() for _ in range(5000)]
    zipf = _Zipf(len(names))
    pieces, length, depth = [], 0, 0
    while length < size:
        a, b, c = (names[r] for r in zipf.sample(rng, 3))
        line = rng.choice(
            (
                f"if ({a} < {b}.size() && {c} != nullptr) {{",
                f"for (int {a} = 0; {a} < {rng.randint(1, 4096)}; ++{a}) {{",
                f"const auto& {a} = {b}[{c} + {rng.randint(0, 64)}];",
                f"return {a}->{b}({c});",
                f"// {a} {b}: see {c}.",
                f'LOG(INFO) << "{a}=" << {b};',
                f"{a} = 0x{rng.getrandbits(32):08x}u;",
                "}",
                "",
            )
        )
        if line == "}":
            depth = max(depth - 1, 0)
        pieces.append("    " * depth + line + "\n" if line else "\n")
        if line.endswith("{"):
            depth = min(depth + 1, 6)
        length += len(pieces[-1])
    return "".join(pieces)


def _repeat(pattern):
    return lambda size, tokenizer, rng: pattern * (size // len(pattern.encode()))


def _random_of(alphabet):
    """One endless draw from an alphabet."""

    def make(size, tokenizer, rng):
        width = sum(len(c.encode()) for c in alphabet) / len(alphabet)
        return "".join(rng.choices(alphabet, k=int(size / width)))

    return make


def _token_words(size, tokenizer, rng):
    """One word without end, made of long tokens: most of its pairs merge."""
    letters = [t for t in tokenizer.get_vocab() if t.isascii() and t.isalpha() and len(t) > 4]
    letters.sort()
    pieces, length = [], 0
    while length < size:
        pieces.append(rng.choice(letters))
        length += len(pieces[-1])
    return "".join(pieces)


def _short_words(size, tokenizer, rng):
    """Words of 4 to 10 random letters: none is seen twice, none is a token."""
    pieces, length = [], 0
    while length < size:
        pieces.append("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(4, 10))))
        length += len(pieces[-1]) + 1
    return " ".join(pieces)


def _range(*bounds):
    return [chr(c) for first, last in bounds for c in range(first, last + 1)]


def _assigned():
    return [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cs", "Cn", "Co")]


def _marks():
    marks = [c for c in map(chr, range(0x110000)) if unicodedata.combining(c)]
    return marks


def _falling_marks(size, tokenizer, rng):
    """A letter and a million marks, each to be sorted before all that stand before it."""
    marks = sorted(_marks(), key=lambda c: -unicodedata.combining(c))
    width = 2.5
    each = max(int(size / width / len(marks)), 1)
    return "a" + "".join(c * each for c in marks)


ORDINARY = {"English prose": prose, "Chinese, Japanese, Korean": cjk, "code": code}

WORST = {
    "one letter": _repeat("a"),
    "spaces": _repeat(" "),
    "newlines": _repeat("\n"),
    "space, newline": _repeat(" \n"),
    "newline, spaces, letter": _repeat("\n" + " " * 64 + "x"),
    "tabs, then a letter": lambda size, tokenizer, rng: "\t" * (size - 1) + "x",
    "apostrophes": _repeat("'"),
    "contractions": _repeat("'re"),
    "halves of special tokens": _repeat("<|im_start|"),
    "special tokens": _repeat("<|im_start|>"),
    "beginnings of special tokens": _repeat("<"),
    "digits": _random_of("0123456789"),
    "one word of random letters": _random_of("abcdefghijklmnopqrstuvwxyz"),
    "one word of two letters": _random_of("ab"),
    "one word of long tokens": _token_words,
    "one word of Chinese": _random_of(_range((0x4E00, 0x9FA5))),
    "one word of Hangul": _random_of(_range((0xAC00, 0xD7A3))),
    "one word of rare scripts": _random_of(_range((0x12000, 0x12399), (0x13000, 0x1342F))),
    "random words": _short_words,
    "random ASCII": _random_of(_range((0x20, 0x7E))),
    "random punctuation": _random_of("!\"#$%&()*+,-./:;<=>?@[]^_`{|}~"),
    "rows of punctuation": lambda size, tokenizer, rng: "".join(
        rng.choice("=-*#_./~") * rng.randint(1, 40) for _ in range(size // 20)
    ),
    "any characters": _random_of(_assigned()),
    "marks that NFC makes longer": _random_of(_range((0x1D15E, 0x1D164))),
    "letter and mark": _repeat("e\u0301"),
    "marks": _random_of(_marks()),
    "marks in falling order": _falling_marks,
    "letter and 30 marks": _repeat("a" + "\u0301\u0323" * 15),
    "conjoining jamo": _random_of(_range((0x1100, 0x1112), (0x1161, 0x1175), (0x11A8, 0x11C2))),
    "characters that decompose": _random_of([c for c in _assigned() if unicodedata.normalize("NFC", c) != c]),
    "joined emoji": _random_of(["\U0001f468\u200d\U0001f469\u200d", "\U0001f44d\U0001f3fd", "\u2764\ufe0f"]),
    "replacement characters": _repeat("\ufffd"),
    "control characters": _random_of(_range((0, 31), (0x7F, 0x9F))),
}


_RANGES = ((0, 0x7F), (0x80, 0x2FF), (0x300, 0x36F), (0x370, 0xDFF), (0x1100, 0x11FF), (0x1E00, 0x206F),
           (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0x10000, 0x1FFFF))  # fmt: skip


def random_hostile(size, tokens, rng):
    """A text for the search: pieces of up to three kinds, drawn without end or a few of them repeated."""

    def piece(kind):
        token = rng.choice(tokens)
        if kind == 0:
            return token
        if kind == 1:
            return token[: rng.randint(1, len(token))]
        if kind == 2:
            return token[0] * rng.randint(1, 300)
        if kind == 3:
            return rng.choice(" \n=-*#_./~<ax0") * rng.randint(1, 60)
        return chr(rng.randint(*_RANGES[kind - 4]))

    kinds = rng.choices(range(4 + len(_RANGES)), k=rng.randint(1, 3))
    if rng.random() < 0.5:
        pattern = "".join(piece(rng.choice(kinds)) for _ in range(rng.randint(1, 6)))
        text = pattern * (size // len(pattern.encode()) + 1)
    else:
        pieces, length = [], 0
        while length < size:
            pieces.append(piece(rng.choice(kinds)))
            length += len(pieces[-1].encode())
        text = "".join(pieces)
    return text.encode()[:size].decode(errors="ignore")


def make(name, size, tokenizer, seed=1):
    """The text of that name, at most `size` bytes of UTF-8 and nearly as many."""
    text = {**ORDINARY, **WORST}[name](size, tokenizer, random.Random(f"{seed} {name}"))
    return text.encode()[:size].decode(errors="ignore")
