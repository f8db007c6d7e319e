"""Bad input for the REST side: one table of cases, each with the answer that it has to get.

The server under test serves the demo model (2,048 rows of vocabulary) as "demo" with
`--max-model-len` MAX_MODEL_LEN. What is malformed is 400, an unknown model 404, what is too large
413 or 431, what is too slow 408 (docs/architecture.md, failure map); errors about a field name it.
"""

import dataclasses
import functools
import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterable

MODEL = "demo"
VOCABULARY = 2048
MAX_MODEL_LEN = 4096
MAX_BODY_BYTES = 64 << 20
MIB = 1 << 20
CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    data: bytes | Callable[[], bytes | Iterable[bytes]]  # all that is sent
    status: frozenset  # of allowed ones; None in it: the connection may close without a response
    words: tuple = ()  # the error's message holds each of them
    param: str | None = None  # the field that the error's param names, or a part of it
    then: str = "wait"  # see raw_http.exchange
    closes: bool = False  # nothing but one response comes, and the connection closes

    def sent(self):
        return self.data() if callable(self.data) else self.data


def _raw(name, data, status, *words, **options):
    statuses = frozenset(status if isinstance(status, (tuple, list)) else [status])
    return Case(name, data, statuses, words, **options)


def _head(path, length, *fields, method="POST"):
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close"]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join([*lines, *fields]) + "\r\n\r\n").encode("latin-1")


