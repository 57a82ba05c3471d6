"""Against a faithful provider, through the real Anthropic client: cuts, overloads, refusals, cancels, bills."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from pydantic import SecretStr

from roadworthy.domain.errors import AgentFailed, ProviderUnavailable, RoadworthyError
from roadworthy.domain.event import ContentDelta, ContentRetracted, ToolCallStarted
from roadworthy.domain.usage import ModelCall
from tests.conformance.runtime.playing import AGENT, BOUND, Bench, Compiled, a_run, play, prepared
from tests.support.provider.fake import FakeProvider
from tests.support.provider.script import Fault, Hold, ToolUse, Turn

LONG = "one two three four five six"


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as running:
        yield running


@tool
def fell(tree: str) -> str:
    """Fell a tree."""
    return f"{tree} is down"


def agent(provider: FakeProvider, *middleware: Any, **fields: Any) -> Compiled:
    model = ChatAnthropic(
        model_name="claude-sonnet-5", base_url=provider.url, api_key=SecretStr("good"), max_retries=0, timeout=None,
        stop=None, **fields,
    )  # fmt: skip
    return create_agent(model, [fell], middleware=middleware)


async def ask(bench: Bench, graph: Compiled) -> Any:
    async with bench.serve(graph) as runtime:
        return await play(runtime, a_run(runtime.message_input(AGENT, "go")))


async def test_usage_is_what_the_provider_billed(bench: Bench, provider: FakeProvider) -> None:
    provider.script(
        Turn(tools=(ToolUse(name="fell", args={"tree": "oak"}),), cache_read_tokens=7, cache_creation_tokens=5),
        Turn(text="Down.", thinking="hm"),
    )
    played = await ask(bench, agent(provider))
    assert played.completed.response == "Down."
    calls = played.of(ModelCall)
    for call, entry in zip(calls, provider.ledger, strict=True):
        assert call.outcome == "complete"
        assert not call.estimated
        assert (call.provider, call.model) == ("anthropic", "claude-sonnet-5")
        whole = entry.input_tokens + entry.cache_read_tokens + entry.cache_creation_tokens
        assert (call.tokens.input, call.tokens.output) == (whole, entry.output_tokens)
        assert (call.tokens.cache_read, call.tokens.cache_write) == (
            entry.cache_read_tokens,
            entry.cache_creation_tokens,
        )


@pytest.mark.parametrize("at", ["tool_json", "end"])
async def test_a_cut_stream_never_runs_a_tool(bench: Bench, provider: FakeProvider, at: Any) -> None:
    provider.script(
        Turn(text=LONG, tools=(ToolUse(name="fell", args={"tree": "oak"}),), fault=Fault(kind="cut", at=at))
    )
    played = await ask(bench, agent(provider))
    assert isinstance(played.error, ProviderUnavailable)
    assert "cut" in played.error.message
    assert played.of(ToolCallStarted) == []
    assert played.text == ""
    (call,) = played.of(ModelCall)
    assert (call.outcome, call.estimated) == ("cut", True)
    assert len(played.of(ContentRetracted)) == 1


async def test_partial_text_of_failed_calls_is_retracted_and_the_agents_retry_answers(
    bench: Bench, provider: FakeProvider
) -> None:
    from langchain.agents.middleware import ModelRetryMiddleware

    provider.script(
        Turn(text=LONG, fault=Fault(kind="cut", at=3)),
        Turn(text=LONG, fault=Fault(kind="error", at=3, status=529)),
        Turn(text=LONG, fault=Fault(kind="reset", at=3)),
        Turn(text=LONG, fault=Fault(kind="garbage", at=3)),
        Turn(text="All is well."),
    )
    played = await ask(bench, agent(provider, ModelRetryMiddleware(max_retries=6, initial_delay=0)))
    assert played.completed.response == played.text == "All is well."
    assert [call.outcome for call in played.of(ModelCall)] == ["cut", "failed", "failed", "failed", "complete"]
    assert [call.estimated for call in played.of(ModelCall)] == [True, True, True, True, False]
    ids = list(dict.fromkeys(delta.message_id for delta in played.of(ContentDelta)))
    assert [event.message_id for event in played.of(ContentRetracted)] == ids[:4]
    assert [call.message_id for call in played.of(ModelCall)] == ids
    for call in played.of(ModelCall)[:4]:
        assert call.tokens.output == 3


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (529, ProviderUnavailable, "overloaded"),
        (500, ProviderUnavailable, "failed"),
        (429, ProviderUnavailable, "rate"),
        (401, ProviderUnavailable, "refused the key"),
        (403, ProviderUnavailable, "not permit"),
        (404, ProviderUnavailable, "does not know the model"),
        (400, AgentFailed, "rejected"),
    ],
)
@pytest.mark.parametrize("at", ["first_byte", 2])
async def test_the_providers_errors_are_named_wherever_they_come(
    bench: Bench, provider: FakeProvider, status: int, error: type[RoadworthyError], said: str, at: Any
) -> None:
    fault = Fault(kind="error", at=at, status=status, message="secret words")
    provider.script(Turn(text=LONG, fault=fault))
    played = await ask(bench, agent(provider))
    assert isinstance(played.error, error)
    assert said in played.error.message
    assert "secret" not in played.error.message
    assert played.error.__cause__ is not None
    (call,) = played.of(ModelCall)
    assert call.outcome == "failed"
    assert call.estimated is (at != "first_byte")


@pytest.mark.parametrize("kind", ["reset", "garbage"])
async def test_a_broken_connection_is_the_providers_fault(bench: Bench, provider: FakeProvider, kind: Any) -> None:
    provider.script(Turn(text=LONG, fault=Fault(kind=kind, at=2)))
    played = await ask(bench, agent(provider))
    assert isinstance(played.error, ProviderUnavailable)


async def test_a_provider_that_is_not_there_is_unavailable(bench: Bench) -> None:
    async with FakeProvider() as gone:
        graph = agent(gone)
    played = await ask(bench, graph)
    assert isinstance(played.error, ProviderUnavailable)


async def test_a_model_that_does_not_stream_is_guarded_too(bench: Bench, provider: FakeProvider) -> None:
    provider.script(Turn(text="Whole."))
    played = await ask(bench, agent(provider, disable_streaming=True))
    assert [delta.text for delta in played.of(ContentDelta)] == ["Whole."]
    assert not played.of(ModelCall)[0].estimated


@pytest.mark.parametrize("stop", ["max_tokens", "refusal"])
async def test_other_ends_of_an_answer_are_ends(bench: Bench, provider: FakeProvider, stop: Any) -> None:
    provider.script(Turn(text="As far as", stop_reason=stop))
    played = await ask(bench, agent(provider))
    assert played.completed.response == "As far as"


async def test_a_call_cancelled_mid_stream_is_owed_and_its_connection_closed(
    bench: Bench, provider: FakeProvider
) -> None:
    provider.script(Turn(text=LONG, hold=Hold(at=3)))
    async with bench.serve(agent(provider)) as runtime, asyncio.timeout(BOUND):
        async with prepared(runtime, a_run(runtime.message_input(AGENT, "go"))) as execution:
            events = execution.events()
            told = 0
            async for event in events:
                told += isinstance(event, ContentDelta)
                if told == 3:
                    break
            await events.aclose()
            (call,) = execution.open_calls()
            assert (call.outcome, call.estimated, call.provider) == ("cancelled", True, "anthropic")
            assert call.tokens.output == 3
            assert call.tokens.input > 0
        (entry,) = await provider.wait_for_outcome("client_gone")
        assert entry.output_tokens == 3
