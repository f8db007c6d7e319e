"""grpcio with stubs made from the protos alone: every feature, errors of each kind, cancelling."""

import math
import threading
import time

import grpc
import httpx
import pytest

import metrics
import pass_key
from programs import Router
from scripted_leader import ScriptedLeader

KEY = "48213"
ANSWER = f"The pass key is {KEY}."
LONG_PROMPT_TOKENS = 60_000  # no CPU reads them within the seconds of a test
SECONDS = 60
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Client:
    """The stub with shorthands for its messages."""

    def __init__(self, stubs, channel):
        self.pb, self.types = stubs.inference, stubs.types
        self.stub = stubs.service.InferenceStub(channel)

    def options(self, sampling=None, stopping=None, **fields):
        return self.pb.GenerateOptions(sampling=self.types.Sampling(**sampling or {}),
                                       stopping=self.types.Stopping(**stopping or {}), **fields)

    def chat(self, text, timeout=SECONDS, metadata=None, **options):
        return self.stub.Chat(self.pb.ChatRequest(
            model="demo", messages=[self.pb.ChatMessage(role="user", content=text)],
            options=self.options(**options)), timeout=timeout, metadata=metadata)

    def complete(self, prompt="The grass is", timeout=SECONDS, metadata=None, **options):
        """`prompt` is a text or token ids."""
        field = ({"prompt": prompt} if isinstance(prompt, str)
                 else {"prompt_ids": self.pb.TokenIds(ids=prompt)})
        return self.stub.Complete(self.pb.CompleteRequest(
            model="demo", options=self.options(**options), **field), timeout=timeout,
            metadata=metadata)

    def tokenize(self, text="", **fields):
        request = self.pb.TokenizeRequest(**{"model": "demo", "text": text, **fields})
        return list(self.stub.Tokenize(request, timeout=SECONDS).tokens.ids)

    def detokenize(self, ids, model="demo"):
        return self.stub.Detokenize(self.pb.DetokenizeRequest(
            model=model, tokens=self.pb.TokenIds(ids=ids)), timeout=SECONDS).text

    def error_detail(self, error):
        trailers = dict(error.trailing_metadata())
        return self.types.ErrorDetail.FromString(trailers.get("longhaul-error-bin", b""))


@pytest.fixture(scope="module")
def client(cluster, stubs):
    with grpc.insecure_channel(cluster.grpc) as channel:
        yield Client(stubs, channel)


@pytest.fixture(scope="module")
def prompt():
    return pass_key.announcement(KEY, 20, 0.5).text  # about 600 tokens


@pytest.fixture(scope="module")
def long_prompt():
    return pass_key.build(LONG_PROMPT_TOKENS, 0.5).text


def text_of(events, choice=0):
    return "".join(event.delta.text for event in events
                   if event.HasField("delta") and event.delta.choice == choice)


def tokens_of(events):
    return [token for event in events for token in event.delta.tokens]


# Answers.


def test_events_come_in_their_order(client):
    prompt = pass_key.build(5000, 0.5, key=KEY)
    events = list(client.chat(prompt.text))
    kinds = [event.WhichOneof("event") for event in events]
    first_delta = kinds.index("delta")
    assert kinds[0] == "queued"
    assert set(kinds[1:first_delta]) == {"progress"}
    assert set(kinds[first_delta:-1]) == {"delta"}
    assert kinds[-1] == "finished"

    queued = events[0].queued
    assert len(queued.request_id) == 32
    assert (queued.position, queued.prompt_tokens) == (0, 5000)

    progress = [event.progress for event in events if event.HasField("progress")]
    done = [each.processed_tokens for each in progress]
    assert len(done) >= 3
    assert done == sorted(done)
    assert done[-1] == 5000
    assert {(each.prompt_tokens, each.cached_tokens) for each in progress} == {(5000, 0)}
    assert progress[-2].eta_seconds > 0

    assert text_of(events) == prompt.answer
    finished = events[-1].finished
    assert (finished.reason, finished.stop) == (client.types.FINISH_REASON_STOP, "")
    assert (finished.usage.prompt_tokens, finished.usage.cached_tokens) == (5000, 0)
    assert finished.usage.completion_tokens == len(tokens_of(events))
    assert 0 < finished.time_to_first_token_seconds < SECONDS


