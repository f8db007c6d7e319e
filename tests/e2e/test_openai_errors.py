"""openai's Python package before errors of each kind, and what routers tell leaders.

The leader is scripted: it is lost, full or silent when a test says so.
"""

import threading
import time

import grpc
import httpx
import openai
import pytest

import metrics
from programs import Router
from scripted_leader import ScriptedLeader

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RETRY_AFTER_SECONDS = 1
HEARTBEAT_SECONDS = 10
MODEL_LEN = 1000


@pytest.fixture(scope="module")
def leader(stubs):
    with ScriptedLeader(stubs, max_model_len=MODEL_LEN) as running:
        yield running


@pytest.fixture(scope="module")
def router(leader):
    """With room for two requests, whose bodies have at most 1 MiB."""
    with Router(leader.address, "--max-requests", 2, "--max-request-mib", 1,
                "--max-prompt-logprobs-tokens", 4) as running:
        assert metrics.wait_for(lambda: httpx.get(running.base + "/ready").status_code == 200)
        yield running


@pytest.fixture(scope="module")
def shared_client(router):
    return openai.OpenAI(base_url=router.rest, api_key="none", max_retries=0)


@pytest.fixture
def client(shared_client, router, leader):
    leader.script = leader.says(0)
    leader.headers.clear()
    yield shared_client
    assert metrics.wait_for(lambda: is_idle(router))


def is_idle(router):
    return metrics.value(router.base + "/metrics", "longhaul_router_live_requests") == 0


def complete(client, prompt="The grass is", **fields):
    return client.completions.create(model="demo", prompt=prompt, **fields)


def failed_requests(router, code):
    return metrics.value(router.base + "/metrics", "longhaul_router_requests_total", outcome=code)


# 4xx.


HI = [{"role": "user", "content": "hi"}]
IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize("fields, param, told", [
    (dict(temperature=3.0), "temperature", "[0, 2]"),
    (dict(temperature=-0.1), "temperature", "-0.1"),
    (dict(temperature="hot"), "temperature", "number"),
    (dict(top_p=0), "top_p", "(0, 1]"),
    (dict(extra_body={"top_k": -2}), "top_k", "-2"),
    (dict(extra_body={"top_k": 5000}), "top_k", "vocabulary"),
    (dict(extra_body={"min_p": 1.5}), "min_p", "[0, 1]"),
    (dict(extra_body={"repetition_penalty": 0}), "repetition_penalty", "(0, 10]"),
    (dict(presence_penalty=2.5), "presence_penalty", "[-2, 2]"),
    (dict(frequency_penalty=-3), "frequency_penalty", "[-2, 2]"),
    (dict(seed=1.5), "seed", "integer"),
    (dict(logit_bias={"5": 101}), "logit_bias.5", "100"),
    (dict(logit_bias={"five": 1}), "logit_bias", "five"),
    (dict(logit_bias={"99999": 1}), "logit_bias", "99999"),
    (dict(max_tokens=-1), "max_tokens", "-1"),
    (dict(max_tokens=1000), "max_tokens", "1000 (max_model_len)"),
    (dict(max_completion_tokens=-1), "max_completion_tokens", "-1"),
    (dict(max_tokens=2, extra_body={"min_tokens": 3}), "min_tokens", "[0, 2]"),
    (dict(extra_body={"stop_token_ids": [-1]}), "stop_token_ids[0]", "-1"),
    (dict(extra_body={"stop_token_ids": [99999]}), "stop_token_ids", "vocabulary"),
    (dict(extra_body={"ignore_eos": 1}), "ignore_eos", "true or false"),
    (dict(stop=[""]), "stop", "empty"),
    (dict(stop=["a"] * 17), "stop", "16"),
    (dict(stop="a" * 1025), "stop", "1024"),
    (dict(n=0), "n", "0"),
    (dict(n=17), "n", "16"),
    (dict(top_logprobs=2), "top_logprobs", "logprobs"),
    (dict(logprobs=True, top_logprobs=21), "top_logprobs", "20"),
    (dict(extra_body={"truncate_prompt_tokens": 0}), "truncate_prompt_tokens", "0"),
    (dict(extra_body={"truncate_prompt_tokens": -2}), "truncate_prompt_tokens", "-2"),
    (dict(extra_body={"timeout": 0}), "timeout", "0"),
    (dict(extra_body={"timeout": 1e9}), "timeout", "86400"),
    (dict(extra_headers={"X-Request-Timeout": "soon"}), "X-Request-Timeout", "soon"),
    (dict(extra_headers={"X-Request-Timeout": "-1"}), "timeout", "-1"),
    (dict(extra_body={"priority": 101}), "priority", "100"),
    (dict(user=5), "user", "string"),
    (dict(stream="yes"), "stream", "true or false"),
    (dict(stream_options={"include_usage": True}), "stream_options", "stream"),
    (dict(response_format={"type": "json_object"}), "response_format.type", "json_object"),
    (dict(tools=[TOOL], tool_choice="required"), "tool_choice", "forced"),
    (dict(tools=[{"type": "browser"}]), "tools[0].type", "browser"),
    (dict(tools=[{"type": "function", "function": {}}]), "tools[0].function.name", "required"),
    (dict(extra_body={"echo": True}), "echo", "completions"),
    (dict(messages=[]), "messages", "empty"),
    (dict(messages=[{"role": "user"}]), "messages[0].content", "required"),
    (dict(messages=[{"content": "hi"}]), "messages[0].role", "required"),
    (dict(messages=[{"role": "wizard", "content": "hi"}]), "messages[0].role", "wizard"),
    (dict(messages=[*HI, {"role": "user", "content": IMAGE}]), "messages[1].content[0].type",
     "image_url"),
    (dict(messages=[{"role": "user", "content": " a" * MODEL_LEN}]), "messages", str(MODEL_LEN)),
])
def test_bad_field_is_named_with_value_or_limit(client, leader, fields, param, told):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "demo", "messages": HI, **fields})
    error = caught.value
    assert (error.status_code, error.param, error.type) == (400, param, "invalid_request_error")
    assert told in error.message
    assert not leader.headers


