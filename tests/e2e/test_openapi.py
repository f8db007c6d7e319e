"""The description of the REST paths (router/rest/openapi.json) and the router agree.

Schemathesis makes requests that fit the description, and some that do not, and holds the answers
against it. What it cannot know is tested by hand: that the description names all that the code
reads, what an error calls the field at fault, the events of streams, errors of HTTP.
"""

import concurrent.futures
import copy
import gzip
import http.client
import json
import os
import pathlib
import re
import socket
import zlib

import httpx
import hypothesis
import hypothesis.configuration
import jsonschema_rs
import pytest
import schemathesis
from schemathesis.generation import GenerationMode

from conftest import SOURCE
from programs import Router

REST = SOURCE / "router" / "rest"
DOCUMENT = json.loads((REST / "openapi.json").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]
VOCABULARY = json.loads((SOURCE / "models" / "demo" / "config.json").read_text())["vocab_size"]
REQUESTS = {
    "/v1/chat/completions": ["ChatCompletionRequest"],
    "/v1/completions": ["CompletionRequest"],
    "/tokenize": ["TokenizeTextRequest", "TokenizeChatRequest"],
    "/detokenize": ["DetokenizeRequest"],
}
# Random requests an operation, besides those at the edges of its schemas.
EXAMPLES = int(os.environ.get("LONGHAUL_OPENAPI_EXAMPLES", 40))
MAX_TOKENS = 4


def closed(document):
    """The document, but an object in an answer has no more fields than it says."""
    document = copy.deepcopy(document)
    schemas = document["components"]["schemas"]
    seen = set()

    def close(schema, name=""):
        if isinstance(schema, list):
            for item in schema:
                close(item)
        if not isinstance(schema, dict):
            return
        target = schema.get("$ref", "").rpartition("/")[2]
        if target and target not in seen:
            seen.add(target)
            close(schemas[target], target)
        if isinstance(schema.get("properties"), dict) and not name.endswith("Event"):
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            close(value)

    answers = list(document["components"]["responses"].values())
    for item in document["paths"].values():
        for operation in item.values():
            answers += operation["responses"].values()
    for answer in answers:
        for media in answer.get("content", {}).values():
            close(media)
    return document


CLOSED = closed(DOCUMENT)


def check(schema, instance):
    """Fails unless the instance is what the schema (a part of the document) describes."""
    whole = {**schema, "components": CLOSED["components"]}
    jsonschema_rs.validator_for(whole, validate_formats=True).validate(instance)


def check_answer(answer, path, method="post", component=None):
    """Fails unless an answer (of httpx) is one that the document has for the operation."""
    status = str(answer.status_code)
    if component is None:
        responses = CLOSED["paths"][path][method]["responses"]
        assert status in responses, f"{path} is not described to answer {status}: {answer.text}"
        described = responses[status]
    else:
        described = CLOSED["components"]["responses"][component]
    if "$ref" in described:
        described = CLOSED["components"]["responses"][described["$ref"].rpartition("/")[2]]
    for name, header in described["headers"].items():
        if "$ref" in header:
            header = CLOSED["components"]["headers"][header["$ref"].rpartition("/")[2]]
        assert name in answer.headers or not header.get("required"), f"{status} without {name}"
        if name in answer.headers:
            value = answer.headers[name]
            check(header["schema"], int(value) if header["schema"].get("type") == "integer" else value)
    media_type = answer.headers["content-type"].partition(";")[0]
    if media_type == "application/json":
        check(described["content"][media_type]["schema"], answer.json())
    else:
        assert any(key.partition(";")[0] == media_type for key in described["content"])


# ---- the document and the code ----


def test_references_lead_to_schemas():
    def walk(node, path):
        if isinstance(node, list):
            for i, item in enumerate(node):
                walk(item, f"{path}/{i}")
        elif isinstance(node, dict):
            target = node.get("$ref")
            if isinstance(target, str):
                referred.add(target)
                found = DOCUMENT
                for word in target.removeprefix("#/").split("/"):
                    assert word in found, f"{path} refers to {target}"
                    found = found[word]
            for key, value in node.items():
                walk(value, f"{path}/{key}")

    referred = set()
    walk(DOCUMENT, "#")
    for name, schema in SCHEMAS.items():
        assert f"#/components/schemas/{name}" in referred, f"nothing refers to {name}"
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema",
                                     **schema})