def test_prompt_as_token_ids(client):
    expected = text_of(client.complete(stopping=dict(max_tokens=6)))
    ids = client.tokenize("The grass is")
    events = list(client.complete(ids, stopping=dict(max_tokens=6)))
    assert text_of(events) == expected
    assert events[-1].finished.usage.prompt_tokens == len(ids)
    assert events[-1].finished.reason == client.types.FINISH_REASON_LENGTH
    assert client.detokenize([token.token_id for token in tokens_of(events)]) == expected


def test_request_id_comes_back(client):
    events = list(client.complete(stopping=dict(max_tokens=1), request_id="mine-17"))
    assert events[0].queued.request_id == "mine-17"


@pytest.mark.parametrize("stop, text, matched", [
    ([" key is"], "The pass", " key is"),
    (["nowhere", "s key is 482"], "The pas", "s key is 482"),  # inside tokens
    ([f"{KEY}.."], ANSWER, ""),
])
def test_stop_strings(client, prompt, stop, text, matched):
    events = list(client.chat(prompt, stop=stop))
    assert text_of(events) == text
    assert events[-1].finished.reason == client.types.FINISH_REASON_STOP
    assert events[-1].finished.stop == matched


def test_stopping(client, prompt):
    def finished(**stopping):
        return list(client.chat(prompt, stopping=stopping))[-1].finished
    stopped = finished().usage.completion_tokens
    assert stopped < 16
    zero = finished(max_tokens=0)
    assert (zero.usage.completion_tokens, zero.reason) == (0, client.types.FINISH_REASON_LENGTH)
    assert finished(max_tokens=24, min_tokens=16).usage.completion_tokens >= 16
    assert finished(max_tokens=24, ignore_eos=True).usage.completion_tokens == 24
    [key] = client.tokenize(" key")
    by_token = list(client.chat(prompt, stopping=dict(stop_token_ids=[key])))
    assert text_of(by_token) == "The pass key"
    assert by_token[-1].finished.reason == client.types.FINISH_REASON_STOP


def test_seed_and_choices(client):
    def ask(seed, n=1):
        events = list(client.complete(n=n, sampling=dict(temperature=1.5, seed=seed),
                                      stopping=dict(max_tokens=12, ignore_eos=True)))
        finished = [event.finished for event in events if event.HasField("finished")]
        assert sorted(each.choice for each in finished) == list(range(n))
        assert all(each.usage.completion_tokens == 12 for each in finished)
        return [text_of(events, choice) for choice in range(n)]
    assert ask(1) == ask(1)
    assert len({*ask(1), *ask(2), *ask(2**64 - 1)}) == 3
    choices = ask(1, n=3)
    assert len(set(choices)) == 3
    assert choices == ask(1, n=3)
    assert choices[0] == ask(1)[0]


def test_logit_bias_forces(client):
    [green] = client.tokenize(" green")
    events = client.complete(sampling=dict(logit_bias={green: 100}), stopping=dict(max_tokens=3))
    assert text_of(events) == " green" * 3


def test_logprobs(client, prompt):
    tokens = tokens_of(list(client.chat(prompt, top_logprobs=4)))
    for token in tokens:
        assert token.top_logprobs[0].token_id == token.token_id  # greedy
        assert token.top_logprobs[0].logprob == token.logprob
        values = [other.logprob for other in token.top_logprobs]
        assert len(values) == 4
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1 + 1e-4
    only_its_own = tokens_of(list(client.chat(prompt, top_logprobs=0)))
    assert [token.logprob for token in only_its_own] == [token.logprob for token in tokens]
    assert not any(token.top_logprobs for token in only_its_own)
    assert not any(token.HasField("logprob") for token in tokens_of(list(client.chat(prompt))))


def prompt_tokens_of(events):
    return [event.prompt_tokens for event in events if event.HasField("prompt_tokens")]


def test_echo_is_one_event_before_the_text(client):
    events = list(client.complete(echo=True, stopping=dict(max_tokens=3)))
    [prompt] = prompt_tokens_of(events)
    assert (prompt.text, list(prompt.tokens)) == ("The grass is", [])
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds.index("prompt_tokens") < kinds.index("delta")


def test_prompt_logprobs_are_those_of_generating(client):
    written = tokens_of(list(client.complete(top_logprobs=2, stopping=dict(max_tokens=8))))
    ids = [*client.tokenize("The grass is"), *(token.token_id for token in written)]
    events = list(client.complete(ids, prompt_logprobs=2, echo=True, stopping=dict(max_tokens=0)))
    parts = prompt_tokens_of(events)
    read = [token for part in parts for token in part.tokens]
    assert [token.token_id for token in read] == ids
    assert [part.begin for part in parts] == [
        sum(len(part.tokens) for part in parts[:i]) for i in range(len(parts))]
    assert "".join(part.text for part in parts) == client.detokenize(ids)
    assert not read[0].HasField("logprob")
    for mine, theirs in zip(read[-8:], written):
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)
        assert [each.token_id for each in mine.top_logprobs] == [
            each.token_id for each in theirs.top_logprobs]


