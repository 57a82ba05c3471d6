"""What calls are billed that end early or never tell their usage: near what the provider itself counted, never zero."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import SecretStr

from roadworthy.domain.event import ContentDelta
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.pricing.catalogue import Catalogue
from tests.conformance.runtime.playing import AGENT, BOUND, Bench, Compiled, a_run, play, prepared
from tests.support.openai_provider import MODEL, OpenAIProvider
from tests.support.provider.fake import FakeProvider
from tests.support.provider.ledger import LedgerEntry
from tests.support.provider.script import Fault, Hold, ToolUse, Turn

CATALOGUE = Catalogue()
AT = datetime(2026, 11, 1, tzinfo=UTC)
QUESTION = "Which of the trees shall fall? " * 100
THINKING = "Let me think about all the trees that there are. " * 20
TEXT = "The oak is the oldest, and the tallest of all of them. " * 20


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as running:
        yield running


@tool
def fell(tree: str) -> str:
    """Fell a tree."""
    return f"{tree} is down"


def claude(provider: FakeProvider, **fields: Any) -> ChatAnthropic:
    return ChatAnthropic(
        model_name="claude-sonnet-5", base_url=provider.url, api_key=SecretStr("good"), max_retries=0, timeout=None,
        stop=None, **fields,
    )  # fmt: skip


def gpt(provider: OpenAIProvider, **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, base_url=provider.url, api_key=SecretStr("good"), max_retries=0, **fields)


def nanos(model: tuple[str, str], tokens: Tokens) -> int:
    price = CATALOGUE.price(*model, tokens, AT)
    assert price is not None
    return price.cost_nanos


def billed(entry: LedgerEntry) -> Tokens:
    return Tokens(
        input=entry.input_tokens + entry.cache_read_tokens + entry.cache_creation_tokens,
        output=entry.output_tokens,
        cache_read=entry.cache_read_tokens,
        cache_write=entry.cache_creation_tokens,
    )


def assert_near(call: ModelCall, counted: Tokens) -> None:
    assert call.estimated
    model = (call.provider, call.model)
    assert nanos(model, call.tokens) == pytest.approx(nanos(model, counted), rel=0.2)


async def cancelled_after(bench: Bench, graph: Compiled, deltas: int) -> Sequence[ModelCall]:
    """What is owed for an attempt that is cancelled when so many pieces of text were told."""
    async with bench.serve(graph) as runtime, asyncio.timeout(BOUND):
        run = a_run(runtime.message_input(AGENT, QUESTION))
        async with prepared(runtime, run) as execution:
            events, told = execution.events(), 0
            async for event in events:
                told += isinstance(event, ContentDelta)
                if told == deltas:
                    break
            await events.aclose()
            return execution.open_calls()


@pytest.mark.parametrize("tools", [[], [fell]])
async def test_a_cancelled_call_of_claude_owes_its_exact_input_and_near_its_output(
    bench: Bench, provider: FakeProvider, tools: list[Any]
) -> None:
    thought = -(-len(THINKING) // 4)
    turn = Turn(text=TEXT, thinking=THINKING, cache_read_tokens=5_000, cache_creation_tokens=700,
                hold=Hold(at=thought + 100))  # fmt: skip
    provider.script(turn)
    (call,) = await cancelled_after(bench, create_agent(claude(provider), tools), 100)
    (entry,) = await provider.wait_for_outcome("client_gone")
    counted = billed(entry)
    assert call.outcome == "cancelled"
    assert (call.tokens.input, call.tokens.cache_read, call.tokens.cache_write) == (counted.input, 5_000, 700)
    assert call.tokens.output == pytest.approx(counted.output, rel=0.05)
    assert_near(call, counted)


@pytest.mark.parametrize("kind", ["cut", "reset", "garbage", "error"])
@pytest.mark.parametrize("at", [0, 300, "tool_json", "end"])
async def test_a_call_of_claude_that_breaks_anywhere_owes_near_what_was_counted(
    bench: Bench, provider: FakeProvider, kind: Any, at: Any
) -> None:
    call = ToolUse(name="fell", args={"tree": "oak " * 50})
    provider.script(
        Turn(text=TEXT, thinking=THINKING, tools=(call,), cache_read_tokens=500, fault=Fault(kind=kind, at=at))
    )
    async with bench.serve(create_agent(claude(provider), [fell])) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, QUESTION)))
    (made,) = played.of(ModelCall)
    (entry,) = provider.ledger
    counted = billed(entry)
    assert made.estimated
    if kind != "reset":  # which may overtake what was sent before it
        assert (made.tokens.input, made.tokens.cache_read) == (counted.input, 500)
        assert_near(made, counted)


async def test_a_call_that_is_cancelled_before_its_first_byte_owes_near_its_input(
    bench: Bench, provider: FakeProvider
) -> None:
    provider.script(Turn(text=TEXT, hold=Hold(at="first_byte")))
    async with asyncio.timeout(BOUND), bench.serve(create_agent(claude(provider), [fell])) as runtime:
        run = a_run(runtime.message_input(AGENT, QUESTION))
        async with prepared(runtime, run) as execution, asyncio.TaskGroup() as group:

            async def consume() -> None:
                async for _ in execution.events():
                    pass

            consuming = group.create_task(consume())
            await provider.wait_for(lambda entries: any(entry.held for entry in entries))
            consuming.cancel()
            await asyncio.wait({consuming})
            (call,) = execution.open_calls()
    (entry,) = provider.ledger
    assert_near(call, billed(entry))


async def test_nothing_of_the_watch_reaches_the_authors_state_or_chunks(bench: Bench, provider: FakeProvider) -> None:
    model = claude(provider)
    chunks: list[Any] = []

    async def ask(state: MessagesState) -> dict[str, Any]:
        answer: AIMessageChunk | None = None
        async for chunk in model.astream(state["messages"]):
            chunks.append(chunk.model_dump())
            answer = chunk if answer is None else answer + chunk
        return {"messages": [answer, await model.ainvoke(state["messages"])]}

    provider.script(*(Turn(text="Down.", cache_read_tokens=7) for _ in range(3)))
    graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").compile()
    async with bench.serve(graph) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "go")))
    chunks += [chunk.model_dump() async for chunk in model.astream([HumanMessage("outside of any attempt")])]
    assert len(played.of(ModelCall)) == 2
    assert "roadworthy" not in f"{played.completed.output}{chunks}"
    assert "model_name" in f"{chunks}"


async def test_a_stream_that_is_asked_for_its_usage_is_counted_by_the_provider(bench: Bench) -> None:
    async with OpenAIProvider(
        pieces=("Down", "."), prompt_tokens=1_000, completion_tokens=300, cached_tokens=600, reasoning_tokens=200
    ) as provider:
        async with bench.serve(create_agent(gpt(provider, stream_usage=True), [fell])) as runtime:
            played = await play(runtime, a_run(runtime.message_input(AGENT, QUESTION)))
        assert provider.requests[0]["stream_options"] == {"include_usage": True}
    (call,) = played.of(ModelCall)
    assert (call.provider, call.model, call.outcome, call.estimated) == ("openai", MODEL, "complete", False)
    assert call.tokens == Tokens(input=1_000, output=300, cache_read=600, reasoning=200)
    # $1.25 new, $0.125 cached, $10 out, per million.
    assert nanos(("openai", MODEL), call.tokens) == 500_000 + 75_000 + 3_000_000


async def test_a_stream_that_is_not_asked_is_estimated_and_never_free(bench: Bench) -> None:
    pieces = tuple(TEXT[start : start + 4] for start in range(0, len(TEXT), 4))
    async with OpenAIProvider(pieces=pieces, prompt_tokens=1, completion_tokens=1) as provider:
        async with bench.serve(create_agent(gpt(provider), [])) as runtime:
            played = await play(runtime, a_run(runtime.message_input(AGENT, QUESTION)))
        assert "stream_options" not in provider.requests[0]
    (call,) = played.of(ModelCall)
    assert call.outcome == "complete"
    assert_near(call, Tokens(input=len(QUESTION) // 4, output=len(pieces)))


async def test_tool_arguments_of_a_stream_that_is_not_asked_are_estimated_too(bench: Bench) -> None:
    arguments = ('{"tree": "', *("oak " for _ in range(200)), '"}')
    async with OpenAIProvider(arguments=arguments) as provider:
        model = gpt(provider).bind_tools([fell])

        async def ask(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await model.ainvoke(state["messages"])]}

        graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").compile()
        async with bench.serve(graph) as runtime:
            played = await play(runtime, a_run(runtime.message_input(AGENT, QUESTION)))
    (call,) = played.of(ModelCall)
    assert call.estimated
    assert call.tokens.output == pytest.approx(203, rel=0.05)


@pytest.mark.parametrize("asked", [True, False])
async def test_a_cancelled_stream_of_another_provider_owes_near_prompt_and_answer(bench: Bench, asked: bool) -> None:
    pieces = tuple(TEXT[start : start + 4] for start in range(0, len(TEXT), 4))
    async with OpenAIProvider(pieces=pieces, hold_after=100) as provider:
        (call,) = await cancelled_after(bench, create_agent(gpt(provider, stream_usage=asked), []), 100)
    assert call.outcome == "cancelled"
    assert_near(call, Tokens(input=len(QUESTION) // 4, output=100))
