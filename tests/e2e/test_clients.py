"""Unmodified clients against a whole cluster: openai's Python package, grpcio, plain HTTP."""

import threading
import time

import grpc
import httpx
import openai
import pytest

import pass_key

KEY = "48213"
ANSWER = f"The pass key is {KEY}."


@pytest.fixture(scope="module")
def prompt():
    return pass_key.announcement(KEY, 60, 0.5).text  # about 1,500 tokens


@pytest.fixture(scope="module")
def client(cluster):
    return openai.OpenAI(base_url=cluster.rest, api_key="none", max_retries=0)


def test_openai_chat(cluster, client, prompt):
    completion = client.chat.completions.create(
        model=cluster.model, messages=[{"role": "user", "content": prompt}])
    choice = completion.choices[0]
    assert choice.message.content == ANSWER
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert completion.object == "chat.completion"
    assert completion.usage.prompt_tokens > 1400
    assert completion.usage.total_tokens == (
        completion.usage.prompt_tokens + completion.usage.completion_tokens)


def test_openai_chat_streaming_with_usage(cluster, client, prompt):
    stream = client.chat.completions.create(
        model=cluster.model, messages=[{"role": "user", "content": prompt}], stream=True,
        stream_options={"include_usage": True})
    text, finish, usage = "", None, None
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
        usage = chunk.usage or usage
    assert text == ANSWER
    assert finish == "stop"
    assert usage.prompt_tokens > 1400


def test_openai_sees_progress_when_asked(cluster, client, prompt):
    stream = client.chat.completions.create(
        model=cluster.model, messages=[{"role": "user", "content": prompt * 4}], stream=True,
        max_tokens=1, extra_body={"stream_options": {"include_progress": True}})
    progress = [chunk.progress for chunk in stream if getattr(chunk, "progress", None)]
    assert len(progress) >= 2
    done = [event["processed_tokens"] for event in progress]
    assert done == sorted(done)
    assert progress[-1]["processed_tokens"] == progress[-1]["prompt_tokens"]


def test_openai_sampling_is_repeatable_by_seed(cluster, client):
    def ask(seed):
        return client.chat.completions.create(
            model=cluster.model, messages=[{"role": "user", "content": "The grass is"}],
            temperature=1.5, seed=seed, max_tokens=24).choices[0].message.content
    first = ask(1)
    assert ask(1) == first
    assert any(ask(seed) != first for seed in (2, 3, 4))


def test_openai_length_limit(cluster, client, prompt):
    choice = client.chat.completions.create(
        model=cluster.model, messages=[{"role": "user", "content": prompt}],
        max_tokens=3).choices[0]
    assert choice.finish_reason == "length"
    assert ANSWER.startswith(choice.message.content)


def test_openai_stop_string(cluster, client, prompt):
    choice = client.chat.completions.create(
        model=cluster.model, messages=[{"role": "user", "content": prompt}],
        stop=[" key is"]).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.content == "The pass"


def test_openai_models(cluster, client):
    model = client.models.retrieve(cluster.model)
    assert model.id == "demo"
    assert [entry.id for entry in client.models.list()] == ["demo"]
    assert model.max_model_len == 1048576


def test_openai_errors_name_field_and_limit(cluster, client):
    def refused(**fields):
        request = {"model": cluster.model, "messages": [{"role": "user", "content": "hi"}]}
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(**{**request, **fields})
        return caught.value
    error = refused(temperature=3.0)
    assert (error.status_code, error.body["param"]) == (400, "temperature")
    assert "2" in error.body["message"]
    assert refused(model="other").status_code == 404
    assert refused(messages=[]).status_code == 400
    assert refused(max_tokens=-1).status_code == 400


def test_http_operations(cluster):
    assert httpx.get(cluster.base + "/health").status_code == 200
    assert httpx.get(cluster.base + "/ready").status_code == 200
    metrics = httpx.get(cluster.base + "/metrics")
    assert metrics.status_code == 200
    assert "longhaul_router_" in metrics.text
    assert httpx.get(cluster.base + "/nothing").status_code == 404


