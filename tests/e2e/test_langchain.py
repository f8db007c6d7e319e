"""LangChain's ChatOpenAI, unmodified, against a whole cluster."""

import asyncio

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

import metrics
import pass_key

KEY = "48213"
ANSWER = f"The pass key is {KEY}."
LONG_PROMPT_TOKENS = 60_000  # no CPU reads them within the seconds of a test


@pytest.fixture(scope="module")
def make(cluster):
    def chat_model(**fields):
        return ChatOpenAI(**{"model": "demo", "base_url": cluster.rest, "api_key": "none",
                             "max_retries": 0, "temperature": 0, **fields})
    return chat_model


@pytest.fixture(scope="module")
def chat(make):
    return make()


@pytest.fixture(scope="module")
def run():
    """Runs a coroutine. LangChain shares connections between models, so all have one loop."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def prompt():
    return pass_key.announcement(KEY, 20, 0.5).text  # about 600 tokens


def test_invoke(chat, prompt):
    message = chat.invoke(prompt)
    assert message.content == ANSWER
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.response_metadata["model_name"] == "demo"
    usage = message.usage_metadata
    assert usage["input_tokens"] > 500
    assert usage["output_tokens"] > 5
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["input_token_details"]["cache_read"] == 0


def test_every_message_of_a_conversation_counts(chat, prompt):
    messages = [HumanMessage(prompt)]
    lengths = [chat.invoke(messages, max_tokens=1).usage_metadata["input_tokens"]]
    for message in (AIMessage("Hello."), HumanMessage("hi"), SystemMessage(prompt)):
        messages.insert(0, message)
        lengths.append(chat.invoke(messages, max_tokens=1).usage_metadata["input_tokens"])
    assert lengths == sorted(set(lengths))


def test_stream(chat, make, prompt):
    chunks = list(chat.stream(prompt))
    assert "".join(chunk.content for chunk in chunks) == ANSWER
    assert len([chunk for chunk in chunks if chunk.content]) > 1
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.response_metadata["finish_reason"] == "stop"
    with_usage = list(make(stream_usage=True).stream(prompt))
    [usage] = [chunk.usage_metadata for chunk in with_usage if chunk.usage_metadata]
    assert usage == chat.invoke(prompt).usage_metadata


def test_batch(chat):
    keys = ["10293", "55555", "90817"]
    prompts = [pass_key.announcement(key, 10, 0.3).text for key in keys]
    answers = [message.content for message in chat.batch(prompts)]
    assert answers == [f"The pass key is {key}." for key in keys]


def test_async(chat, run, prompt):
    async def ask():
        message = await chat.ainvoke(prompt)
        streamed = [chunk.content async for chunk in chat.astream(prompt)]
        both = await chat.abatch([prompt, prompt])
        return [message.content, "".join(streamed), *(each.content for each in both)]
    assert run(ask()) == [ANSWER] * 4


def test_chain(chat):
    chain = ChatPromptTemplate.from_messages([("human", "{text}")]) | chat | StrOutputParser()
    assert chain.invoke({"text": pass_key.announcement(KEY, 10, 0.5).text}) == ANSWER


def test_stop(chat, make, prompt):
    assert chat.invoke(prompt, stop=[" key is"]).content == "The pass"
    assert make(stop_sequences=["s key is 482"]).invoke(prompt).content == "The pas"
    assert "".join(each.content for each in chat.stream(prompt, stop=["y is"])) == "The pass ke"


def test_limits_and_sampling(chat, make, prompt):
    message = make(max_completion_tokens=3).invoke(prompt)
    assert message.response_metadata["finish_reason"] == "length"
    assert message.usage_metadata["output_tokens"] == 3
    assert make(max_tokens=3).invoke(prompt).content == message.content
    hot = make(temperature=1.5, seed=7, max_completion_tokens=12)
    assert hot.invoke("The grass is").content == hot.invoke("The grass is").content
    extra = make(extra_body={"min_tokens": 16}, max_completion_tokens=24).invoke(prompt)
    assert extra.usage_metadata["output_tokens"] >= 16
    choices = make(n=2).generate([[HumanMessage(prompt)]]).generations[0]
    assert [choice.text for choice in choices] == [ANSWER, ANSWER]


def test_logprobs(make, prompt):
    message = make(logprobs=True, top_logprobs=2).invoke(prompt)
    tokens = message.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == ANSWER
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return "rain"


def test_bound_tools_are_put_before_the_model(chat, prompt):
    """The demo model calls no tools: tested are the way there, and results on the way back."""
    plain = chat.invoke(prompt, max_tokens=1).usage_metadata["input_tokens"]
    bound = chat.bind_tools([weather])
    with_tools = bound.invoke(prompt, max_tokens=1)
    assert with_tools.usage_metadata["input_tokens"] > plain + 50
    assert with_tools.tool_calls == []
    call = {"name": "weather", "args": {"city": "Köln"}, "id": "1", "type": "tool_call"}
    history = [HumanMessage("Weather?"), AIMessage("", tool_calls=[call]),
               ToolMessage("rain", tool_call_id="1"), HumanMessage(prompt)]
    after_a_call = bound.invoke(history, max_tokens=1)
    assert after_a_call.usage_metadata["input_tokens"] > (
        with_tools.usage_metadata["input_tokens"] + 20)
    with pytest.raises(openai.BadRequestError) as caught:
        chat.bind_tools([weather], tool_choice="any").invoke("hi")
    assert caught.value.param == "tool_choice"


def test_errors(make, chat):
    with pytest.raises(openai.BadRequestError) as caught:
        chat.invoke("hi", top_p=2)
    assert caught.value.param == "top_p"
    with pytest.raises(openai.NotFoundError):
        make(model="other").invoke("hi")
    with pytest.raises(openai.BadRequestError) as caught:
        chat.invoke([HumanMessage([{"type": "image_url", "image_url": {"url": "data:,"}}])])
    assert caught.value.param == "messages[0].content[0].type"
    with pytest.raises(openai.InternalServerError) as caught:
        chat.invoke("hi", max_tokens=100_000, extra_body={"ignore_eos": True, "timeout": 0.5})
    assert caught.value.status_code == 504


def test_cancelled_task_cancels(cluster, worker, chat, run):
    watch = metrics.CancelWatch(cluster, worker)

    async def leave():
        prompt = pass_key.build(LONG_PROMPT_TOKENS, 0.5).text
        task = asyncio.create_task(chat.ainvoke(prompt))
        while not watch.prefill_has_begun():
            await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(leave())
    watch.check(LONG_PROMPT_TOKENS)


def test_client_that_gives_up_waiting_cancels(cluster, worker, make):
    watch = metrics.CancelWatch(cluster, worker)
    with pytest.raises(openai.APITimeoutError):
        make(timeout=2).invoke(pass_key.build(LONG_PROMPT_TOKENS, 0.5).text)
    watch.check(LONG_PROMPT_TOKENS)
