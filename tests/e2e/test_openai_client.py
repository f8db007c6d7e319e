"""openai's Python package, unmodified, against a whole cluster: every feature of the API."""

import asyncio
import math
import threading

import httpx
import openai
import pytest

import metrics
import pass_key

KEY = "48213"
ANSWER = f"The pass key is {KEY}."
LONG_PROMPT_TOKENS = 60_000  # no CPU reads them within the seconds of a test
PROGRESS = {"stream_options": {"include_progress": True}}


@pytest.fixture(scope="module")
def prompt():
    return pass_key.announcement(KEY, 20, 0.5).text  # about 600 tokens


@pytest.fixture(scope="module")
def long_prompt():
    return pass_key.build(LONG_PROMPT_TOKENS, 0.5).text


@pytest.fixture(scope="module")
def client(cluster):
    return openai.OpenAI(base_url=cluster.rest, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def chat(client):
    """One chat completion for a user's message, greedy unless told."""
    def create(content, **fields):
        return client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": content}], **fields)
    return create


@pytest.fixture(scope="module")
def complete(client):
    def create(prompt="The grass is", **fields):
        return client.completions.create(model="demo", prompt=prompt, **fields)
    return create


@pytest.fixture(scope="module")
def tokenize(cluster):
    def ids(text):
        return httpx.post(cluster.base + "/tokenize", json={"prompt": text}).json()["tokens"]
    return ids


def text_of(stream):
    return "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)


# Answers.


def test_chat(chat, prompt):
    completion = chat(prompt)
    choice = completion.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", ANSWER)
    assert choice.finish_reason == "stop"
    assert choice.logprobs is None
    assert completion.object == "chat.completion"
    assert completion.id.startswith("chatcmpl-")
    assert completion.model == "demo"
    usage = completion.usage
    assert usage.prompt_tokens > 500
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == 0


def test_chat_stream_has_the_shape_of_openais(chat, prompt):
    chunks = list(chat(prompt, stream=True, stream_options={"include_usage": True}))
    assert text_of(chunks) == ANSWER
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    *rest, last, usage = chunks
    assert last.choices[0].finish_reason == "stop"
    assert all(chunk.choices[0].finish_reason is None for chunk in rest)
    assert usage.choices == []
    assert all(chunk.usage is None for chunk in (*rest, last))
    assert usage.usage == chat(prompt).usage


def test_chat_stream_without_usage_ends_with_the_finish_reason(chat, prompt):
    chunks = list(chat(prompt, stream=True))
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_the_packages_stream_helper(client, prompt):
    with client.chat.completions.stream(
            model="demo", messages=[{"role": "user", "content": prompt}]) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == ANSWER
    assert final.choices[0].message.content == ANSWER


def test_completion_and_its_stream(complete):
    whole = complete(max_tokens=6)
    assert whole.object == "text_completion"
    assert whole.id.startswith("cmpl-")
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 6
    chunks = list(complete(max_tokens=6, stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].text
    assert chunks[-1].usage == whole.usage


def test_progress_when_asked(chat, prompt):
    stream = chat(prompt * 8, stream=True, max_tokens=1, extra_body=PROGRESS)
    progress = [chunk.progress for chunk in stream if getattr(chunk, "progress", None)]
    done = [event["processed_tokens"] for event in progress]
    assert len(done) >= 2
    assert done == sorted(done)
    assert done[-1] == progress[-1]["prompt_tokens"]
    assert progress[-2]["eta_seconds"] > 0


def test_messages_of_content_parts(chat, prompt):
    head, _, tail = prompt.partition("\n")
    parts = [{"type": "text", "text": head}, {"type": "text", "text": tail}]
    assert chat(parts).usage == chat(prompt).usage  # joined by a line end


# Stopping.


@pytest.mark.parametrize("stop, text", [
    (" key is", "The pass"),
    (["nowhere", " key"], "The pass"),
    (["s key is 482"], "The pas"),  # inside one token to inside another
    ([f"{KEY}.."], ANSWER),
])
def test_stop_strings(chat, prompt, stop, text):
    choice = chat(prompt, stop=stop).choices[0]
    assert (choice.message.content, choice.finish_reason) == (text, "stop")
    assert text_of(chat(prompt, stop=stop, stream=True)) == text


def test_max_tokens_by_both_names(chat, prompt):
    for fields in ({"max_tokens": 3}, {"max_completion_tokens": 3},
                   {"max_tokens": 5, "max_completion_tokens": 3}):
        completion = chat(prompt, **fields)
        assert completion.choices[0].finish_reason == "length"
        assert completion.usage.completion_tokens == 3
        assert ANSWER.startswith(completion.choices[0].message.content)


def test_max_tokens_of_zero_is_prefill_only(chat, complete, prompt):
    completion = chat(prompt, max_tokens=0)
    assert completion.choices[0].message.content == ""
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 0
    assert completion.usage.prompt_tokens > 500
    assert complete(max_tokens=0).choices[0].text == ""
    chunks = list(chat(prompt, max_tokens=0, stream=True))
    assert text_of(chunks) == ""
    assert chunks[-1].choices[0].finish_reason == "length"


def test_min_tokens_and_ignore_eos(chat, prompt):
    stopped = chat(prompt).usage.completion_tokens
    assert stopped < 16
    more = chat(prompt, max_tokens=24, extra_body={"min_tokens": 16})
    assert more.usage.completion_tokens >= 16
    assert more.choices[0].message.content.startswith(ANSWER)
    all_of_them = chat(prompt, max_tokens=24, extra_body={"ignore_eos": True})
    assert all_of_them.usage.completion_tokens == 24
    assert all_of_them.choices[0].finish_reason == "length"


def test_stop_token_ids(chat, tokenize, prompt):
    """As in vLLM, what a stop token says is part of the text; a stop string is not."""
    [key] = tokenize(" key")
    choice = chat(prompt, extra_body={"stop_token_ids": [key]}).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("The pass key", "stop")


# Sampling.


def test_seed_repeats_and_seeds_differ(complete):
    def ask(seed):
        return complete(temperature=1.5, seed=seed, max_tokens=16).choices[0].text
    texts = [ask(seed) for seed in (1, 2, 3, -4, 2**63)]
    assert texts == [ask(seed) for seed in (1, 2, 3, -4, 2**63)]
    assert len(set(texts)) == len(texts)


def test_without_a_seed_answers_differ(complete):
    assert len({complete(temperature=1.5, max_tokens=16).choices[0].text for _ in range(3)}) > 1


def test_several_choices(complete):
    fields = dict(n=3, temperature=1.5, seed=7, max_tokens=8, extra_body={"ignore_eos": True})
    whole = complete(**fields)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len({choice.text for choice in whole.choices}) == 3
    assert whole.usage.completion_tokens == 24
    assert whole.usage.prompt_tokens == 3  # read once
    texts, finished = ["", "", ""], set()
    for chunk in complete(stream=True, **fields):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                finished.add(choice.index)
    assert finished == {0, 1, 2}
    assert texts == [choice.text for choice in whole.choices]


def test_logit_bias_forces_and_bans(complete, tokenize):
    [green] = tokenize(" green")
    forced = complete(max_tokens=4, logit_bias={str(green): 100})
    assert forced.choices[0].text == " green" * 4
    first = complete(max_tokens=1, logprobs=0).choices[0].logprobs.tokens[0]
    [banned] = tokenize(first)
    assert complete(max_tokens=1, logit_bias={str(banned): -100}).choices[0].text != first


def test_penalties_and_truncated_sampling(complete):
    greedy = complete(max_tokens=8).choices[0].text
    assert complete(max_tokens=8, temperature=2, top_p=1e-6).choices[0].text == greedy
    assert complete(max_tokens=8, temperature=2, extra_body={"top_k": 1}).choices[0].text == greedy
    assert complete(max_tokens=8, temperature=2, extra_body={"min_p": 1}).choices[0].text == greedy
    for penalty in ({"presence_penalty": 2}, {"frequency_penalty": 2}):
        assert complete(max_tokens=8, **penalty).choices[0].text != greedy
    assert complete(max_tokens=8, extra_body={"repetition_penalty": 10}).choices[0].text != greedy


# Logprobs.


def test_chat_logprobs(chat, prompt):
    choice = chat(prompt, logprobs=True, top_logprobs=4).choices[0]
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == ANSWER
    for token in tokens:
        assert bytes(token.bytes) == token.token.encode()
        assert len(token.top_logprobs) == 4
        assert token.top_logprobs[0].token == token.token  # greedy
        assert token.top_logprobs[0].logprob == token.logprob
        values = [other.logprob for other in token.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1 + 1e-4


def test_chat_logprobs_without_alternatives_and_streamed(chat, prompt):
    whole = chat(prompt, logprobs=True).choices[0].logprobs.content
    assert all(token.top_logprobs == [] for token in whole)
    stream = chat(prompt, logprobs=True, stream=True)
    streamed = [token for chunk in stream for choice in chunk.choices if choice.logprobs
                for token in choice.logprobs.content]
    assert streamed == whole


def test_completion_logprobs(complete):
    choice = complete(max_tokens=5, logprobs=3).choices[0]
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    starts = [sum(map(len, logprobs.tokens[:i])) for i in range(5)]
    assert logprobs.text_offset == starts
    for token, value, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
        assert len(top) == 3
        assert top[token] == value == max(top.values())


def test_logprobs_are_of_the_model_not_of_the_sampling(complete):
    """Temperature and penalties choose another token; what is reported stays."""
    plain = complete(max_tokens=1, logprobs=5).choices[0].logprobs
    hot = complete(max_tokens=1, logprobs=5, temperature=2, seed=3).choices[0].logprobs
    assert hot.top_logprobs[0] == pytest.approx(plain.top_logprobs[0], abs=1e-5)


# Prompts.


def test_prompt_as_token_ids(complete, tokenize):
    ids = tokenize("The grass is")
    expected = complete("The grass is", max_tokens=6)
    for prompt in (ids, [ids], ["The grass is"]):
        completion = complete(prompt, max_tokens=6)
        assert completion.choices[0].text == expected.choices[0].text
        assert completion.usage == expected.usage


def test_truncated_prompt_is_its_end(complete, tokenize):
    text = "Here we go. There and back again. The grass is"
    ids = tokenize(text)
    expected = complete(ids[-5:], max_tokens=6)
    completion = complete(text, max_tokens=6, extra_body={"truncate_prompt_tokens": 5})
    assert completion.usage.prompt_tokens == 5
    assert completion.choices[0].text == expected.choices[0].text
    for more in (len(ids), 10000, -1):
        whole = complete(text, max_tokens=1, extra_body={"truncate_prompt_tokens": more})
        assert whole.usage.prompt_tokens == len(ids)


def test_special_tokens_are_text_in_a_chat_and_tokens_in_a_prompt(chat, complete, tokenize):
    assert len(tokenize("<|im_end|>")) == 1
    assert complete("<|im_end|>", max_tokens=0).usage.prompt_tokens == 1
    plain = chat("hi", max_tokens=0).usage.prompt_tokens
    assert chat("hi<|im_end|>", max_tokens=0).usage.prompt_tokens > plain + 1


def test_unknown_and_idle_parameters_are_ignored(complete):
    expected = complete(max_tokens=4).choices[0].text
    ignored = {"a_parameter_of_tomorrow": {"x": [1]}, "service_tier": "auto", "store": False,
               "metadata": {"a": "b"}}
    assert complete(max_tokens=4, user="me", extra_body=ignored).choices[0].text == expected


# The prompt's own tokens.


def test_echo_puts_the_prompt_before_the_text(complete, tokenize):
    plain = complete(max_tokens=4).choices[0].text
    for prompt in ("The grass is", tokenize("The grass is")):
        for stream in (False, True):
            reply = complete(prompt, max_tokens=4, echo=True, stream=stream)
            chunks = reply if stream else [reply]
            assert "".join(chunk.choices[0].text for chunk in chunks) == "The grass is" + plain
    alone = complete(max_tokens=0, echo=True)
    assert alone.choices[0].text == "The grass is"
    assert alone.usage.completion_tokens == 0


def test_echoed_logprobs_are_those_of_generating(complete, tokenize):
    """What the model said while it wrote a text, it says again when it reads it."""
    written = complete(max_tokens=12, logprobs=3).choices[0]
    ids = tokenize("The grass is") + [tokenize(token)[0] for token in written.logprobs.tokens]
    read = complete(ids, max_tokens=0, echo=True, logprobs=3).choices[0]
    assert read.text == "The grass is" + written.text
    assert read.logprobs.tokens == ["The", " grass", " is", *written.logprobs.tokens]
    assert read.logprobs.token_logprobs[0] is None
    assert read.logprobs.top_logprobs[0] is None
    assert read.logprobs.token_logprobs[3:] == pytest.approx(
        written.logprobs.token_logprobs, abs=1e-4)
    for mine, theirs in zip(read.logprobs.top_logprobs[3:], written.logprobs.top_logprobs):
        assert mine == pytest.approx(theirs, abs=1e-4)
    assert read.logprobs.text_offset == [
        sum(map(len, read.logprobs.tokens[:i])) for i in range(len(read.logprobs.tokens))]


def test_echoed_logprobs_of_a_stream(complete, prompt):
    fields = dict(max_tokens=3, echo=True, logprobs=1)
    whole = complete(prompt, **fields).choices[0]
    tokens, values = [], []
    for chunk in complete(prompt, stream=True, **fields):
        if logprobs := chunk.choices[0].logprobs:
            tokens += logprobs.tokens
            values += logprobs.token_logprobs
    assert tokens == whole.logprobs.tokens
    assert values == whole.logprobs.token_logprobs
    assert "".join(tokens) == whole.text


def test_prompt_logprobs_as_in_vllm(chat, complete, tokenize):
    ids = tokenize("The grass is green.")
    reported = complete(ids, max_tokens=1, extra_body={"prompt_logprobs": 2})
    positions = reported.choices[0].prompt_logprobs
    assert positions[0] is None
    assert len(positions) == len(ids)
    echoed = complete(ids, max_tokens=0, echo=True, logprobs=2).choices[0].logprobs
    for each, position, value in list(zip(ids, positions, echoed.token_logprobs))[1:]:
        assert position[str(each)]["logprob"] == value
        assert 2 <= len(position) <= 3
        best = max(position.values(), key=lambda other: other["logprob"])
        assert best["rank"] == 1
    of_a_chat = chat("hi", max_tokens=0, extra_body={"prompt_logprobs": 0})
    assert len(of_a_chat.prompt_logprobs) == of_a_chat.usage.prompt_tokens


def test_bytes_of_half_a_character(complete, client, tokenize):
    first, *_ = tokenize("🐈")
    choice = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "hi"}], max_tokens=2, logprobs=True,
        logit_bias={str(first): 100}).choices[0]
    assert [token.bytes for token in choice.logprobs.content] == [[0xf0], [0xf0]]
    echoed = complete("🐈", max_tokens=0, echo=True, logprobs=0).choices[0]
    assert echoed.text == "🐈"
    assert echoed.logprobs.tokens == [f"bytes:\\x{byte:02x}" for byte in "🐈".encode()]