@pytest.mark.parametrize("fields, param, told", [
    (dict(prompt=""), "prompt", "0 tokens"),
    (dict(prompt=[]), "prompt", "empty"),
    (dict(prompt=[99999]), "prompt", "99999"),
    (dict(prompt=[0, -1]), "prompt[1]", "-1"),
    (dict(prompt=[0, "a"]), "prompt[1]", "integer"),
    (dict(prompt={"text": "a"}), "prompt", "string"),
    (dict(prompt=[0] * (MODEL_LEN + 1)), "prompt", str(MODEL_LEN)),
    (dict(prompt=["hi", 5]), "prompt[1]", "string"),
    (dict(prompt=["hi"] * 129), "prompt", "128"),
    (dict(logprobs=21), "logprobs", "20"),
    (dict(logprobs=1, echo=True, prompt="a b c d e"), "echo", "4"),
    (dict(prompt="a b c d e", extra_body={"prompt_logprobs": 0}), "prompt_logprobs", "4"),
    (dict(extra_body={"prompt_logprobs": 21}), "prompt_logprobs", "20"),
    (dict(stream=True, extra_body={"prompt_logprobs": 1}), "prompt_logprobs", "stream"),
    (dict(echo=True, logprobs=1, extra_body={"prompt_logprobs": 2}), "prompt_logprobs", "echo"),
    (dict(echo="yes"), "echo", "true or false"),
    (dict(suffix="end"), "suffix", "supported"),
    (dict(best_of=2), "best_of", "2"),
])
def test_bad_field_of_a_completion(client, leader, fields, param, told):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": "demo", "prompt": "hi", **fields})
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")
    assert told in caught.value.message
    assert not leader.headers


def test_refused_stream_still_has_its_status(client):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, prompt=" a" * MODEL_LEN, stream=True)
    assert caught.value.param == "prompt"


def test_bad_request_is_not_tried_again(client, router):
    before = failed_requests(router, "invalid_argument")
    with pytest.raises(openai.BadRequestError):
        complete(client.with_options(max_retries=3), top_p=2)
    assert failed_requests(router, "invalid_argument") == before + 1


def test_unknown_model_and_path(client):
    for call in (lambda: client.models.retrieve("other"),
                 lambda: client.chat.completions.create(model="other", messages=HI),
                 lambda: client.completions.create(model="other", prompt="hi")):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert caught.value.code == "model_not_found"
        assert "other" in caught.value.message
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="demo", input="hi")
    assert "/v1/embeddings" in caught.value.message


def test_body_over_the_limit(client):
    for size in (2 << 20, 20 << 20):
        with pytest.raises(openai.APIStatusError) as caught:
            complete(client, prompt="a" * size)
        assert caught.value.status_code == 413
        assert str(1 << 20) in caught.value.message
    assert complete(client, prompt="a").choices[0].text == "!"