def test_prompt_logprobs_of_a_chat_in_parts(client):
    prompt = pass_key.build(5000, 0.5, key=KEY)
    events = list(client.chat(prompt.text, prompt_logprobs=0))
    parts = prompt_tokens_of(events)
    assert len(parts) >= 3
    assert sum(len(part.tokens) for part in parts) == 5000
    assert not any(part.text for part in parts)
    assert text_of(events) == prompt.answer


def test_bytes_of_tokens(client):
    ids = client.tokenize("a🐈")
    events = list(client.complete(ids, prompt_logprobs=1, stopping=dict(max_tokens=0)))
    read = [token for part in prompt_tokens_of(events) for token in part.tokens]
    assert b"".join(token.token_bytes for token in read) == "a🐈".encode()
    assert all(other.token_bytes for token in read[1:] for other in token.top_logprobs)


def test_truncated_prompt_is_its_end(client):
    ids = client.tokenize("Here we go. There and back again. The grass is")
    expected = text_of(client.complete(ids[-5:], stopping=dict(max_tokens=6)))
    events = list(client.complete(ids, stopping=dict(max_tokens=6), truncate_prompt_tokens=5))
    assert events[0].queued.prompt_tokens == 5
    assert text_of(events) == expected


# Unary calls.


def test_tokenize_and_detokenize(client):
    text = "The grass is green.\n\n<|im_end|> 你好 🐈‍⬛ é"
    ids = client.tokenize(text)
    assert client.detokenize(ids) == text
    parsed = client.tokenize(text, parse_special=True)
    assert client.detokenize(parsed) == text
    assert len(parsed) < len(ids)
    assert client.tokenize("") == []
    assert client.detokenize([]) == ""


def test_tokenize_messages(client, prompt):
    pb = client.pb
    messages = [pb.ChatMessage(role="user", content="Weather?"),
                pb.ChatMessage(role="assistant", tool_calls=[pb.ToolCall(
                    id="1", function=pb.FunctionCall(name="weather",
                                                     arguments_json='{"city": "Köln"}'))]),
                pb.ChatMessage(role="tool", content="rain", tool_call_id="1")]
    tools = [pb.Tool(function_json='{"type": "function", "function": {"name": "weather"}}')]
    rendered = client.detokenize(client.tokenize(messages=messages, tools=tools))
    assert ('<tools>\n{"type": "function", "function": {"name": "weather"}}\n</tools>') in rendered
    assert rendered.endswith(
        '<|im_start|>assistant\n<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n'
        "</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nrain\n</tool_response>"
        "<|im_end|>\n<|im_start|>assistant\n")
    ids = client.tokenize(messages=[pb.ChatMessage(role="user", content=prompt)])
    events = list(client.chat(prompt, stopping=dict(max_tokens=0)))
    assert events[0].queued.prompt_tokens == len(ids)


def test_tools_are_part_of_a_chats_prompt(client):
    pb = client.pb
    request = pb.ChatRequest(model="demo", messages=[pb.ChatMessage(role="user", content="hi")],
                             tools=[pb.Tool(function_json='{"name": "f"}')],
                             options=client.options(stopping=dict(max_tokens=0)))
    ids = client.tokenize(messages=request.messages, tools=request.tools)
    events = list(client.stub.Chat(request, timeout=SECONDS))
    assert events[0].queued.prompt_tokens == len(ids)


def test_models(client):
    models = client.stub.ListModels(client.pb.ListModelsRequest(), timeout=SECONDS).models
    assert [(model.id, model.max_model_len, model.healthy_groups) for model in models] == [
        ("demo", 1048576, 1)]
    assert client.stub.GetModel(client.pb.GetModelRequest(model="demo"),
                                timeout=SECONDS) == models[0]


# Errors.


def refusal(call):
    with pytest.raises(grpc.RpcError) as caught:
        list(call())
    return caught.value