def test_examples_are_valid():
    for path, item in DOCUMENT["paths"].items():
        media = item.get("post", {}).get("requestBody", {}).get("content", {})
        for name, example in media.get("application/json", {}).get("examples", {}).items():
            check(media["application/json"]["schema"], example["value"])


def test_every_route_is_described():
    table = re.search(r"kRoutes\[\] = \{(.*?)\};", (REST / "rest_routes.cc").read_text(), re.S)
    routes = {path: "post" if is_post == "true" else "get"
              for path, is_post in re.findall(r'\{"([^"]+)", (true|false)\}', table[1])}
    routes["/v1/models/{model}"] = "get"
    assert {path: list(item) for path, item in DOCUMENT["paths"].items()} == {
        path: [method] for path, method in routes.items()}


def field_names(schema, names):
    """Collects the names of all properties below a request's schema."""
    if isinstance(schema, list):
        for item in schema:
            field_names(item, names)
    elif isinstance(schema, dict):
        if "$ref" in schema:
            field_names(SCHEMAS[schema["$ref"].rpartition("/")[2]], names)
        for name, value in schema.get("properties", {}).items():
            names.add(name)
            field_names(value, names)
        for key in ("anyOf", "items", "additionalProperties"):
            field_names(schema.get(key), names)
    return names


def test_every_field_that_is_read_is_described_and_no_other():
    code = (REST / "openai_codec.cc").read_text()
    read = set(re.findall(r'(?:\.|->)(?:String|Number|Bool|Integer|Object|Array|Find)\("(\w+)"', code))
    read |= set(re.findall(r'Required\w+\([\w*]+, "(\w+)"', code))
    described = set()
    for names in REQUESTS.values():
        field_names([SCHEMAS[name] for name in names], described)
    assert described == read


def test_the_document_is_served(cluster):
    answer = httpx.get(cluster.base + "/openapi.json")
    check_answer(answer, "/openapi.json", "get")
    assert answer.text == (REST / "openapi.json").read_text()
    version = httpx.get(cluster.base + "/version").json()["version"]
    assert answer.json()["info"]["version"] == version
    head = httpx.head(cluster.base + "/openapi.json")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == answer.headers["content-length"]