def test_http_disconnect_cancels(cluster):
    """A client that goes away frees the engine: a later short request is not behind its prefill."""
    long_prompt = pass_key.announcement(KEY, 1600, 0.5).text  # about 40,000 tokens
    request = {"model": cluster.model, "messages": [{"role": "user", "content": long_prompt}],
               "stream": True, "stream_options": {"include_progress": True}}
    with httpx.stream("POST", cluster.rest + "/chat/completions", json=request, timeout=60) as stream:
        for line in stream.iter_lines():
            if '"progress"' in line:
                break
    begin = time.monotonic()
    reply = httpx.post(cluster.rest + "/chat/completions", timeout=60, json={
        "model": cluster.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})
    assert reply.status_code == 200
    assert time.monotonic() - begin < 15


@pytest.fixture(scope="module")
def service(cluster, stubs):
    with grpc.insecure_channel(cluster.grpc) as channel:
        yield stubs.service.InferenceStub(channel)


def chat_request(cluster, stubs, text, **options):
    pb = stubs.inference
    return pb.ChatRequest(model=cluster.model,
                          messages=[pb.ChatMessage(role="user", content=text)],
                          options=pb.GenerateOptions(**options))


def test_grpc_chat(cluster, stubs, service, prompt):
    events = list(service.Chat(chat_request(cluster, stubs, prompt), timeout=120))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "queued"
    assert kinds[-1] == "finished"
    assert "progress" in kinds
    assert "".join(event.delta.text for event in events if event.HasField("delta")) == ANSWER
    finished = events[-1].finished
    assert finished.reason == stubs.types.FINISH_REASON_STOP
    assert finished.usage.prompt_tokens == events[0].queued.prompt_tokens
    assert finished.time_to_first_token_seconds > 0


def test_grpc_complete_from_token_ids(cluster, stubs, service):
    pb = stubs.inference
    ids = service.Tokenize(pb.TokenizeRequest(model=cluster.model, text="The grass is"),
                           timeout=10).tokens
    text = service.Detokenize(pb.DetokenizeRequest(model=cluster.model, tokens=ids), timeout=10).text
    assert text == "The grass is"
    options = pb.GenerateOptions(stopping=stubs.types.Stopping(max_tokens=5, ignore_eos=True))
    events = list(service.Complete(
        pb.CompleteRequest(model=cluster.model, prompt_ids=ids, options=options), timeout=60))
    assert events[-1].finished.usage.completion_tokens == 5
    assert events[-1].finished.reason == stubs.types.FINISH_REASON_LENGTH


def test_grpc_errors(cluster, stubs, service):
    pb = stubs.inference
    with pytest.raises(grpc.RpcError) as caught:
        list(service.Chat(pb.ChatRequest(model="other"), timeout=10))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    request = chat_request(cluster, stubs, "hi", sampling=stubs.types.Sampling(temperature=-1))
    with pytest.raises(grpc.RpcError) as caught:
        list(service.Chat(request, timeout=10))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "temperature" in caught.value.details()
    trailers = dict(caught.value.trailing_metadata())
    detail = stubs.types.ErrorDetail.FromString(trailers["longhaul-error-bin"])
    assert detail.field == "temperature"


def test_grpc_cancel_in_mid_prefill(cluster, stubs, service):
    long_prompt = pass_key.announcement(KEY, 1600, 0.5).text
    call = service.Chat(chat_request(cluster, stubs, long_prompt), timeout=600)
    for event in call:
        if event.HasField("progress"):
            break
    call.cancel()
    begin = time.monotonic()
    events = list(service.Chat(chat_request(
        cluster, stubs, "hi", stopping=stubs.types.Stopping(max_tokens=1)), timeout=60))
    assert events[-1].HasField("finished")
    assert time.monotonic() - begin < 15


def test_clients_at_once_get_their_own_answers(cluster, client):
    keys = ["10293", "55555", "90817", "33421"]
    answers = {}
    def ask(key):
        completion = client.chat.completions.create(
            model=cluster.model,
            messages=[{"role": "user", "content": pass_key.announcement(key, 20, 0.3).text}])
        answers[key] = completion.choices[0].message.content
    threads = [threading.Thread(target=ask, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {key: f"The pass key is {key}." for key in keys}
