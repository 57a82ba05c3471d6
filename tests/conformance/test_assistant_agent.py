"""The assistant, driven through the real Anthropic client against the fake provider and its ledger."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta

import anthropic
import pytest
from langchain.agents.middleware.types import InputAgentState
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp

from roadworthy.agents.assistant import AssistantConfig, AssistantGraph, build
from roadworthy.agents.models import verify_model
from roadworthy.agents.retry import RetryPolicy
from roadworthy.domain.errors import ProviderUnavailable
from tests.support.capturing import capturing
from tests.support.provider.fake import FakeProvider
from tests.support.provider.ledger import LedgerEntry
from tests.support.provider.script import Fault, Turn

MODEL = "anthropic:claude-sonnet-5"
QUICK = RetryPolicy(first_wait=timedelta(milliseconds=1))


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as running:
        yield running


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "good")


def _assistant(
    url: str, *, model: str = MODEL, retry: RetryPolicy = QUICK, fallback_model: str | None = None
) -> AssistantGraph:
    return build(AssistantConfig(model=model, base_url=url, retry=retry, fallback_model=fallback_model))


async def _ask(assistant: AssistantGraph, *, config: RunnableConfig | None = None) -> str:
    """Run one turn as the server does, streaming from the provider, and return the text of the last message."""
    last: str = ""
    texts: dict[str | None, str] = {}
    question: InputAgentState = {"messages": [{"role": "user", "content": "Say something"}]}
    stream = assistant.astream(question, config, stream_mode="messages")
    async with asyncio.timeout(20):
        async for part in stream:
            match part:
                case (AIMessageChunk() as chunk, _):
                    last = texts[chunk.id] = texts.get(chunk.id, "") + chunk.text
                case _:
                    continue
    return last


def _outcomes(entries: Iterable[LedgerEntry]) -> list[str]:
    return [entry.outcome for entry in entries]


async def test_an_overload_inside_the_stream_is_retried_until_it_answers(provider: FakeProvider) -> None:
    overloaded = Turn(text="half of an answer that is never", fault=Fault(kind="error", at=2, status=529))
    provider.script(overloaded, overloaded, Turn(text="All is well."))
    assert await _ask(_assistant(provider.url)) == "All is well."
    assert _outcomes(provider.ledger) == ["error:529", "error:529", "complete"]


@pytest.mark.parametrize("status", [429, 500, 529])
async def test_an_overload_before_the_stream_is_retried(provider: FakeProvider, status: int) -> None:
    provider.script(Turn(fault=Fault(kind="error", status=status)), Turn(text="All is well."))
    assert await _ask(_assistant(provider.url)) == "All is well."
    assert _outcomes(provider.ledger) == [f"error:{status}", "complete"]


async def test_the_provider_is_not_asked_again_before_its_retry_after(provider: FakeProvider) -> None:
    provider.script(Turn(fault=Fault(kind="error", status=429, retry_after=1)), Turn(text="All is well."))
    assert await _ask(_assistant(provider.url)) == "All is well."
    first, second = provider.ledger
    assert first.ended_mono is not None
    assert second.received_mono - first.ended_mono >= 0.95


async def test_a_retry_after_beyond_the_bound_ends_the_trying_at_once(provider: FakeProvider) -> None:
    provider.script(Turn(fault=Fault(kind="error", status=429, retry_after=3600)), Turn(text="Too late."))
    with pytest.raises(anthropic.RateLimitError) as raised:
        await _ask(_assistant(provider.url))
    assert raised.value.response.headers["retry-after"] == "3600"
    assert _outcomes(provider.ledger) == ["error:429"]


async def test_an_overload_for_ever_ends_after_the_allowed_retries(provider: FakeProvider) -> None:
    provider.script(*[Turn(fault=Fault(kind="error", status=529))] * 9)
    policy = RetryPolicy(max_retries=2, first_wait=timedelta(milliseconds=1))
    with pytest.raises(anthropic.APIStatusError):
        await _ask(_assistant(provider.url, retry=policy))
    assert _outcomes(provider.ledger) == ["error:529"] * 3


async def test_a_refused_key_is_not_retried(provider: FakeProvider) -> None:
    provider.script(Turn(fault=Fault(kind="error", status=401)), Turn(text="Never."))
    with pytest.raises(anthropic.AuthenticationError):
        await _ask(_assistant(provider.url))
    assert _outcomes(provider.ledger) == ["error:401"]


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_a_request_that_can_never_work_is_not_retried(provider: FakeProvider, status: int) -> None:
    provider.script(Turn(fault=Fault(kind="error", status=status)), Turn(text="Never."))
    with pytest.raises(anthropic.APIStatusError):
        await _ask(_assistant(provider.url))
    assert len(provider.ledger) == 1


async def test_an_invalid_request_reported_inside_the_stream_is_not_retried(provider: FakeProvider) -> None:
    provider.script(Turn(text="one two three", fault=Fault(kind="error", at=1, status=400)), Turn(text="Never."))
    with pytest.raises(anthropic.APIStatusError):
        await _ask(_assistant(provider.url))
    assert len(provider.ledger) == 1


@pytest.mark.parametrize("kind", ["reset", "garbage"])
async def test_a_broken_stream_is_retried(provider: FakeProvider, kind: str) -> None:
    fault = Fault(kind="reset", at=2) if kind == "reset" else Fault(kind="garbage", at=2)
    provider.script(Turn(text="one two three four five", fault=fault), Turn(text="All is well."))
    assert await _ask(_assistant(provider.url)) == "All is well."
    assert _outcomes(provider.ledger) == [kind, "complete"]


class _CutStreamGuard(AsyncCallbackHandler):
    """Does what the server does with a message that lacks its stop reason."""

    raise_error = True

    async def on_llm_end(self, response: LLMResult, **kwargs: object) -> None:
        for generations in response.generations:
            for generation in generations:
                assert isinstance(generation, ChatGeneration)
                if "stop_reason" not in generation.message.response_metadata:
                    raise ProviderUnavailable("the provider cut its stream")


async def test_a_stream_that_the_server_found_cut_is_retried(provider: FakeProvider) -> None:
    provider.script(Turn(text="one two three four five", fault=Fault(kind="cut", at=2)), Turn(text="All is well."))
    guarded = RunnableConfig(callbacks=[_CutStreamGuard()])
    assert await _ask(_assistant(provider.url), config=guarded) == "All is well."
    assert _outcomes(provider.ledger) == ["cut", "complete"]


class _Stop(AsyncCallbackHandler):
    """Stops the run before a call, as a budget does."""

    raise_error = True

    async def on_chat_model_start(self, *args: object, **kwargs: object) -> None:
        raise GraphBubbleUp


async def test_a_stop_of_the_run_is_neither_retried_nor_answered_by_the_fallback(provider: FakeProvider) -> None:
    assistant = _assistant(provider.url, fallback_model="anthropic:claude-haiku-4-5")
    stopped = RunnableConfig(callbacks=[_Stop()])
    with pytest.raises(GraphBubbleUp):
        await _ask(assistant, config=stopped)
    assert provider.ledger == ()


async def test_a_provider_that_cannot_be_reached_ends_after_the_allowed_retries() -> None:
    async with FakeProvider() as provider:
        gone = provider.url
    with pytest.raises(anthropic.APIConnectionError):
        await _ask(_assistant(gone, retry=RetryPolicy(max_retries=1, first_wait=timedelta(milliseconds=1))))


async def test_the_fallback_takes_over_when_the_retries_gave_up(provider: FakeProvider) -> None:
    provider.script(*[Turn(fault=Fault(kind="error", status=529))] * 2, Turn(text="From the other model."))
    policy = RetryPolicy(max_retries=1, first_wait=timedelta(milliseconds=1))
    assistant = _assistant(provider.url, retry=policy, fallback_model="anthropic:claude-haiku-4-5")
    assert await _ask(assistant) == "From the other model."
    assert [entry.model for entry in provider.ledger] == ["claude-sonnet-5"] * 2 + ["claude-haiku-4-5"]


async def test_it_answers_without_an_event_loop_too(provider: FakeProvider) -> None:
    provider.script(Turn(fault=Fault(kind="error", status=529)), Turn(text="All is well."))
    assistant = _assistant(provider.url)

    def ask() -> object:
        return assistant.invoke({"messages": [{"role": "user", "content": "Say something"}]})["messages"][-1].text

    assert await asyncio.to_thread(ask) == "All is well."


def test_web_search_is_a_tool_only_when_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAVILY_API_KEY", "tvly-x")
    assert "tools" not in build(AssistantConfig()).get_graph().nodes
    assert "tools" in build(AssistantConfig(tavily=True)).get_graph().nodes


def test_an_unknown_provider_is_named_when_the_agent_is_built() -> None:
    with pytest.raises(ValueError, match="nonesuch"):
        build(AssistantConfig(model="nonesuch:model"))


async def test_the_prompt_is_marked_for_the_providers_cache() -> None:
    async with capturing() as provider:
        with pytest.raises(anthropic.BadRequestError):
            await _ask(_assistant(provider.url))
    (body,) = provider.bodies
    assert body["system"][-1]["cache_control"]["type"] == "ephemeral"
    assert body["stream"] is True


@pytest.mark.parametrize(
    ("model", "key", "verdict"),
    [
        ("claude-sonnet-5", "good", "ok"),
        ("claude-sonnet-4-5", "good", "deprecated"),
        ("claude-3-opus-20240229", "good", "retired"),
        ("claude-sonet-5", "good", "unknown_model"),
        ("claude-sonnet-5", "bad", "refused"),
    ],
)
async def test_the_provider_is_asked_about_key_and_model(
    provider: FakeProvider, model: str, key: str, verdict: str
) -> None:
    check = await verify_model(f"anthropic:{model}", key, provider.url)
    assert check.verdict == verdict
    assert key not in check.detail


async def test_a_provider_that_cannot_be_reached_is_named() -> None:
    async with FakeProvider() as provider:
        gone = provider.url
    check = await verify_model(MODEL, "good", gone)
    assert check.verdict == "unreachable"
    assert gone in check.detail
