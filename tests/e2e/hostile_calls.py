"""Bad input for the gRPC side: one table of calls, each with the code that it has to get.

The server is that of hostile_requests.py.
"""

import dataclasses
import json
import math

import grpc

from hostile_requests import MAX_BODY_BYTES, MAX_MODEL_LEN, MIB, MODEL, VOCABULARY

SERVICE = "/longhaul.v1.Inference/"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@dataclasses.dataclass(frozen=True)
class Call:
    name: str
    method: str
    message: bytes
    codes: tuple
    words: tuple = ()
    field: str | None = None  # that the error's detail names, or a part of it
    compression: grpc.Compression = grpc.Compression.NoCompression
    metadata: tuple = ()

    def code_of(self, channel, timeout=30):
        """Makes the call to its end; returns the RpcError that it ends with, None for success."""
        call = channel.unary_stream(
            self.method if self.method.startswith("/") else SERVICE + self.method,
            request_serializer=bytes, response_deserializer=bytes)(
                self.message, timeout=timeout, compression=self.compression, metadata=self.metadata)
        try:
            for _ in call:
                pass
        except grpc.RpcError as error:
            return error
        return None


def calls(stubs):
    """All calls, made from the protos' `stubs`; names are unique."""
    pb, types = stubs.inference, stubs.types
    table = []

    def add(name, method, message, codes, *words, **options):
        codes = codes if isinstance(codes, tuple) else (codes,)
        data = message if isinstance(message, bytes) else message.SerializeToString()
        table.append(Call(name, method, data, codes, words, **options))

    def chat(name, *words, field=None, codes=INVALID, messages=None, tools=(), **options):
        messages = [{"role": "user", "content": "hi"}] if messages is None else messages
        add(name, "Chat", pb.ChatRequest(
            model=MODEL, messages=[pb.ChatMessage(**message) for message in messages], tools=tools,
            options=pb.GenerateOptions(**options)), codes, *words, field=field)

    # Numbers.
    odd = (math.nan, math.inf, -math.inf)
    for name, values in {
            "temperature": [*odd, -1, 2.5], "top_p": [*odd, 0, -1, 1.5], "min_p": [*odd, -1, 2],
            "repetition_penalty": [*odd, 0, -1, 11], "presence_penalty": [*odd, -3, 3],
            "frequency_penalty": [*odd, -3, 3], "top_k": [-2, -(2**31), VOCABULARY + 1, 2**31 - 1]}.items():
        for value in values:
            chat(f"{name}: {value}", name, field=name, sampling=types.Sampling(**{name: value}))
    for key, value in ((1, math.nan), (1, math.inf), (1, 101), (VOCABULARY, 1), (2**32 - 1, 1)):
        chat(f"logit_bias {key}: {value}", "logit_bias", field="logit_bias",
             sampling=types.Sampling(logit_bias={key: value}))
    chat("logit_bias of 100,000 keys", "1024", field="logit_bias",
         sampling=types.Sampling(logit_bias={i: 1 for i in range(100_000)}))
    for name, value in (("max_tokens", MAX_MODEL_LEN), ("max_tokens", 2**32 - 1), ("min_tokens", 2**32 - 1),
                        ("stop_token_ids", [VOCABULARY]), ("stop_token_ids", [2**32 - 1]),
                        ("stop_token_ids", list(range(65)))):
        chat(f"{name}: {str(value)[:20]}", name, field=name, stopping=types.Stopping(**{name: value}))
    for name, value in (("n", 0), ("n", 17), ("n", 2**32 - 1), ("top_logprobs", 21), ("top_logprobs", 2**32 - 1),
                        ("priority", -101), ("priority", 2**31 - 1), ("truncate_prompt_tokens", 0),
                        ("truncate_prompt_tokens", -2), ("truncate_prompt_tokens", 2**31 - 1),
                        ("request_id", "x" * 129), ("request_id", "a\nb"), ("request_id", "é")):
        chat(f"{name}: {str(value)[:20]!r}", name, field=name, **{name: value})
    for name, stop in (("17 of them", ["a"] * 17), ("an empty one", [""]), ("one of 1 MiB", ["a" * MIB]),
                       ("1,000,000 of them", ["s"] * 1_000_000)):
        chat(f"stop: {name}", "stop", field="stop", stop=stop)

    # Prompts.
    chat("no messages", field="messages", messages=[])
    for role in ("", "king", "r" * MIB):
        chat(f"role {role[:8]!r}", "role", field="messages", messages=[{"role": role, "content": "a"}])
    chat("a user's tool call", "tool calls", field="messages",
         messages=[{"role": "user", "tool_calls": [pb.ToolCall()]}])
    deep = "[" * 10_000 + "]" * 10_000
    for name, text in (("empty", ""), ("no JSON", "{"), ("deep", deep), ("a number", "5")):
        chat(f"tool: {name}", tools=[pb.Tool(function_json=text)])
        if name != "empty":  # a call without arguments is one
            arguments = pb.ToolCall(function=pb.FunctionCall(name="f", arguments_json="[" + text))
            chat(f"arguments: {name}", field="messages",
                 messages=[{"role": "assistant", "tool_calls": [arguments]}])
    chat("messages over the limit", str(MAX_MODEL_LEN), field="messages",
         messages=[{"role": "user", "content": "The grass is green. " * 250_000}])
    for name, fields in {"nothing": {}, "an empty text": {"prompt": ""}, "no ids": {"prompt_ids": {}},
                         "an id beyond the vocabulary": {"prompt_ids": {"ids": [1, VOCABULARY]}},
                         "an id of 2^32 - 1": {"prompt_ids": {"ids": [2**32 - 1]}},
                         "a text over the limit": {"prompt": "word " * MAX_MODEL_LEN * 2},
                         "ids over the limit": {"prompt_ids": {"ids": [1] * 5_000_000}}}.items():
        add(f"prompt: {name}", "Complete", pb.CompleteRequest(model=MODEL, **fields), INVALID, "prompt",
            field="prompt")
    for ids in ([VOCABULARY], [2**31], [2**32 - 1]):
        add(f"detokenize {ids}", "Detokenize", pb.DetokenizeRequest(model=MODEL, tokens={"ids": ids}), INVALID,
            str(ids[0]), field="tokens")
    add("tokenize text and messages", "Tokenize", pb.TokenizeRequest(
        model=MODEL, text="a", messages=[pb.ChatMessage(role="user")]), INVALID, "messages", field="messages")

    # Models.
    for name in ("", "other", "m" * 10_000, "m" * MIB):
        for method, kind in {"Chat": pb.ChatRequest, "Complete": pb.CompleteRequest, "GetModel": pb.GetModelRequest,
                             "Tokenize": pb.TokenizeRequest, "Detokenize": pb.DetokenizeRequest}.items():
            # A request without a prompt may be refused for that.
            codes = (grpc.StatusCode.NOT_FOUND, INVALID) if method == "Complete" else grpc.StatusCode.NOT_FOUND
            words = () if method == "Complete" else ("model",)
            add(f"{method} of model {name[:8]!r}, {len(name)} bytes", method, kind(model=name), codes, *words)

    # Bytes that are no message, or none that is wanted.
    text = b"caf\xc3\x28"
    for name, data in {
            "noise": b"\xff" * 100, "invalid UTF-8 in model": b"\x0a%c%s" % (len(text), text),
            "invalid UTF-8 in a message": b"\x12%c\x12%c%s" % (len(text) + 2, len(text), text),
            "a length beyond the end": b"\x0a\x7f{}", "a length of 2^31": b"\x0a\x80\x80\x80\x80\x08",
            "groups 10,000 deep": b"\x0b" * 10_000, "a tag of 0": bytes(10), "half a varint": b"\x0a\x80"}.items():
        add(f"bytes: {name}", "Chat", data, INVALID)
    add("bytes: the model as a number", "Chat", b"\x08\x01", grpc.StatusCode.NOT_FOUND)
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    add("a message over the limit", "Tokenize", pb.TokenizeRequest(model=MODEL, text=" " * MAX_BODY_BYTES),
        exhausted, str(MAX_BODY_BYTES))
    add("a gzip bomb", "Tokenize", pb.TokenizeRequest(model=MODEL, text=" " * (128 * MIB)),
        grpc.StatusCode.UNIMPLEMENTED, "gzip", compression=grpc.Compression.Gzip)
    add("an unknown method", "Nothing", b"", grpc.StatusCode.UNIMPLEMENTED)
    add("an unknown service", "/x.Y/Z", b"", grpc.StatusCode.UNIMPLEMENTED)
    json_body = json.dumps({"model": MODEL}).encode()
    add("JSON", "Chat", json_body, INVALID)
    # Last: it may end the connection, which the next call may learn too late.
    add("metadata of 1 MiB", "GetModel", pb.GetModelRequest(model=MODEL), exhausted,
        metadata=(("x", "y" * MIB),))

    names = [call.name for call in table]
    assert len(set(names)) == len(names), sorted(n for n in names if names.count(n) > 1)
    return table