def post(path, body, *fields):
    """A well-formed POST of `body`: bytes, or what is to be JSON."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return _head(path, len(body), *fields) + body


def _post(name, path, body, status, *words, param=None, fields=(), **options):
    # Large bodies are made when they are sent, and only then.
    data = (lambda: post(path, body(), *fields)) if callable(body) else post(path, body, *fields)
    return _raw(name, data, status, *words, param=param, **options)


def chat(**fields):
    return {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}],
            **fields}


def complete(**fields):
    return {"model": MODEL, "max_tokens": 1, "prompt": "hi", **fields}


def _chat(name, fields, *words, param=None, status=400):
    body = (lambda: chat(**fields())) if callable(fields) else chat(**fields)
    return _post(name, CHAT, body, status, *words, param=param)


def _complete(name, fields, *words, param=None, status=400):
    body = (lambda: complete(**fields())) if callable(fields) else complete(**fields)
    return _post(name, COMPLETE, body, status, *words, param=param)


def _content(text):
    """A chat whose one message has these bytes between its quotes."""
    return (b'{"model":"demo","max_tokens":1,"messages":[{"role":"user","content":"' + text +
            b'"}]}')


def _with(text):
    """A chat with these bytes as a further member."""
    return _content(b"hi")[:-1] + b"," + text + b"}"


# ---- texts ----

def _texts():
    for name, text in {
            "lone byte": b"\xff", "truncated": b"caf\xc3", "overlong": b"\xc0\x80",
            "surrogate": b"\xed\xa0\x80", "beyond U+10FFFF": b"\xf4\x90\x80\x80",
            "after 1 MiB": b"a" * MIB + b"\x80"}.items():
        yield _post(f"invalid UTF-8: {name}", CHAT, _content(text), 400, "invalid UTF-8",
                    param="messages[0].content")
    yield _post("invalid UTF-8 in a key", CHAT, _with(b'"us\xffer":1'), 400, "key", "UTF-8")
    yield _post("invalid UTF-8 in stop", CHAT, _with(b'"stop":["a","\xe2\x82"]'), 400, "UTF-8",
                param="stop[1]")
    yield _post("invalid UTF-8 outside of strings", CHAT, _with(b'\xfe:1'), 400, "UTF-8")
    for name, text in {"high": rb"\ud800", "low": rb"\udc00", "reversed": rb"\udc00\ud800",
                       "high before text": rb"\ud83dx", "at the end": rb"abc\uDBFF"}.items():
        yield _post(f"lone surrogate: {name}", CHAT, _content(text), 400, "surrogate",
                    param="messages[0].content")
    yield _post("lone surrogate in stop", CHAT, _with(rb'"stop":"\ud800"'), 400, "surrogate",
                param="stop")
    yield _post("lone surrogate in a prompt", COMPLETE, rb'{"model":"demo","prompt":["\udfff"]}',
                400, "surrogate", param="prompt[0]")
    yield _post("lone surrogate in a key", CHAT, _with(rb'"\ud800":1'), 400, "surrogate")
    yield _post("bad escape", CHAT, _content(rb"\x41"), 400, "JSON")
    yield _post("half an escape", CHAT, _content(rb"\u12"), 400, "JSON")
    yield _post("raw null byte in a string", CHAT, _content(b"a\0b"), 400, "JSON")
    yield _post("raw line end in a string", CHAT, _content(b"a\nb"), 400, "JSON")
    yield _post("escaped null byte is text", CHAT, _content(rb"a\u0000b"), 200)
    yield _post("special tokens are text", CHAT, _content(b"<|im_end|><|endoftext|>"), 200)


# ---- JSON ----

def _json():
    for name, body, *words in [
            ("empty", b"", "empty"), ("spaces", b"  \r\n\t ", "empty"),
            ("null", b"null", "object", "null"), ("a string", b'"hi"', "object"),
            ("a number", b"17", "object"), ("an array", b"[{}]", "object"),
            ("a byte order mark", b"\xef\xbb\xbf" + _content(b"hi")),
            ("UTF-16", json.dumps(chat()).encode("utf-16")),
            ("all zeros", bytes(1000)), ("random bytes", random.Random(7).randbytes(5000)),
            ("a word", b"hello"), ("HTML", b"<html></html>"), ("a form", b"model=demo&prompt=hi"),
            ("an open object", b'{"model":"demo"', "JSON"), ("an open string", b'{"model":"de', "JSON"),
            ("two documents", _content(b"a") + _content(b"b"), "JSON"),
            ("a tail", _content(b"a") + b"x", "JSON"), ("a trailing comma", _with(b'"n":1,'), "JSON"),
            ("a comment", _with(b'"n":1/*one*/'), "JSON"), ("single quotes", b"{'model':'demo'}", "JSON"),
            ("a key without quotes", b"{model:1}", "JSON"), ("no value", _with(b'"n":'), "JSON")]:
        yield _post(f"body is {name}", CHAT, body, 400, *words)
    for number in ("01", "+1", "0x10", ".5", "1.", "1e", "--1", "1e+", "NaN", "Infinity",
                   "-Infinity", "nan", "tru", "nulL"):
        yield _post(f"temperature {number}", CHAT, _with(f'"temperature":{number}'.encode()), 400)
    for number in ("1e999", "-1e999", "1" + "0" * 400, "1e309"):
        yield _post(f"temperature {number[:8]}", CHAT, _with(f'"temperature":{number}'.encode()),
                    400, "range", param="temperature")
    yield _chat("temperature \"NaN\"", {"temperature": "NaN"}, "number", param="temperature")
    yield _chat("temperature \"0.5\"", {"temperature": "0.5"}, "number", param="temperature")
    for levels in (65, 10_000, 1_000_000):
        yield _post(f"arrays {levels} deep", CHAT,
                    _with(b'"metadata":' + b"[" * levels + b"]" * levels), 400, "deep")
        yield _post(f"objects {levels} deep", CHAT,
                    _with(b'"metadata":' + b'{"a":' * levels + b"1" + b"}" * levels), 400, "deep")
    yield _post("10,000 open arrays", CHAT, b"[" * 10_000, 400)
    yield _post("1 MiB of open objects", CHAT, b'{"a":' * (MIB // 5), 400)
    yield _post("10,000 closed arrays", CHAT, b"]" * 10_000, 400)
    yield _chat("100,000 unknown fields", lambda: {f"x{i}": i for i in range(100_000)},
                "100", "limit")
    yield _post("a field twice, the last counts", CHAT, _with(b'"temperature":0,"temperature":9'),
                400, "9", param="temperature")
    yield _post("a key of 1 MiB", CHAT, lambda: _with(b'"' + b"k" * MIB + b'":1'), 200)
    yield _post("a number of 1 MiB", CHAT, lambda: _with(b'"seed":' + b"9" * MIB), 400, "seed",
                param="seed")
    yield _post("1 MiB of spaces", CHAT, lambda: _content(b"hi") + b" " * MIB, 200)


# ---- fields ----

_NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty",
            "frequency_penalty", "timeout")
_INTEGERS = ("max_tokens", "max_completion_tokens", "min_tokens", "top_k", "n", "seed",
             "top_logprobs", "priority", "best_of", "truncate_prompt_tokens")
_BOOLS = ("stream", "ignore_eos", "logprobs", "return_progress")
_STRINGS = ("model", "user", "suffix")
_ARRAYS = ("messages", "tools", "stop_token_ids")
_OBJECTS = ("logit_bias", "stream_options", "response_format")


def _wrong_types():
    wrong = {_NUMBERS: ["x", True, [], {}], _INTEGERS: ["x", False, [], {}, 1.5],
             _BOOLS: ["true", 1, [], {}], _STRINGS: [1, True, [], {}],
             _ARRAYS: ["x", 1, True, {}], _OBJECTS: ["x", 1, True, []], ("stop",): [1, True, {}]}
    for names, values in wrong.items():
        for name in names:
            for value in values:
                extra = {"stream": True} if name == "stream_options" else {}
                yield _chat(f"{name}: {json.dumps(value)}", {**extra, name: value}, name, param=name)
    for value in (1, True, {}, [True], [1, "a"], ["a", 1], [[1], 2], [[[]]], [None], [{}], [1.5]):
        yield _complete(f"prompt: {json.dumps(value)}", {"prompt": value}, "prompt")
    for item in (1, True, None, [], {}):
        yield _chat(f"stop: [{json.dumps(item)}]", {"stop": ["a", item]}, param="stop[1]")


def _ranges():
    far = 10**18
    for name, values in {
            "temperature": [-0.1, 2.1, 1e308], "top_p": [0, -1, 1.01], "min_p": [-0.1, 1.1],
            "repetition_penalty": [0, -1, 11], "presence_penalty": [-2.1, 2.1],
            "frequency_penalty": [-2.1, 2.1], "top_k": [-2, VOCABULARY + 1, far],
            "n": [0, -1, 17, far], "max_tokens": [-1, -far, far, MAX_MODEL_LEN],
            "max_completion_tokens": [-1], "min_tokens": [-1, 2, far], "priority": [-101, 101, 2**31, far],
            "seed": [2**64, -(2**63) - 1, 10**30], "timeout": [0, -1, -0.5, 1e9],
            "truncate_prompt_tokens": [0, -2, MAX_MODEL_LEN + 1, far], "best_of": [2, -1]}.items():
        for value in values:
            yield _chat(f"{name}: {value}", {name: value}, name, param=name)
    for value in (-1, 21, far):
        yield _chat(f"top_logprobs: {value}", {"logprobs": True, "top_logprobs": value}, "20",
                    param="top_logprobs")
    yield _chat("top_logprobs without logprobs", {"top_logprobs": 2}, "logprobs", param="top_logprobs")
    yield _complete("logprobs: -1", {"logprobs": -1}, param="logprobs")
    yield _chat("stream_options without stream", {"stream_options": {}}, "stream",
                param="stream_options")
    yield _chat("include_usage: 1", {"stream": True, "stream_options": {"include_usage": 1}},
                param="stream_options.include_usage")
    yield _chat("response_format json", {"response_format": {"type": "json_object"}}, "text",
                param="response_format.type")
    yield _chat("1,000,000 stop strings", lambda: {"stop": [f"s{i}" for i in range(1_000_000)]},
                "1000000", "16", param="stop")
    yield _chat("17 stop strings", {"stop": ["a"] * 17}, "17", "16", param="stop")
    yield _chat("a stop string of 1 MiB", lambda: {"stop": "a" * MIB}, "1024", param="stop")
    yield _chat("an empty stop string", {"stop": [""]}, "empty", param="stop")
    for key in ("x", "-1", "1e3", "", "0x1", "99999999999999999999", str(VOCABULARY), "1.5"):
        yield _chat(f"logit_bias key {key!r}", {"logit_bias": {key: 1}}, "logit_bias",
                    param="logit_bias")
    for value in (101, -101, 1e300, "x", None, True, [], {}):
        yield _chat(f"logit_bias of {value}", {"logit_bias": {"1": value}}, param="logit_bias.1")
    yield _chat("logit_bias of 100,000 keys", lambda: {"logit_bias": {str(i): 1 for i in range(100_000)}},
                "100000", "1024", param="logit_bias")
    yield _post("logit_bias names a token twice", CHAT, _with(b'"logit_bias":{"7":1,"07":2}'), 400,
                "7", param="logit_bias")
    for ids in ([-1], [VOCABULARY], [2**31], [2**63], ["1"], [1.5], [None], [True]):
        yield _chat(f"stop_token_ids: {ids}", {"stop_token_ids": ids}, "stop_token_ids")
        yield _complete(f"prompt ids: {ids}", {"prompt": [1, *ids]}, "prompt")
        yield _post(f"detokenize: {ids}", "/detokenize", {"tokens": [1, *ids]}, 400, "tokens")
    yield _chat("65 stop_token_ids", {"stop_token_ids": list(range(65))}, "65", "64",
                param="stop_token_ids")


def _prompts():
    yield _complete("empty prompt", {"prompt": ""}, "0 tokens", param="prompt")
    yield _complete("empty prompt in a list", {"prompt": [""]}, "0 tokens")
    yield _complete("no ids", {"prompt": []}, "empty", param="prompt")
    yield _complete("no ids in a list", {"prompt": [[]]}, "empty")
    yield _complete("prompt: null", {"prompt": None}, "required", param="prompt")
    long = {"words": "word " * (2 * MAX_MODEL_LEN), "5 MB": "The grass is green. " * 250_000,
            "one letter": "a" * 200_000, "emoji": "\U0001f469‍\U0001f469‍\U0001f467" * 5_000}
    for name, text in long.items():
        yield _complete(f"prompt over the limit: {name}", {"prompt": text}, str(MAX_MODEL_LEN),
                        "max_model_len", param="prompt")
        yield _chat(f"messages over the limit: {name}",
                    {"messages": [{"role": "user", "content": text}]}, str(MAX_MODEL_LEN),
                    param="messages")
    yield _complete("ids over the limit", {"prompt": [1] * (MAX_MODEL_LEN + 1)}, str(MAX_MODEL_LEN + 1),
                    param="prompt")
    yield _complete("a prompt that leaves no room", {"prompt": [1] * MAX_MODEL_LEN}, "room")
    yield _complete("9,000,000 ids", lambda: {"prompt": [1] * 9_000_000}, "limit", param="prompt")
    yield _post("detokenize 9,000,000 ids", "/detokenize", lambda: {"tokens": [1] * 9_000_000}, 400,
                "9000000", param="tokens")
    for name, body in {"nothing": {}, "null": {"tokens": None}, "text": {"tokens": "x"},
                       "an object": {"tokens": {}}}.items():
        yield _post(f"detokenize {name}", "/detokenize", body, 400, "tokens", param="tokens")
        yield _post(f"tokenize {name}", "/tokenize", body, 400, "prompt", param="prompt")
    yield _post("tokenize 5", "/tokenize", {"prompt": 5}, 400, "string", param="prompt")


def _messages():
    message = {"role": "user", "content": "hi"}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    deep = "[" * 10_000 + "]" * 10_000
    for name, items, param, *words in [
            ("none", [], "messages", "empty"), ("null", None, "messages", "required"),
            ("a number", [1], "messages[0]", "object"), ("null inside", [message, None], "messages[1]"),
            ("a list inside", [[message]], "messages[0]"), ("no role", [{"content": "a"}], "messages[0].role"),
            ("an empty object", [{}], "messages[0].role"), ("role 5", [{"role": 5, "content": ""}], "messages[0].role"),
            ("an unknown role", [{"role": "king", "content": "a"}], "messages", "king"),
            ("an empty role", [{"role": "", "content": "a"}], "messages", "role"),
            ("a role of 1 MiB", [{"role": "r" * MIB, "content": "a"}], "messages", "role"),
            ("content null", [{"role": "user", "content": None}], "messages[0].content", "required"),
            ("content 5", [{"role": "user", "content": 5}], "messages[0].content"),
            ("content true", [{"role": "user", "content": True}], "messages[0].content"),
            ("content {}", [{"role": "user", "content": {}}], "messages[0].content"),
            ("a part 5", [{"role": "user", "content": [5]}], "messages[0].content[0]"),
            ("a part without type", [{"role": "user", "content": [{"text": "a"}]}], "messages[0].content[0].type"),
            ("a part without text", [{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
            ("65,537 messages", [message] * 65_537, "messages", "65537", "65536"),
            ("65,537 parts", [{"role": "user", "content": [{"type": "text", "text": ""}] * 65_537}],
             "messages[0].content", "65537", "65536"),
            ("tool_calls 5", [{"role": "assistant", "tool_calls": 5}], "messages[0].tool_calls"),
            ("tool_calls [5]", [{"role": "assistant", "tool_calls": [5]}], "messages[0].tool_calls[0]"),
            ("a call without function", [{"role": "assistant", "tool_calls": [{}]}],
             "messages[0].tool_calls[0].function"),
            ("a call without name", [{"role": "assistant", "tool_calls": [{"function": {}}]}],
             "messages[0].tool_calls[0].function.name"),
            ("a user's call", [{"role": "user", "content": "", "tool_calls": [call]}], "messages", "tool calls"),
            ("bad arguments", [{"role": "assistant", "tool_calls": [
                {**call, "function": {"name": "f", "arguments": "{"}}]}], "messages", "JSON"),
            ("deep arguments", [{"role": "assistant", "tool_calls": [
                {**call, "function": {"name": "f", "arguments": deep}}]}], "messages"),
            ("1,025 calls", [{"role": "assistant", "tool_calls": [call] * 1025}], "messages[0].tool_calls", "1024"),
            ("tool_call_id 5", [{"role": "tool", "content": "a", "tool_call_id": 5}], "messages[0].tool_call_id")]:
        yield _chat(f"messages: {name}", {"messages": items}, *words, param=param)
    for kind in ("image_url", "input_audio", "video_url", "file", "TEXT", ""):
        parts = [{"type": "text", "text": "what is this?"}, {"type": kind, kind or "x": {"url": "data:,"}}]
        yield _chat(f"a part of type {kind!r}", {"messages": [{"role": "user", "content": parts}]},
                    kind, "text", param="messages[0].content[1].type")
    function = {"type": "function", "function": {"name": "f"}}
    for name, tools, param in [
            ("5", [5], "tools[0]"), ("no type", [{}], "tools[0].type"), ("type x", [{"type": "x"}], "tools[0].type"),
            ("no function", [{"type": "function"}], "tools[0].function"),
            ("function 5", [{"type": "function", "function": 5}], "tools[0].function"),
            ("no name", [function, {"type": "function", "function": {}}], "tools[1].function.name"),
            ("1,025 of them", [function] * 1025, "tools")]:
        yield _chat(f"tools: {name}", {"tools": tools}, param=param)
    for choice in ("required", 5, {"type": "function", "function": {"name": "f"}}):
        yield _chat(f"tool_choice: {choice}", {"tools": [function], "tool_choice": choice},
                    param="tool_choice")


def _models():
    yield _chat("unknown model", {"model": "gpt-9"}, "gpt-9", status=404)
    yield _chat("an empty model's name", {"model": ""}, status=404)
    yield _chat("a model's name of 1 MiB", lambda: {"model": "m" * MIB}, "model", status=404)
    yield _chat("a model's name in other letters", {"model": "DEMO"}, "DEMO", status=404)
    yield _chat("model: null", {"model": None}, "required", param="model")
    yield _post("no model", CHAT, {"messages": []}, 400, "required", param="model")
    yield _post("tokenize with an unknown model", "/tokenize", {"model": "x", "prompt": "a"}, 404, "x")
    yield _raw("GET of an unknown model", _head("/v1/models/" + "x" * 1000, None, method="GET"), 404)


# ---- HTTP ----

def _get(path, *fields):
    return _head(path, None, *fields, method="GET")


@functools.cache
def _bomb():
    """128 MiB of spaces in about 130 KB."""
    squeezer = zlib.compressobj(9, wbits=31)
    return b"".join(squeezer.compress(b" " * MIB) for _ in range(128)) + squeezer.flush()


def _compressed():
    plain = json.dumps(chat()).encode()
    packed = gzip.compress(plain)
    damaged = packed[:-8] + bytes(8)
    for name, body, status, *words in [
            ("truncated", packed[:-10], 400, "gzip"), ("cut in the header", packed[:5], 400, "gzip"),
            ("with a wrong checksum", damaged, 400, "gzip"), ("that is plain", plain, 400, "gzip"),
            ("twice", gzip.compress(packed), 400), ("with a tail", packed + b"tail", 400, "gzip"),
            ("of 65 deep", gzip.compress(_with(b'"m":' + b"[" * 65 + b"]" * 65)), 400, "deep")]:
        yield _post(f"gzip {name}", CHAT, body, status, *words, fields=["Content-Encoding: gzip"])
    yield _post("a gzip bomb", CHAT, _bomb, 413, "limit", fields=["Content-Encoding: gzip"])
    yield _post("a gzip bomb to tokenize", "/tokenize", _bomb, 413, fields=["Content-Encoding: gzip"])
    yield _post("100,000 empty gzip members", CHAT, lambda: gzip.compress(b"") * 100_000, 400,
                fields=["Content-Encoding: gzip"])
    for encoding in ("br", "zstd", "gzip, gzip", "x" * 1000, "gzip;q=1"):
        yield _post(f"Content-Encoding {encoding[:10]}", CHAT, plain, 415, "Content-Encoding",
                    fields=[f"Content-Encoding: {encoding}"])


def _lengths():
    for length in (2 << 30, MAX_BODY_BYTES + 1, 2**63 - 1):
        yield _raw(f"Content-Length {length}", _head(CHAT, length) + b"{", 413,
                   str(MAX_BODY_BYTES), closes=True)
    for length in ("-1", "abc", "0x10", "+5", "5 5", "5, 6", 2**64, 10**30, "", "1e3", "５"):
        data = _head(CHAT, None)[:-2] + f"Content-Length: {length}\r\n\r\n".encode() + b"{}"
        yield _raw(f"Content-Length {length!r}", data, (400, 413), closes=True)
    yield _raw("two Content-Lengths", _head(CHAT, 2, "Content-Length: 4") + b"{}{}", 400, closes=True)
    yield _raw("both framings", _head(CHAT, 4, "Transfer-Encoding: chunked") + b"0\r\n\r\n" +
               _get("/health"), 400, closes=True)
    yield _raw("both framings, the other order", _head(CHAT, None, "Transfer-Encoding: chunked",
                                                       "Content-Length: 4") + b"0\r\n\r\n", 400, closes=True)
    yield _raw("half a body, then its end", _head(CHAT, 1000) + b'{"model":', (400, None), then="shut",
               closes=True)
    for then in ("leave", "reset"):
        yield _raw(f"half a body, then {then}", _head(CHAT, 1000) + b'{"model":', None, then=then)
        yield _raw(f"half a head, then {then}", _head(CHAT, 1000)[:40], None, then=then)
        yield _raw(f"a whole request, then {then}", post(CHAT, chat(max_tokens=100, ignore_eos=True)),
                   None, then=then)
        yield _raw(f"a stream, then {then}", post(CHAT, chat(max_tokens=100, ignore_eos=True, stream=True)),
                   None, then=then)
        yield _raw(f"nothing, then {then}", b"", None, then=then)


def _chunked():
    def chunked(body, *fields):
        return _head(CHAT, None, "Transfer-Encoding: chunked", *fields) + body
    plain = json.dumps(chat()).encode()
    whole = b"%x\r\n%s\r\n0\r\n\r\n" % (len(plain), plain)
    for name, body in {
            "a size that is none": b"zz\r\n{}\r\n0\r\n\r\n", "a negative size": b"-2\r\n{}\r\n0\r\n\r\n",
            "a size of 2^68": b"fffffffffffffffff\r\n{}", "0x before the size": b"0x2\r\n{}\r\n0\r\n\r\n",
            "no line end after a chunk": b"2\r\n{}0\r\n\r\n", "a chunk longer than it says": b"1\r\n{}\r\n0\r\n\r\n",
            "an empty size": b"\r\n{}\r\n0\r\n\r\n", "a space before the size": b" 2\r\n{}\r\n0\r\n\r\n",
            "null bytes": bytes(100) + b"\r\n", "a line end of one byte": b"2\n{}\n0\n\n\r\n"}.items():
        yield _raw(f"chunks: {name}", chunked(body), 400, closes=True)
    for name, body, status in [
            ("2^60 bytes at once", b"1000000000000000\r\n{", (400, 413)),
            ("an extension of 1 MiB", b"2;" + b"x" * MIB + b"\r\n{}\r\n0\r\n\r\n", (400, 413, 431)),
            ("a size of 1 MiB of zeros", b"0" * MIB + b"\r\n\r\n", (400, 413, 431)),
            ("trailers of 1 MiB", whole[:-2] + b"x: " + b"y" * MIB + b"\r\n\r\n", (400, 413, 431)),
            # What fits in the buffer of a connection may pass.
            ("10,000 trailers", whole[:-2] + b"x: y\r\n" * 10_000 + b"\r\n", (200, 400, 413, 431))]:
        yield _raw(f"chunks: {name}", chunked(body), status, closes=True)
    yield _raw("chunks: 65 MiB", lambda: [chunked(b"")] + [b"100000\r\n" + b" " * MIB + b"\r\n"] * 65,
               413, str(MAX_BODY_BYTES), closes=True)
    yield _raw("chunks: one byte each", chunked(b"".join(b"1\r\n%c\r\n" % c for c in plain) + b"0\r\n\r\n"), 200)
    yield _raw("chunks: extensions", chunked(b'%x;a=b;c="d"\r\n%s\r\n0;z\r\n\r\n' % (len(plain), plain)), 200)
    yield _raw("chunks: their end is missing", chunked(whole[:-5]), (400, None), then="shut", closes=True)
    for coding in ("gzip, chunked", "identity", "xchunked", "chunked, gzip", "chunked, chunked", "", "\x0bchunked"):
        data = _head(CHAT, None, f"Transfer-Encoding: {coding}") + whole
        yield _raw(f"Transfer-Encoding {coding!r}", data, (400, 415, 501), closes=True)
    for name, line in {"a space before the colon": "Transfer-Encoding : chunked",
                       "a folded line": "X: a\r\n Transfer-Encoding: chunked",
                       "no colon": "Transfer-Encoding chunked"}.items():
        # A line that is folded into another leaves a body of unknown length.
        yield _raw(f"Transfer-Encoding, {name}", _head(CHAT, None, line) + whole, (400, 411),
                   closes=True)
    yield _raw("Transfer-Encoding in HTTP/1.0", _head(CHAT, None, "Transfer-Encoding: chunked")
               .replace(b"HTTP/1.1", b"HTTP/1.0") + whole, (200, 400), closes=True)


def _heads():
    many = [f"h{i}: {i}" for i in range(10_000)]
    yield _raw("10,000 headers", _get("/health", *many), 431, "limit", closes=True)
    yield _raw("a header of 1 MiB", _get("/health", "x: " + "y" * MIB), 431, closes=True)
    yield _raw("a header's name of 1 MiB", _get("/health", "y" * MIB + ": x"), (400, 431), closes=True)
    yield _raw("a URL of 1 MiB", _get("/health?" + "x" * MIB), (414, 431), closes=True)
    yield _raw("a method of 1 MiB", b"G" * MIB + b" /health HTTP/1.1\r\n\r\n", (400, 431), closes=True)
    yield _raw("1 MiB of line ends", b"\r\n" * (MIB // 2), (400, 431, None), then="shut", closes=True)
    yield _raw("HTTP/0.9", b"GET /health\r\n\r\n", 400, closes=True)
    yield _raw("HTTP/0.9, one line", b"GET /health\r\n", (400, None), then="shut", closes=True)
    yield _raw("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), (400, 505), closes=True)
    for version in ("HTTP/1.2", "HTTP/3.0", "HTTP/9.9"):
        yield _raw(version, f"GET /health {version}\r\n\r\n".encode(), 505, closes=True)
    for version in ("HTTP/1", "http/1.1", "HTTP/11", "HTTP/1.1.1", "HTP/1.1", "HTTP/-1.1"):
        yield _raw(version, f"GET /health {version}\r\n\r\n".encode(), (400, 505), closes=True)
    hello = bytes.fromhex("16030100f1010000ed0303") + random.Random(1).randbytes(235)
    yield _raw("a TLS hello", hello, 400, closes=True)
    yield _raw("an SSH banner", b"SSH-2.0-OpenSSH_9.2\r\n", 400, closes=True)
    yield _raw("1 MiB of zeros", bytes(MIB), 400, closes=True)
    yield _raw("1 MiB of noise", b"\x80" + random.Random(2).randbytes(MIB), 400, closes=True)
    for name, line in {"no colon": b"nothing", "a space in the name": b"a b: c", "an empty name": b": x",
                       "a null byte": b"x: a\0b", "a bare return": b"x: a\rb: c",
                       "a name of noise": b"\xff: 1"}.items():
        yield _raw(f"a header with {name}", b"GET /health HTTP/1.1\r\n" + line + b"\r\n\r\n", 400, closes=True)
    for line in (b"GET  /health HTTP/1.1", b"GET /he alth HTTP/1.1", b" GET /health HTTP/1.1",
                 b"GET\t/health\tHTTP/1.1",
                 b"G\0T /health HTTP/1.1", b"GET /\0 HTTP/1.1", b"/health", b"GET", b"\xff\xff /health HTTP/1.1"):
        yield _raw(f"the line {line!r}", line + b"\r\n\r\n", (400, 505), closes=True)
    for path in ("/nothing", "/../etc/passwd", "/%2e%2e/", "//health", "/health/", "/v1", "*", "/%00", "/%zz", "/%",
                 "/" + "a/" * 5000, "/v1/chat/completions/", "x", "/\xff\xfe"):
        yield _raw(f"GET {path[:24]}", _get(path), (400, 404))
    for method in ("PUT", "DELETE", "TRACE", "PATCH", "FROB", "get", "CONNECT"):
        yield _raw(f"{method} /health", _head("/health", None, method=method), (400, 405))
    yield _raw("GET of a POST", _get(CHAT), 405, "POST")
    yield _raw("POST of a GET", post("/health", b"{}"), 405, "GET", closes=True)
    yield _raw("POST without a body", _head(CHAT, None), (400, 411))
    for expect in ("nonsense", "100-continue, x", "200-ok", "x" * 1000):
        yield _raw(f"Expect: {expect[:16]}", post(CHAT, chat(), f"Expect: {expect}"), 417, "Expect", closes=True)
    for value in ("abc", "-1", "0", "NaN", "1e999", "inf", "1 s", "9" * 1000):
        yield _post(f"X-Request-Timeout: {value[:8]}", CHAT, chat(), 400, "imeout",
                    fields=[f"X-Request-Timeout: {value}"])
    two = post(CHAT, chat()).replace(b"Connection: close\r\n", b"")
    yield _raw("pipelined requests", two + two + two, 200, closes=True)
    yield _raw("pipelined GETs", _get("/health").replace(b"Connection: close\r\n", b"") * 1000, 200)
    yield _raw("garbage behind a request", post(CHAT, chat()) + b"\0garbage" * 1000, 200, closes=True)


def cases():
    """All cases; names are unique."""
    parts = (_texts, _json, _wrong_types, _ranges, _prompts, _messages, _models, _compressed,
             _lengths, _chunked, _heads)
    table = [case for part in parts for case in part()]
    names = [case.name for case in table]
    assert len(set(names)) == len(names), sorted(n for n in names if names.count(n) > 1)
    return table