@pytest.mark.parametrize("options, field, told", [
    (dict(sampling=dict(temperature=-1)), "temperature", "-1"),
    (dict(sampling=dict(temperature=math.nan)), "temperature", "[0, 2]"),
    (dict(sampling=dict(top_p=0)), "top_p", "(0, 1]"),
    (dict(sampling=dict(top_k=5000)), "top_k", "vocabulary"),
    (dict(sampling=dict(logit_bias={5: math.inf})), "logit_bias", "100"),
    (dict(sampling=dict(logit_bias={2**32 - 1: 1})), "logit_bias", "vocabulary"),
    (dict(stopping=dict(max_tokens=2**32 - 1)), "max_tokens", "1048576 (max_model_len)"),
    (dict(stopping=dict(max_tokens=2, min_tokens=3)), "min_tokens", "[0, 2]"),
    (dict(stopping=dict(stop_token_ids=[99999])), "stop_token_ids", "99999"),
    (dict(stop=[""]), "stop", "empty"),
    (dict(top_logprobs=21), "top_logprobs", "20"),
    (dict(prompt_logprobs=21), "prompt_logprobs", "20"),
    (dict(n=17), "n", "16"),
    (dict(n=0), "n", "16"),
    (dict(priority=101), "priority", "100"),
    (dict(request_id="a" * 129), "request_id", "128"),
    (dict(request_id="ü"), "request_id", "printable"),
    (dict(truncate_prompt_tokens=0), "truncate_prompt_tokens", "0"),
])
def test_bad_field_is_named_with_value_or_limit(client, options, field, told):
    error = refusal(lambda: client.complete(**options))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert told in error.details()
    assert client.error_detail(error).field == field


def test_bad_prompts(client):
    pb = client.pb
    for call, field in [
            (lambda: client.complete(""), "prompt"),
            (lambda: client.complete([99999]), "prompt"),
            (lambda: client.stub.Chat(pb.ChatRequest(model="demo"), timeout=SECONDS), "messages"),
            (lambda: client.stub.Chat(pb.ChatRequest(model="demo", messages=[
                pb.ChatMessage(role="wizard", content="hi")]), timeout=SECONDS),
             "messages[0].role")]:
        error = refusal(call)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert client.error_detail(error).field == field


def test_errors_of_unary_calls_have_details_too(client):
    pb = client.pb
    both = pb.TokenizeRequest(model="demo", text="a", messages=[pb.ChatMessage(role="user")])
    for call, field in [
            (lambda: client.detokenize([99999]), "tokens"),
            (lambda: [client.stub.Tokenize(both, timeout=SECONDS)], "messages")]:
        error = refusal(call)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert client.error_detail(error).field == field


def test_unknown_model(client):
    pb = client.pb
    for call in (lambda: client.stub.Chat(pb.ChatRequest(model="other"), timeout=SECONDS),
                 lambda: client.stub.Complete(pb.CompleteRequest(model="other", prompt="a"),
                                              timeout=SECONDS),
                 lambda: client.tokenize("a", model="other"),
                 lambda: client.detokenize([1], model="other"),
                 lambda: client.stub.GetModel(pb.GetModelRequest(model="other"), timeout=SECONDS)):
        error = refusal(call)
        assert error.code() == grpc.StatusCode.NOT_FOUND
        assert "demo" in error.details() or "other" in error.details()


def test_deadline(client, worker):
    begin = time.monotonic()
    error = refusal(lambda: client.complete(
        timeout=1, stopping=dict(max_tokens=100_000, ignore_eos=True)))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert 1 <= time.monotonic() - begin < 5
    assert metrics.wait_for(worker.is_idle)


def test_deadline_that_cannot_be_met_is_told_at_once(client):
    begin = time.monotonic()
    list(client.chat(pass_key.build(3000, 0.5).text))  # what there is to know of the speed
    seconds = (time.monotonic() - begin) / 2  # for nearly twice as many tokens
    error = refusal(lambda: client.chat(pass_key.build(5500, 0.5).text, timeout=seconds))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "deadline" in error.details()


def test_message_over_the_limit(stubs, scripted):
    leader, router = scripted
    with grpc.insecure_channel(router.grpc) as channel:
        client = Client(stubs, channel)
        error = refusal(lambda: client.complete("a" * (2 << 20)))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(1 << 20) in error.details()
        assert text_of(client.complete("a")) == "!"  # on the same connection


@pytest.fixture(scope="module")
def scripted(stubs):
    """A scripted leader behind a router with room for two requests of at most 1 MiB."""
    with ScriptedLeader(stubs) as leader:
        with Router(leader.address, "--max-requests", 2, "--max-request-mib", 1) as router:
            assert metrics.wait_for(lambda: httpx.get(router.base + "/ready").status_code == 200)
            yield leader, router


