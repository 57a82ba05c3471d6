"""The assistant's cost levers, on the real runtime, the real client and the fake provider with its ledger."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain.agents.middleware import ModelFallbackMiddleware
from langchain_anthropic.middleware import AnthropicPromptCachingMiddleware
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, tool
from langgraph.errors import GraphBubbleUp

from roadworthy.agents import assistant
from roadworthy.agents.assistant import AssistantConfig, AssistantGraph, build
from roadworthy.agents.cheap_model import CheapModel
from roadworthy.agents.retry import ProviderRetry, RetryPolicy
from roadworthy.domain.usage import ModelCall
from tests.conformance.runtime.playing import AGENT, Bench, Played, a_run, play
from tests.support.capturing import capturing
from tests.support.provider.fake import FakeProvider
from tests.support.provider.script import Fault, Rule, ToolUse, Turn

MAIN, CHEAP = "claude-sonnet-5", "claude-haiku-4-5"
OTHER = "claude-opus-4-5"
QUICK = RetryPolicy(max_retries=1, first_wait=timedelta(milliseconds=1))
OVERLOADED = Turn(fault=Fault(kind="error", status=529))
LOOK = Turn(tools=(ToolUse(name="look", args={}),))
ASKED_TO_SUMMARIZE = "Context Extraction Assistant"


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as running:
        yield running


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "good")
    monkeypatch.setenv("OPENAI_API_KEY", "good")


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the assistant a tool without a network behind it."""

    @tool
    def look() -> str:
        """Look."""
        return "seen"

    def tools(_config: AssistantConfig) -> list[BaseTool]:
        return [look]

    monkeypatch.setattr(assistant, "_tools", tools)


def _assistant(provider: FakeProvider, **levers: Any) -> AssistantGraph:
    return build(AssistantConfig(model=f"anthropic:{MAIN}", base_url=provider.url, retry=QUICK, **levers))


async def _talk(folder: Path, graph: AssistantGraph, *said: str) -> list[Played]:
    """Say it, message by message, on one thread."""
    async with Bench(folder=folder).serve(graph) as runtime:
        return [
            await play(runtime, a_run(runtime.message_input(AGENT, one), number=number))
            for number, one in enumerate(said, start=1)
        ]


def _models(provider: FakeProvider) -> list[str]:
    return [entry.model for entry in provider.ledger]


async def test_small_talk_goes_to_the_cheap_model_until_a_long_message_comes(
    tmp_path: Path, provider: FakeProvider
) -> None:
    graph = _assistant(provider, cheap_model=f"anthropic:{CHEAP}", cheap_below_chars=20)
    played = await _talk(tmp_path, graph, "hi", "thanks", "now a long story, please", "thanks")
    assert _models(provider) == [CHEAP, CHEAP, MAIN, MAIN]
    assert [call.model for one in played for call in one.of(ModelCall)] == _models(provider)


@pytest.mark.usefixtures("looking")
async def test_a_tool_call_of_the_cheap_model_hands_over_to_the_main_one(
    tmp_path: Path, provider: FakeProvider
) -> None:
    provider.script(LOOK, Turn(text="I see."))
    graph = _assistant(provider, cheap_model=f"anthropic:{CHEAP}")
    await _talk(tmp_path, graph, "look", "thanks")
    assert _models(provider) == [CHEAP, MAIN, MAIN]


async def test_the_fallback_answers_for_the_cheap_model_too(tmp_path: Path, provider: FakeProvider) -> None:
    provider.script(OVERLOADED, OVERLOADED, Turn(text="From the other."))
    graph = _assistant(provider, cheap_model=f"anthropic:{CHEAP}", fallback_model=f"anthropic:{OTHER}")
    (played,) = await _talk(tmp_path, graph, "hi")
    assert played.completed.response == "From the other."
    assert _models(provider) == [CHEAP, CHEAP, OTHER]


async def test_the_cheap_models_prompt_is_cached_like_the_main_ones() -> None:
    async with capturing() as provider:
        graph = build(
            AssistantConfig(model=f"anthropic:{MAIN}", base_url=provider.url, cheap_model=f"anthropic:{CHEAP}")
        )
        with pytest.raises(Exception, match="400"):
            await graph.ainvoke({"messages": [HumanMessage("hi")]})
    (body,) = provider.bodies
    assert body["model"] == CHEAP
    assert body["system"][-1]["cache_control"]["type"] == "ephemeral"


def test_the_levers_nest_as_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def make(*_: Any, middleware: Sequence[Any], **__: Any) -> None:
        given[:] = middleware

    monkeypatch.setattr(assistant, "create_agent", make)
    everything = AssistantConfig(
        model=f"anthropic:{MAIN}", fallback_model="openai:gpt-5", cheap_model=f"anthropic:{CHEAP}",
        summary_model=f"anthropic:{CHEAP}", max_model_calls=3,
    )  # fmt: skip
    build(everything)
    assert [type(one).__name__ for one in given] == [
        "ModelCallLimitMiddleware",
        "Summarization",
        CheapModel.__name__,
        ModelFallbackMiddleware.__name__,
        ProviderRetry.__name__,
        AnthropicPromptCachingMiddleware.__name__,
    ]
    build(AssistantConfig(model=f"anthropic:{MAIN}"))
    assert [type(one) for one in given] == [ProviderRetry, AnthropicPromptCachingMiddleware]