# ---- fields ----

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "The grass is"}], "max_tokens": 1}
BASES = {
    "ChatCompletionRequest": CHAT,
    "CompletionRequest": {"model": "demo", "prompt": "The grass is", "max_tokens": 1},
    "TokenizeTextRequest": {"prompt": "The grass is"},
    "TokenizeChatRequest": {"messages": CHAT["messages"]},
    "DetokenizeRequest": {"tokens": [1]},
}
SAMPLES = {"string": "no", "number": 7.5, "boolean": True, "array": [], "object": {}}
# Alternatives that differ by more than the type; one that can hold each field.
FULL = {
    "messages": [{"role": "assistant", "content": [{"type": "text", "text": "a"}],
                  "tool_call_id": "1",
                  "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}],
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "prompt": [1],
    "logit_bias": {"1": 1},
    "stop": ["a"],
    "stop_token_ids": [1],
    "stream_options": {"include_usage": True, "include_progress": True},
    "response_format": {"type": "text"},
    "tokens": [1],
}


def alternatives(schema):
    """The schema without references and anyOf: a list of plain schemas."""
    if "$ref" in schema:
        return alternatives(SCHEMAS[schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return [plain for part in schema["anyOf"] for plain in alternatives(part)]
    return [schema]


def json_types(plain):
    types = plain.get("type", [])
    types = {types} if isinstance(types, str) else set(types)
    for value in plain.get("enum", [plain["const"]] if "const" in plain else []):
        types.add({str: "string", bool: "boolean", type(None): "null"}[type(value)])
    return types


def wrong_values(plains):
    """Values that no alternative takes, of wrong types and out of range."""
    types = set().union(*(json_types(plain) for plain in plains))
    for name, value in SAMPLES.items():
        if name not in types:
            yield value
    for plain in plains:
        if "null" not in types:
            yield None
        for key, step in (("minimum", -1), ("exclusiveMinimum", 0), ("maximum", 1)):
            if key in plain:
                yield plain[key] + step
        if "items" in plain and plain["maxItems"] <= 1024:
            item = {"string": "a", "integer": 1}.get(alternatives(plain["items"])[0]["type"], {})
            yield [item] * (plain["maxItems"] + 1)
        if plain.get("minItems") and all("minItems" in other for other in plains):
            yield []
        if plain.get("minLength"):
            yield ""
        if "maxLength" in plain:
            yield "x" * (plain["maxLength"] + 1)
        if "enum" in plain or "const" in plain:
            yield from {"string": ["no"], "boolean": [True]}.get((json_types(plain) - {"null"}).pop(), [])


def fields_below(plains, path, value):
    """(path, schemas) of everything below a place of a request that `value` has an example of."""
    for plain in plains:
        if isinstance(value, dict):
            for name, part in plain.get("properties", {}).items():
                if name in value:
                    yield path + [name], alternatives(part)
                    yield from fields_below(alternatives(part), path + [name], value[name])
            if isinstance(plain.get("additionalProperties"), dict):
                name = next(iter(value))
                yield path + [name], alternatives(plain["additionalProperties"])
        elif isinstance(value, list) and value and "items" in plain:
            yield path + [0], alternatives(plain["items"])
            yield from fields_below(alternatives(plain["items"]), path + [0], value[0])


def replaced(body, path, value):
    body = copy.deepcopy(body)
    place = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return body


@pytest.mark.parametrize("name", BASES)
def test_a_wrong_field_is_refused_by_its_name(cluster, name):
    path = next(path for path, names in REQUESTS.items() if name in names)
    wrong = 0
    with httpx.Client(base_url=cluster.base) as client:
        for field, schema in SCHEMAS[name]["properties"].items():
            if name == "TokenizeTextRequest" and field == "messages":
                continue  # any other value makes it a chat
            body = dict(BASES[name])
            if field == "stream_options":
                body["stream"] = True
            places = [([field], alternatives(schema))]
            if field in FULL:
                body[field] = FULL[field]
                places += fields_below(alternatives(schema), [field], FULL[field])
            for place, plains in places:
                # The same place is reached by several alternatives: all of them describe it.
                plains = [plain for where, group in places if where == place for plain in group]
                for value in wrong_values(plains):
                    if name == "TokenizeChatRequest" and place == ["messages"] and value is None:
                        continue  # makes it a text
                    answer = client.post(path, json=replaced(body, place, value))
                    case = (place, value, answer.text)
                    if place == ["model"] and isinstance(value, str):
                        assert answer.status_code == 404, case
                    else:
                        assert answer.status_code == 400, case
                        param = answer.json()["error"]["param"]
                        assert param and param.partition(".")[0].partition("[")[0] == field, case
                    check_answer(answer, path)
                    wrong += 1
            # What may be null may be left out.
            if any("null" in json_types(plain) for plain in alternatives(schema)):
                body = {**BASES[name], field: None}
                if field == "max_tokens":
                    body["max_completion_tokens"] = 1
                answer = client.post(path, json=body)
                assert answer.status_code == 200, (field, answer.text)
    assert wrong > 4


# ---- generated requests ----


def for_demo(document):
    """The document of a router that serves the demo model, with what it says in words as numbers."""
    document = closed(document)
    schemas = document["components"]["schemas"]
    schemas["ModelName"] = {"enum": ["demo"]}
    schemas["OptionalModelName"] = {"enum": ["demo", None]}
    schemas["TokenId"]["maximum"] = VOCABULARY - 1
    schemas["TopK"]["maximum"] = VOCABULARY
    schemas["Timeout"]["maximum"] = 86400
    parameters = document["components"]["parameters"]
    parameters["RequestTimeout"]["schema"]["maximum"] = 86400
    for item in document["paths"].values():
        for operation in item.values():
            # Schemathesis sends bodies as they are; test_compressed_bodies sends others.
            operation["parameters"] = [
                parameter for parameter in operation["parameters"]
                if parameter.get("$ref") != "#/components/parameters/ContentEncoding"]
    return document


def clamp(value):
    """Numbers that are integers of at most 64 bits, the widest that are read."""
    if isinstance(value, list):
        return [clamp(item) for item in value]
    if isinstance(value, dict):
        return {key: clamp(item) for key, item in value.items()}
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-(1 << 63), min(value, (1 << 64) - 1))
    return value


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def patient(timeout):
    """A timeout that is not over at once, unless it is none."""
    try:
        return max(float(timeout), 60) if 0 < float(timeout) <= 86400 else timeout
    except (TypeError, ValueError):
        return timeout


def keep_small(body):
    """Bounds the work of a request, valid or not, and lets it be done."""
    if is_number(body.get("timeout")):
        body["timeout"] = patient(body["timeout"])
    if isinstance(body.get("prompt"), list) and body.get("n") in range(3, 17):
        body["n"] = 2  # of each prompt
    limits = [body[name] for name in ("max_tokens", "max_completion_tokens") if name in body]
    if all(limit is None for limit in limits):
        body["max_tokens"] = MAX_TOKENS
    for name in ("max_tokens", "max_completion_tokens"):
        if is_number(body.get(name)) and body[name] == int(body[name]):
            body[name] = min(body[name], MAX_TOKENS)


def reconcile(body):
    """Makes valid fields fit each other, as their descriptions ask for."""
    if body.get("stream") is not True:
        body.pop("stream_options", None)
    if body.get("logprobs") is not True and body.get("top_logprobs"):
        body["top_logprobs"] = 0
    if body.get("stream") or (body.get("echo") and body.get("logprobs") is not None):
        body.pop("prompt_logprobs", None)
    if body.get("best_of") is not None:
        body["best_of"] = body.get("n") or 1
    if body.get("min_tokens"):
        limit = body.get("max_completion_tokens")
        limit = body["max_tokens"] if limit is None else limit
        body["min_tokens"] = min(body["min_tokens"], limit)
    if body.get("truncate_prompt_tokens"):
        body["truncate_prompt_tokens"] = min(body["truncate_prompt_tokens"], 1024)
    for message in body.get("messages") or []:
        for call in message.get("tool_calls") or []:
            if call["function"].get("arguments"):
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    if body.get("logit_bias"):
        body["logit_bias"] = {
            str(i): bias for i, bias in enumerate(body["logit_bias"].values())}
    stop = body.get("stop")
    if stop:
        body["stop"] = stop[:256] if isinstance(stop, str) else [text[:256] for text in stop]
    return clamp(body)


# What Hypothesis keeps goes into the build folder.
hypothesis.configuration.set_hypothesis_home_dir(
    pathlib.Path(os.environ["LONGHAUL_STUB_DIR"]).parent / "hypothesis")
api = schemathesis.openapi.from_dict(
    for_demo(DOCUMENT), config=schemathesis.Config.from_dict({
        "seed": 20261123, "generation": {"allow-extra-parameters": False}}))


@api.parametrize()
@hypothesis.settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
                     phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
                     suppress_health_check=list(hypothesis.HealthCheck))
def test_generated_requests(cluster, case):
    valid = case.meta.generation.mode == GenerationMode.POSITIVE
    if isinstance(case.body, dict):
        if case.operation.path.startswith("/v1/"):
            keep_small(case.body)
        if valid:
            case.body = reconcile(case.body)
    if case.headers and "X-Request-Timeout" in case.headers:
        if case.headers["X-Request-Timeout"] == "":
            return  # counts as absent
        if isinstance(case.body, dict) and is_number(case.body.get("timeout")):
            if 0 < case.body["timeout"] <= 86400:
                del case.body["timeout"]  # the header is not read beside it
        case.headers["X-Request-Timeout"] = str(patient(case.headers["X-Request-Timeout"]))
    case.call_and_validate(base_url=cluster.base, timeout=60)


# ---- streams ----


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_events_of_a_stream_are_described(cluster, path):
    kind = "ChatCompletion" if "chat" in path else "Completion"
    body = {**BASES[kind + "Request"], "max_tokens": 4, "n": 2, "stream": True, "temperature": 1,
            "stream_options": {"include_usage": True, "include_progress": True},
            "logprobs": True if "chat" in path else 2}
    with httpx.stream("POST", cluster.base + path, json=body, timeout=60) as answer:
        check_answer(answer, path)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert {"cache-control", "x-accel-buffering"} <= set(answer.headers)
        lines = [line for line in answer.iter_lines() if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    *events, done = [line.removeprefix("data: ") for line in lines]
    assert done == "[DONE]"
    chunks = [json.loads(event) for event in events]
    for chunk in chunks:
        check({"$ref": f"#/components/schemas/{kind}Chunk"}, chunk)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert {choice["index"] for choice in choices} == {0, 1}
    assert any(choice["logprobs"] for choice in choices)
    assert any("progress" in chunk for chunk in chunks)
    assert chunks[-1]["usage"]["completion_tokens"] == 8


@pytest.mark.parametrize("path, fields", [
    ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 2, "n": 2}),
    ("/v1/chat/completions", {"prompt_logprobs": 1}),
    ("/v1/completions", {"echo": True, "logprobs": 2, "max_tokens": 0}),
    ("/v1/completions", {"echo": True, "prompt_logprobs": 0}),
    ("/v1/completions", {"prompt": ["One", [1, 2], "Three"], "n": 2, "prompt_logprobs": 2}),
])
def test_kinds_of_answers_are_described(cluster, path, fields):
    kind = "ChatCompletion" if "chat" in path else "Completion"
    answer = httpx.post(cluster.base + path, timeout=60,
                        json={**BASES[kind + "Request"], **fields})
    assert answer.status_code == 200, answer.text
    check_answer(answer, path)


# ---- errors of HTTP, and bodies that are not plain ----


def raw_exchange(cluster, request):
    """Sends bytes as they are; returns the answer as httpx would."""
    host, port = cluster.base.removeprefix("http://").rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        sock.sendall(request)
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("status, request_bytes", [
    (400, b"POST /v1/completions HTTP/1.1\r\nHost x\r\n\r\n"),
    (400, POST + b"Content-Length: 1\r\n\r\n{"),
    (400, POST + b"Content-Length: 2\r\nContent-Encoding: gzip\r\n\r\n{}"),
    (411, POST + b"\r\n"),
    (413, POST + b"Content-Length: 67108865\r\n\r\n"),
    (415, POST + b"Content-Length: 2\r\nContent-Encoding: br\r\n\r\n{}"),
    (415, POST + b"Content-Length: 2\r\nContent-Type: text/plain\r\n\r\n{}"),
    (417, POST + b"Content-Length: 2\r\nExpect: tea\r\n\r\n{}"),
    (431, POST + b"X-Long: " + b"x" * 33000 + b"\r\n\r\n"),
    (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    (505, b"POST /v1/completions HTTP/2.0\r\nHost: x\r\n\r\n"),
], ids=lambda value: str(value) if isinstance(value, int) else "")
def test_errors_of_http_are_described(cluster, status, request_bytes):
    answer = raw_exchange(cluster, request_bytes)
    assert answer.status_code == status
    check_answer(answer, "/v1/completions")


def test_another_method_or_path_is_refused(cluster):
    for path, methods in DOCUMENT["paths"].items():
        method = "post" if "get" in methods else "get"
        answer = httpx.request(method, cluster.base + path.replace("{model}", cluster.model))
        assert answer.status_code == 405
        check_answer(answer, path, component="MethodNotAllowed")
        assert next(iter(methods)).upper() in answer.headers["allow"]
    answer = httpx.get(cluster.base + "/nothing")
    assert answer.status_code == 404
    check({"$ref": "#/components/schemas/Error"}, answer.json())


def test_a_timeout_that_passes_is_described(cluster):
    answer = httpx.post(cluster.base + "/v1/completions", timeout=60, json={
        "model": "demo", "prompt": "The grass is", "timeout": 1e-12})
    assert answer.status_code == 504
    check_answer(answer, "/v1/completions")


def test_a_router_that_cannot_serve_is_described():
    with Router("127.0.0.1:1", "--max-requests", 1, "--worker-wait-seconds", 2) as router:
        ready = httpx.get(router.base + "/ready")
        assert ready.status_code == 503
        check_answer(ready, "/ready", "get")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            answers = [pool.submit(httpx.post, router.rest + "/completions", timeout=60,
                                   json=BASES["CompletionRequest"]) for _ in range(2)]
            answers = [answer.result() for answer in answers]
    assert {answer.status_code for answer in answers} == {429, 503}
    for answer in answers:
        check_answer(answer, "/v1/completions")


@pytest.mark.parametrize(
    "encoding", DOCUMENT["components"]["parameters"]["ContentEncoding"]["schema"]["enum"])
def test_compressed_bodies(cluster, encoding):
    plain = json.dumps({"prompt": "The grass is"}).encode()
    packed = {"identity": bytes, "deflate": zlib.compress}.get(encoding, gzip.compress)(plain)
    answer = httpx.post(cluster.base + "/tokenize", content=packed,
                        headers={"Content-Encoding": encoding})
    assert answer.status_code == 200
    check_answer(answer, "/tokenize")