@pytest.fixture
def before_script(stubs, scripted):
    leader, router = scripted
    leader.script = leader.says(0)
    leader.headers.clear()
    with grpc.insecure_channel(router.grpc) as channel:
        yield Client(stubs, channel), leader


def test_full_router_sheds_with_a_time_to_retry(before_script):
    client, leader = before_script
    release = threading.Event()
    leader.script = leader.holds(release)
    held = [client.complete("a"), client.complete("a")]
    assert all(next(call).HasField("queued") for call in held)
    error = refusal(lambda: client.complete("a"))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2 requests (limit 2)" in error.details()
    assert client.error_detail(error).retry_after_seconds == 1
    release.set()
    assert [text_of(call) for call in held] == ["!", "!"]


def test_failures_of_the_group(before_script):
    client, leader = before_script
    leader.script = leader.fails(grpc.StatusCode.INTERNAL, "NaN in the logits")
    error = refusal(lambda: client.complete("a"))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "NaN in the logits")
    leader.script = leader.breaks_off(after=[0])
    error = refusal(lambda: client.complete("a"))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "after 1 tokens" in error.details()


def test_what_reaches_the_leader(before_script):
    client, leader = before_script
    list(client.complete("a", metadata=[("traceparent", TRACEPARENT)], timeout=30, priority=5))
    list(client.complete("a", timeout=None))
    first, second = leader.headers
    assert (first.traceparent, second.traceparent) == (TRACEPARENT, "")
    assert first.deadline_seconds == pytest.approx(30, abs=1)
    assert second.deadline_seconds == pytest.approx(3600, abs=5)
    assert first.stopping.max_tokens == 8192
    assert first.priority == 5


# Connections.


def test_cancel_in_mid_prefill(cluster, client, worker, long_prompt):
    watch = metrics.CancelWatch(cluster, worker)
    call = client.chat(long_prompt, timeout=None)
    for event in call:
        if event.HasField("progress") and event.progress.processed_tokens > 0:
            break
    call.cancel()
    watch.check(LONG_PROMPT_TOKENS)
    assert text_of(client.complete(stopping=dict(max_tokens=1)))


def test_closed_channel_cancels(cluster, stubs, worker, long_prompt):
    watch = metrics.CancelWatch(cluster, worker)
    with grpc.insecure_channel(cluster.grpc) as channel:
        call = Client(stubs, channel).chat(long_prompt, timeout=None)
        for event in call:
            if event.HasField("progress") and event.progress.processed_tokens > 0:
                break
    watch.check(LONG_PROMPT_TOKENS)


def test_reflection_and_health(cluster, client):
    with grpc.insecure_channel(cluster.grpc) as channel:
        health = channel.unary_unary("/grpc.health.v1.Health/Check")
        service = b"longhaul.v1.Inference"
        status = health(b"\x0a" + bytes([len(service)]) + service, timeout=SECONDS)
        assert status == b"\x08\x01"  # SERVING
        reflection = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/"
                                           "ServerReflectionInfo")
        [listed] = reflection(iter([b"\x3a\x00"]), timeout=SECONDS)  # list_services
        assert service in listed


class PingingChannel:
    """Pings every `seconds`, also without calls, from now on."""

    def __init__(self, address, seconds):
        self.channel = grpc.insecure_channel(address, [
            ("grpc.keepalive_time_ms", seconds * 1000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0)])
        self.states = []
        self.channel.subscribe(self.states.append, try_to_connect=True)
        self.begin = time.monotonic()


@pytest.fixture(scope="module", autouse=True)
def pinging(cluster):
    """Idle connections that are as old as the module: {seconds between pings: channel}."""
    channels = {seconds: PingingChannel(cluster.grpc, seconds) for seconds in (10, 1)}
    yield channels
    for each in channels.values():
        each.channel.close()


def test_pings_every_ten_seconds_are_welcome(pinging, stubs):
    """gRPC forgives two pings that come too early, not a third."""
    welcome, too_often = pinging[10], pinging[1]
    time.sleep(max(0, welcome.begin + 32 - time.monotonic()))
    assert grpc.ChannelConnectivity.READY in welcome.states
    assert welcome.states[-1] == grpc.ChannelConnectivity.READY, welcome.states
    assert too_often.states.count(grpc.ChannelConnectivity.IDLE) > 1  # sent away
    assert text_of(Client(stubs, welcome.channel).complete(stopping=dict(max_tokens=1)))