def test_several_prompts_in_one_request(complete, tokenize):
    prompts = ["The grass is", "Here we go", "There"]
    alone = [complete(prompt, max_tokens=5).choices[0].text for prompt in prompts]
    for together in (prompts, [tokenize(prompt) for prompt in prompts]):
        reply = complete(together, max_tokens=5)
        assert [choice.index for choice in reply.choices] == [0, 1, 2]
        assert [choice.text for choice in reply.choices] == alone
        assert reply.usage.prompt_tokens == sum(len(tokenize(prompt)) for prompt in prompts)
        assert reply.usage.completion_tokens == 15
    texts = [""] * 3
    for chunk in complete(prompts, max_tokens=5, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == alone


def test_several_choices_of_several_prompts(complete):
    fields = dict(max_tokens=5, n=2, temperature=1.5, seed=7, echo=True)
    reply = complete(["The grass is", "Here we go"], **fields)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    starts = ["The grass is"] * 2 + ["Here we go"] * 2
    assert all(choice.text.startswith(start) for choice, start in zip(reply.choices, starts))
    assert len({choice.text for choice in reply.choices}) == 4
    assert reply.choices == complete(["The grass is", "Here we go"], **fields).choices


def test_one_bad_prompt_of_several_fails_the_request(complete, worker):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(["The grass is", "", "Here we go"], max_tokens=1000,
                 extra_body={"ignore_eos": True})
    assert caught.value.param.startswith("prompt")
    assert "0 tokens" in caught.value.message
    assert metrics.wait_for(worker.is_idle, 5)


# Around requests.


def test_models(client):
    model = client.models.retrieve("demo")
    assert (model.id, model.object, model.max_model_len) == ("demo", "model", 1048576)
    assert [entry.id for entry in client.models.list()] == ["demo"]


def test_request_id_comes_back(chat, complete):
    headers = {"X-Request-Id": "mine-17"}
    assert chat("hi", max_tokens=1, extra_headers=headers)._request_id == "mine-17"
    assert chat("hi", max_tokens=1)._request_id != chat("hi", max_tokens=1)._request_id
    stream = complete(max_tokens=1, stream=True, extra_headers=headers)
    with stream:
        assert stream.response.headers["x-request-id"] == "mine-17"
    with pytest.raises(openai.BadRequestError) as caught:
        chat("hi", temperature=3, extra_headers=headers)
    assert caught.value.request_id == "mine-17"


def test_timeouts_of_the_request_that_suffice(complete):
    for fields in ({"extra_body": {"timeout": 30}}, {"extra_body": {"timeout": 1e3}},
                   {"extra_headers": {"X-Request-Timeout": "30"}}):
        assert complete(max_tokens=2, **fields).usage.completion_tokens == 2


def test_clients_at_once_get_their_own_answers(client):
    keys = ["10293", "55555", "90817", "33421"]
    answers = {}

    def ask(key):
        text = pass_key.announcement(key, 10, 0.3).text
        answers[key] = client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": text}]).choices[0].message.content

    threads = [threading.Thread(target=ask, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {key: f"The pass key is {key}." for key in keys}


# Cancelling in mid-prefill.


@pytest.fixture
def cancelled(cluster, worker):
    """Holds when the test's request is over in router and leader, and its prefill never was."""
    watch = metrics.CancelWatch(cluster, worker)
    yield watch
    watch.check(LONG_PROMPT_TOKENS)


def test_closing_a_stream_cancels(chat, long_prompt, cancelled):
    stream = chat(long_prompt, stream=True, extra_body=PROGRESS)
    for chunk in stream:
        if getattr(chunk, "progress", {}).get("processed_tokens", 0) > 0:
            break
    stream.close()


def test_client_that_gives_up_waiting_cancels(chat, long_prompt, cancelled):
    with pytest.raises(openai.APITimeoutError):
        chat(long_prompt, timeout=2)


def test_cancelled_task_cancels(cluster, long_prompt, cancelled):
    async def run():
        async with openai.AsyncOpenAI(base_url=cluster.rest, api_key="none") as client:
            task = asyncio.create_task(client.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": long_prompt}]))
            while not cancelled.prefill_has_begun():
                await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    asyncio.run(run())


# The asynchronous client.


def test_async_client(cluster, prompt):
    async def run():
        async with openai.AsyncOpenAI(base_url=cluster.rest, api_key="none",
                                      max_retries=0) as client:
            messages = [{"role": "user", "content": prompt}]
            create = client.chat.completions.create
            stream, whole, text = await asyncio.gather(
                create(model="demo", messages=messages, stream=True,
                       stream_options={"include_usage": True}),
                create(model="demo", messages=messages, logprobs=True, top_logprobs=2),
                client.completions.create(model="demo", prompt="The grass is", max_tokens=3, n=2))
            chunks = [chunk async for chunk in stream]
            assert text_of(chunks) == ANSWER
            assert chunks[-1].usage == whole.usage
            assert whole.choices[0].message.content == ANSWER
            assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 2
            assert len(text.choices) == 2
            assert [model.id async for model in client.models.list()] == ["demo"]
            with pytest.raises(openai.BadRequestError) as caught:
                await create(model="demo", messages=messages, top_p=0)
            assert caught.value.param == "top_p"
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve("other")
    asyncio.run(run())


def test_async_stream_closed_early_cancels(cluster, long_prompt, cancelled):
    async def run():
        async with openai.AsyncOpenAI(base_url=cluster.rest, api_key="none") as client:
            stream = await client.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": long_prompt}], stream=True,
                extra_body=PROGRESS)
            async with stream:
                async for chunk in stream:
                    if getattr(chunk, "progress", {}).get("processed_tokens", 0) > 0:
                        break
    asyncio.run(run())
