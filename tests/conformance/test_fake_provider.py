"""The official Anthropic client takes the fake provider for the real one: the answers that go right."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from anthropic import Anthropic
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool

from tests.support.provider.client import MODEL, claude
from tests.support.provider.fake import FakeProvider
from tests.support.provider.script import Hold, Rule, ToolUse, Turn
from tests.support.provider.tokens import count_tokens

HEADERS = {"x-api-key": "test", "anthropic-version": "2023-06-01"}


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as running:
        yield running


def joined(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


async def stream(model: ChatAnthropic, prompt: str) -> AIMessageChunk:
    return joined([chunk async for chunk in model.astream(prompt)])


async def test_text_streams_one_token_a_delta_and_ends_with_usage_and_a_stop_reason(provider: FakeProvider) -> None:
    chunks = [chunk async for chunk in claude(provider.url).astream("say: hello world")]

    assert [chunk.text for chunk in chunks if chunk.text] == ["hell", "o wo", "rld"]
    message = joined(chunks)
    assert message.response_metadata["stop_reason"] == "end_turn"
    usage = message.usage_metadata
    assert usage is not None
    assert (usage["input_tokens"], usage["output_tokens"]) == (count_tokens("say: hello world"), 3)
    [entry] = provider.ledger
    assert (entry.outcome, entry.stop_reason, entry.streamed) == ("complete", "end_turn", True)
    assert (entry.input_tokens, entry.output_tokens) == (usage["input_tokens"], usage["output_tokens"])
    assert (entry.model, entry.last_user_text) == (MODEL, "say: hello world")


async def test_the_events_come_in_the_order_of_the_real_api(provider: FakeProvider) -> None:
    provider.script(Turn(thinking="Hm", text="Well", tools=(ToolUse(name="weather", args={"city": "Bern"}),)))
    body = {"model": MODEL, "max_tokens": 100, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    async with httpx.AsyncClient(base_url=provider.url, headers=HEADERS) as client:
        response = await client.post("/v1/messages", json=body)

    blocks = [block.split("\n") for block in response.text.strip().split("\n\n")]
    assert all(name.removeprefix("event: ") == json.loads(data[6:])["type"] for name, data in blocks)
    events = [json.loads(data[6:]) for _, data in blocks]
    kinds = [event.get("delta", {}).get("type") or event["type"] for event in events]
    thinking = ["content_block_start", "ping", "thinking_delta", "signature_delta", "content_block_stop"]
    text = ["content_block_start", "text_delta", "content_block_stop"]
    tool_use = ["content_block_start", *["input_json_delta"] * 5, "content_block_stop"]
    assert kinds == ["message_start", *thinking, *text, *tool_use, "message_delta", "message_stop"]
    assert events[0]["message"]["stop_reason"] is None
    assert events[0]["message"]["usage"]["cache_read_input_tokens"] == 0
    start = next(event for event in events if event.get("content_block", {}).get("type") == "tool_use")
    assert start["content_block"]["input"] == {}
    partials = [event["delta"]["partial_json"] for event in events if "partial_json" in event.get("delta", {})]
    assert partials[0] == ""
    assert json.loads("".join(partials)) == {"city": "Bern"}
    assert response.headers["request-id"].startswith("req_")
    assert int(response.headers["anthropic-ratelimit-requests-remaining"]) > 0


async def test_a_tool_call_streams_its_arguments_in_pieces(provider: FakeProvider) -> None:
    provider.script(Turn(text="Let me see.", tools=(ToolUse(name="weather", args={"city": "Bern"}),)))

    message = joined([chunk async for chunk in claude(provider.url).bind_tools([weather]).astream("Bern?")])  # pyright: ignore[reportArgumentType] -- a model streams chunks

    [call] = message.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Bern"})
    assert message.text == "Let me see."
    assert message.response_metadata["stop_reason"] == "tool_use"


async def test_thinking_comes_signed_and_is_accepted_when_it_is_sent_back(provider: FakeProvider) -> None:
    model = claude(provider.url, max_tokens=2000, thinking=True)
    message = await stream(model, "think: two and two\nsay: four")

    reasoning = [block for block in message.content_blocks if block["type"] == "reasoning"]
    assert [block.get("reasoning") for block in reasoning] == ["two and two"]
    assert message.usage_metadata is not None
    assert message.usage_metadata.get("output_token_details", {}).get("reasoning") == count_tokens("two and two")
    history = [HumanMessage("add"), AIMessage(content=message.content), HumanMessage("say: thanks")]
    assert (await model.ainvoke(history)).text == "thanks"


async def test_an_answer_without_streaming_is_the_same_answer(provider: FakeProvider) -> None:
    turn = Turn(thinking="Hm", text="Well", tools=(ToolUse(name="weather", args={"city": "Bern"}),))
    provider.script(turn, turn)
    model = claude(provider.url)

    whole = await model.ainvoke("hi")
    streamed = await claude(provider.url, streaming=True).bind_tools([weather]).ainvoke("hi")

    assert [entry.streamed for entry in provider.ledger] == [False, True]
    assert [call["args"] for call in whole.tool_calls] == [call["args"] for call in streamed.tool_calls]
    assert whole.text == streamed.text == "Well"
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == provider.ledger[0].output_tokens
    assert {entry.output_tokens for entry in provider.ledger} == {whole.usage_metadata["output_tokens"]}


def test_a_sync_client_is_served_too() -> None:
    with FakeProvider() as provider:
        assert [chunk.text for chunk in claude(provider.url).stream("say: hello") if chunk.text] == ["hell", "o"]
        assert claude(provider.url).invoke("say: hello").text == "hello"


async def test_refusal_and_the_token_limit_are_stop_reasons(provider: FakeProvider) -> None:
    provider.script(Turn(text="I can", stop_reason="refusal"), Turn(text="a b c d e f g h"))

    refused = await stream(claude(provider.url), "hi")
    truncated = await stream(claude(provider.url, max_tokens=2), "hi")

    assert refused.response_metadata["stop_reason"] == "refusal"
    assert refused.response_metadata["stop_details"]["type"] == "refusal"
    assert (truncated.response_metadata["stop_reason"], truncated.text) == ("max_tokens", "a b c d ")
    assert [(entry.stop_reason, entry.output_tokens) for entry in provider.ledger] == [
        ("refusal", 2),
        ("max_tokens", 2),
    ]


async def test_cached_tokens_are_reported_and_written_down(provider: FakeProvider) -> None:
    provider.script(Turn(text="hi", cache_read_tokens=70, cache_creation_tokens=30))

    message = await stream(claude(provider.url), "four")

    assert message.usage_metadata is not None
    assert message.usage_metadata["input_tokens"] == 101
    [entry] = provider.ledger
    assert (entry.input_tokens, entry.cache_read_tokens, entry.cache_creation_tokens) == (1, 70, 30)


async def test_an_agent_calls_its_tool_and_answers_from_the_result(provider: FakeProvider) -> None:
    agent = create_agent(claude(provider.url), [weather])

    state = await agent.ainvoke({"messages": [HumanMessage('tool: weather {"city": "Bern"}')]})

    kinds = [type(message) for message in state["messages"]]
    assert kinds == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert state["messages"][-1].text == "The tools returned: rain in Bern"
    assert [(entry.outcome, entry.stop_reason) for entry in provider.ledger] == [
        ("complete", "tool_use"),
        ("complete", "end_turn"),
    ]


async def test_rules_keep_conversations_apart_and_the_queue_serves_the_rest(provider: FakeProvider) -> None:
    provider.script(
        Turn(text="queued"),
        rules=(
            Rule(when="red", turns=(Turn(text="red 1"), Turn(text="red 2"))),
            Rule(when="blue", turns=(Turn(text="blue"),), pick="for_ever"),
            Rule(when="green", turns=(Turn(text="green"),), pick="by_position"),
        ),
    )
    model = claude(provider.url)

    prompts = ["red", "blue", "green", "blue", "red", "green", "red", "other say"]
    answers = [(await model.ainvoke(prompt)).text for prompt in prompts]

    assert answers == ["red 1", "blue", "green", "blue", "red 2", "green", "queued", "You said: other say"]


async def test_a_held_call_waits_for_its_release(provider: FakeProvider) -> None:
    provider.script(Turn(text="one two three", hold=Hold(at=2, gate="door")))

    texts: list[str] = []
    async for chunk in claude(provider.url).astream("hi"):
        texts.append(chunk.text)
        if "".join(texts) == "one two ":
            [entry] = await provider.wait_for(lambda calls: any(call.held for call in calls))
            assert (entry.outcome, entry.output_tokens) == ("open", 2)
            provider.release("door")

    assert "".join(texts) == "one two three"
    assert provider.ledger[0].outcome == "complete"


async def test_the_model_catalogue_is_served(provider: FakeProvider) -> None:
    with Anthropic(base_url=provider.url, api_key="test", max_retries=0) as client:
        assert client.models.retrieve(MODEL).id == MODEL
        listed = {model.id: model.lifecycle for model in client.models.list()}
        counted = client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "eight ch"}])

    assert listed[MODEL] == "active"
    assert "retired" in listed.values()
    assert counted.input_tokens == 2
    assert provider.ledger == ()