@pytest.mark.usefixtures("looking")
async def test_the_limit_ends_an_answer_and_the_next_one_begins_anew(tmp_path: Path, provider: FakeProvider) -> None:
    provider.script(rules=(Rule(when="loop", turns=(LOOK,), pick="for_ever"),))
    played, after = await _talk(tmp_path, _assistant(provider, max_model_calls=3), "loop", "say: done")
    assert len(played.of(ModelCall)) == 3
    assert "limit" in played.completed.response
    assert played.completed.response in played.text
    assert after.completed.response == "done"
    assert len(provider.ledger) == 4


async def test_old_messages_are_replaced_by_a_summary_that_is_billed_but_not_said(
    tmp_path: Path, provider: FakeProvider
) -> None:
    provider.script(rules=(Rule(when=ASKED_TO_SUMMARIZE, turns=(Turn(text="They spoke of oaks."),)),))
    graph = _assistant(provider, summary_model=f"anthropic:{CHEAP}", summarize_after_tokens=2000)
    long = "oak " * 1000
    first, second, third = await _talk(tmp_path, graph, f"{long}\nsay: one", f"{long}\nsay: two", "say: three")
    assert [one.completed.response for one in (first, second, third)] == ["one", "two", "three"]
    assert [one.text for one in (first, second, third)] == ["one", "two", "three"]
    summary = next(call for one in (second, third) for call in one.of(ModelCall) if call.model == CHEAP)
    billed = next(entry for entry in provider.ledger if entry.model == CHEAP)
    assert (summary.tokens.input, summary.tokens.output) == (billed.input_tokens, billed.output_tokens)
    assert (summary.outcome, summary.node) == ("complete", "Summarization.before_model")
    assert billed.last_user_text.count("oak ") >= 1000, "the writer must see all of it"
    whole = [entry for entry in provider.ledger if entry.model == MAIN]
    assert len(whole) == 3
    assert whole[-1].input_tokens < 1200, "in full it were more than 2000"


async def test_a_summary_is_not_made_again_for_each_call(tmp_path: Path, provider: FakeProvider) -> None:
    graph = _assistant(provider, summary_model=f"anthropic:{CHEAP}", summarize_after_tokens=2000)
    long = "oak " * 1000
    await _talk(tmp_path, graph, f"{long}\nsay: 1", f"{long}\nsay: 2", "say: 3", "say: 4", "say: 5")
    assert _models(provider).count(CHEAP) <= 2
    assert _models(provider)[-2:] == [MAIN, MAIN]


async def test_without_its_writer_a_conversation_goes_on_in_full(
    tmp_path: Path, provider: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    provider.script(rules=(Rule(when=ASKED_TO_SUMMARIZE, turns=(OVERLOADED,), pick="for_ever"),))
    graph = _assistant(provider, summary_model=f"anthropic:{CHEAP}", summarize_after_tokens=2000)
    long = "oak " * 1500
    played = (await _talk(tmp_path, graph, f"{long}\nsay: one", f"{long}\nsay: two"))[-1]
    assert played.completed.response == "two"
    assert _models(provider) == [MAIN, CHEAP, CHEAP, MAIN]
    assert provider.ledger[-1].input_tokens > 2500
    assert "no summary" in caplog.text


async def test_a_writer_that_does_not_exist_is_told(tmp_path: Path, provider: FakeProvider) -> None:
    graph = _assistant(provider, summary_model="anthropic:claude-none", summarize_after_tokens=2000)
    long = "oak " * 1500
    played = (await _talk(tmp_path, graph, f"{long}\nsay: one", f"{long}\nsay: two"))[-1]
    assert played.error is not None
    assert _models(provider) == [MAIN, "claude-none"]


@pytest.mark.usefixtures("looking")
async def test_an_answer_that_the_limit_ends_pays_for_no_summary(tmp_path: Path, provider: FakeProvider) -> None:
    provider.script(rules=(Rule(when="loop", turns=(Turn(text="oak " * 3000, tools=LOOK.tools),), pick="for_ever"),))
    graph = _assistant(
        provider, summary_model=f"anthropic:{CHEAP}", summarize_after_tokens=2000, max_model_calls=1
    )  # fmt: skip
    (played,) = await _talk(tmp_path, graph, "loop")
    assert "limit" in played.completed.response
    assert _models(provider) == [MAIN]


class _Stop(AsyncCallbackHandler):
    """Stops the run before a call, as a budget does."""

    raise_error = True

    def __init__(self) -> None:
        self.asked = 0

    async def on_chat_model_start(self, *args: object, **kwargs: object) -> None:
        self.asked += 1
        raise GraphBubbleUp


async def test_a_stop_of_the_run_before_a_summary_is_not_tried_again(provider: FakeProvider) -> None:
    graph = _assistant(provider, summary_model=f"anthropic:{CHEAP}", summarize_after_tokens=2000)
    stop = _Stop()
    long = "oak " * 3000
    with pytest.raises(GraphBubbleUp):
        await graph.ainvoke(
            {"messages": [HumanMessage(long), AIMessage("one"), HumanMessage("two")]}, RunnableConfig(callbacks=[stop])
        )
    assert stop.asked == 1
    assert provider.ledger == ()


async def test_openai_streams_are_asked_for_their_usage() -> None:
    async with capturing() as provider:
        graph = build(AssistantConfig(model="openai:gpt-5-mini", base_url=f"{provider.url}/v1"))
        with pytest.raises(openai.BadRequestError):
            async for _ in graph.astream({"messages": [HumanMessage("hi")]}, stream_mode="messages"):
                pass
    (body,) = provider.bodies
    assert body["stream_options"] == {"include_usage": True}