# 429.


@pytest.fixture
def occupied(client, leader, router):
    """The router's places are taken until the event is set."""
    release = threading.Event()
    leader.script = leader.holds(release)
    threads = [threading.Thread(target=complete, args=(client,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert metrics.wait_for(lambda: len(leader.headers) == 2)
    yield release
    release.set()
    for thread in threads:
        thread.join()


def test_router_that_is_full_sheds(client, occupied):
    with pytest.raises(openai.RateLimitError) as caught:
        complete(client)
    error = caught.value
    assert (error.type, error.code) == ("rate_limit_error", "rate_limit_exceeded")
    assert "2 requests (limit 2)" in error.message
    assert error.response.headers["retry-after"] == str(RETRY_AFTER_SECONDS)


def test_shed_request_succeeds_when_tried_again(client, occupied):
    threading.Timer(0.3, occupied.set).start()
    begin = time.monotonic()
    assert complete(client.with_options(max_retries=2)).choices[0].text == "!"
    assert time.monotonic() - begin >= RETRY_AFTER_SECONDS


def test_full_queue_sheds(leader):
    with Router(leader.address, "--max-queued", 1) as router:
        client = openai.OpenAI(base_url=router.rest, api_key="none", max_retries=0)
        with pytest.raises(openai.RateLimitError) as caught:
            complete(client, n=2)
        assert "limit 1" in caught.value.message
        assert int(caught.value.response.headers["retry-after"]) >= 1


# 5xx.


def test_failure_of_the_model(client, leader):
    leader.script = leader.fails(grpc.StatusCode.INTERNAL, "NaN in the logits")
    with pytest.raises(openai.InternalServerError) as caught:
        complete(client)
    assert (caught.value.status_code, caught.value.type) == (500, "server_error")
    assert "NaN" in caught.value.message


def test_group_lost_after_a_token(client, leader):
    leader.script = leader.breaks_off(after=[0])
    with pytest.raises(openai.InternalServerError) as caught:
        complete(client)
    assert (caught.value.status_code, caught.value.code) == (503, "service_unavailable")
    assert "after 1 tokens" in caught.value.message
    assert caught.value.response.headers["retry-after"] == str(RETRY_AFTER_SECONDS)


def test_lost_request_succeeds_when_tried_again(client, leader):
    def once(header, context):
        leader.script = leader.says(0)
        yield from leader.breaks_off(after=[0])(header, context)
    leader.script = once
    begin = time.monotonic()
    assert complete(client.with_options(max_retries=1)).choices[0].text == "!"
    assert time.monotonic() - begin >= RETRY_AFTER_SECONDS
    assert len(leader.headers) == 2


def test_group_lost_in_mid_stream_ends_it_with_an_error(client, leader):
    leader.script = leader.breaks_off(after=[0, 1])
    text = ""
    with pytest.raises(openai.APIError) as caught:
        for chunk in complete(client, stream=True):
            text += chunk.choices[0].text
    assert text == '!"'
    assert "lost after 2 tokens" in caught.value.message
    assert caught.value.code == "service_unavailable"


def test_no_group():
    with Router("127.0.0.1:1", "--worker-wait-seconds", 0) as router:
        client = openai.OpenAI(base_url=router.rest, api_key="none", max_retries=0)
        with pytest.raises(openai.InternalServerError) as caught:
            complete(client)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == str(RETRY_AFTER_SECONDS)
        assert httpx.get(router.base + "/ready").status_code == 503
        assert httpx.get(router.base + "/health").status_code == 200
        assert [model.id for model in client.models.list()] == ["demo"]


@pytest.mark.parametrize("fields", [
    dict(extra_body={"timeout": 0.5}),
    dict(extra_headers={"X-Request-Timeout": "0.5"}),
    dict(extra_body={"timeout": 0.5}, extra_headers={"X-Request-Timeout": "60"}),
])
def test_deadline(client, leader, fields):
    leader.script = leader.holds(threading.Event())
    begin = time.monotonic()
    with pytest.raises(openai.InternalServerError) as caught:
        complete(client, **fields)
    assert 0.5 <= time.monotonic() - begin < 5
    assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")
    assert "500ms" in caught.value.message
    assert leader.headers[0].deadline_seconds == pytest.approx(0.5, abs=0.2)


def test_client_that_gives_up_frees_its_place(client, leader, router):
    leader.script = leader.holds(threading.Event())
    with pytest.raises(openai.APITimeoutError):
        complete(client, timeout=0.5)
    assert metrics.wait_for(lambda: is_idle(router), 5)


# What reaches the leader.


def test_defaults_and_trace(client, leader):
    complete(client, extra_headers={"traceparent": TRACEPARENT})
    header = leader.headers[0]
    assert header.traceparent == TRACEPARENT
    assert header.prompt_tokens == 3
    assert header.stopping.max_tokens == MODEL_LEN - 3  # the room left, as it is below 8,192
    assert header.deadline_seconds == pytest.approx(3600, abs=5)
    complete(client, extra_headers={"traceparent": "nonsense"})
    assert leader.headers[1].traceparent == ""


def test_default_of_max_tokens_where_there_is_room(stubs):
    with ScriptedLeader(stubs) as leader, Router(leader.address) as router:
        complete(openai.OpenAI(base_url=router.rest, api_key="none"))
        assert leader.headers[0].stopping.max_tokens == 8192


def test_prompt_is_truncated_to_leave_room(client, leader):
    prompt = " a" * 2 * MODEL_LEN
    complete(client, prompt, max_tokens=10, extra_body={"truncate_prompt_tokens": -1})
    assert leader.headers[0].prompt_tokens == MODEL_LEN - 10


def test_cached_tokens_are_told(client, leader):
    leader.script = leader.says(0, cached_tokens=2)
    usage = complete(client).usage
    assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (3, 2)
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage == usage


def test_text_waits_for_whole_characters(client, leader, router):
    """A character of several tokens comes in one piece, streaming or not."""
    ids = httpx.post(router.base + "/tokenize", json={"prompt": "a🐈é"}).json()["tokens"]
    assert len(ids) > 3

    def one_by_one(header, context):
        yield leader.admitted()
        for each in ids:
            yield leader.tokens(each)
        yield leader.finished(completion_tokens=len(ids))

    leader.script = one_by_one
    assert complete(client).choices[0].text == "a🐈é"
    texts = [chunk.choices[0].text for chunk in complete(client, stream=True)]
    assert [text for text in texts if text] == ["a", "🐈", "é"]


TOOLS = [{"type": "function", "function": {
    "name": "weather", "description": "Today's",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "1", "type": "function",
         "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}]},
    {"role": "tool", "tool_call_id": "1", "content": "rain"},
]
RENDERED = """<|im_start|>system
Be brief.

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type": "function", "function": {"name": "weather", "description": "Today's", \
"parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
<|im_start|>user
Weather?<|im_end|>
<|im_start|>assistant
<tool_call>
{"name": "weather", "arguments": {"city": "Köln"}}
</tool_call><|im_end|>
<|im_start|>user
<tool_response>
rain
</tool_response><|im_end|>
<|im_start|>assistant
"""


def test_tools_are_put_before_the_model(client, leader, router):
    client.chat.completions.create(model="demo", messages=CONVERSATION, tools=TOOLS)
    text = httpx.post(router.base + "/detokenize", json={"tokens": leader.prompts[-1]}).json()
    assert text["prompt"] == RENDERED
    client.chat.completions.create(model="demo", messages=CONVERSATION[:2], tools=TOOLS,
                                   tool_choice="none")
    text = httpx.post(router.base + "/detokenize", json={"tokens": leader.prompts[-1]}).json()
    assert "<tools>" not in text["prompt"]


def test_developer_message_is_a_system_message(client, leader):
    for role in ("system", "developer"):
        client.chat.completions.create(
            model="demo", messages=[{"role": role, "content": "Be brief."}, *HI])
    assert leader.prompts[-1] == leader.prompts[-2]


# Silence.


def test_stream_begins_at_once_and_is_kept_alive(client, leader, router):
    """The head does not wait for the prefill; comments come in its silence, which clients skip."""
    release = threading.Event()
    leader.script = leader.holds(release)
    begin = time.monotonic()
    seen = []
    with httpx.stream("POST", router.rest + "/completions", timeout=60,
                      json={"model": "demo", "prompt": "a", "stream": True}) as reply:
        assert time.monotonic() - begin < 2
        assert reply.headers["content-type"].startswith("text/event-stream")
        for line in reply.iter_lines():
            if line.startswith(":"):
                seen.append(time.monotonic() - begin)
                release.set()
    assert len(seen) == 1
    assert HEARTBEAT_SECONDS <= seen[0] < HEARTBEAT_SECONDS + 2
