"""What the official client makes of each fault, and what the fake provider's ledger says about it."""

import asyncio
import json
from collections.abc import AsyncIterator
from time import monotonic

import anthropic
import httpx
import httpx2
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from tests.support.provider.client import MODEL, claude
from tests.support.provider.fake import FakeProvider
from tests.support.provider.script import Fault, FaultKind, Rule, ToolUse, Turn

HEADERS = {"x-api-key": "test", "anthropic-version": "2023-06-01"}
BODY = {"model": MODEL, "max_tokens": 100, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
CALL = ToolUse(name="weather", args={"city": "Bern"})
WEATHER = {"name": "weather", "description": "The weather.", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as running:
        yield running


async def shown_before(failure: type[Exception], provider: FakeProvider, *, timeout_seconds: float = 10) -> str:
    """The text that the client showed before its stream raised `failure`."""
    texts: list[str] = []

    async def show() -> None:
        async for chunk in claude(provider.url, timeout_seconds=timeout_seconds).astream("hi"):
            texts.append(chunk.text)

    with pytest.raises(failure):
        await show()
    return "".join(texts)


@pytest.mark.parametrize(
    ("status", "failure", "kind"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (401, anthropic.AuthenticationError, "authentication_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (529, anthropic.OverloadedError, "overloaded_error"),
    ],
)
async def test_a_status_is_an_error_with_the_envelope_and_costs_nothing(
    provider: FakeProvider, status: int, failure: type[anthropic.APIStatusError], kind: str
) -> None:
    provider.script(Turn(text="never", fault=Fault(kind="error", status=status, retry_after=7)))

    with pytest.raises(failure) as caught:
        await claude(provider.url).ainvoke("hi")

    body = json.loads(caught.value.response.text)
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] == caught.value.response.headers["request-id"]
    assert caught.value.response.headers["retry-after"] == "7"
    [entry] = provider.ledger
    assert (entry.outcome, entry.input_tokens, entry.output_tokens) == (f"error:{status}", 0, 0)


async def test_a_bad_key_and_a_retired_or_unknown_model_are_refused(provider: FakeProvider) -> None:
    with pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"):
        await claude(provider.url, key="bad").ainvoke("hi")
    for model in ("claude-3-opus-20240229", "claude-typo"):
        async with httpx.AsyncClient(base_url=provider.url, headers=HEADERS) as client:
            refused = await client.post("/v1/messages", json=BODY | {"model": model})
        assert (refused.status_code, refused.json()["error"]["message"]) == (404, f"model: {model}")
    async with httpx.AsyncClient(base_url=provider.url) as client:
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get("/v1/models/claude-typo", headers=HEADERS)).status_code == 404

    assert [entry.outcome for entry in provider.ledger] == ["error:404", "error:404"]


async def test_an_overload_in_the_stream_is_an_error_with_status_200(provider: FakeProvider) -> None:
    provider.script(Turn(text="one two three", fault=Fault(kind="error", at=2)))

    with pytest.raises(anthropic.APIStatusError, match="overloaded_error") as caught:
        await claude(provider.url, streaming=True).ainvoke("hi")

    assert caught.value.status_code == 200
    [entry] = provider.ledger
    assert (entry.outcome, entry.output_tokens) == ("error:529", 2)


@pytest.mark.parametrize(
    ("kind", "failure"),
    [("reset", httpx2.ReadError), ("silence", httpx2.ReadTimeout), ("garbage", json.JSONDecodeError)],
)
async def test_a_broken_stream_raises_after_the_tokens_that_came(
    provider: FakeProvider, kind: FaultKind, failure: type[Exception]
) -> None:
    provider.script(Turn(text="one two three", fault=Fault(kind=kind, at=2)))

    assert await shown_before(failure, provider, timeout_seconds=0.3) == "one two "

    [entry] = await provider.wait_for(lambda calls: calls[0].outcome != "open")
    assert entry.outcome == ("client_gone" if kind == "silence" else kind)
    assert (entry.output_tokens, entry.stop_reason) == (2, None)
    assert entry.input_tokens > 0


@pytest.mark.parametrize(
    ("kind", "failure"), [("reset", anthropic.APIConnectionError), ("silence", anthropic.APITimeoutError)]
)
async def test_a_provider_that_never_answers_is_a_connection_error(
    provider: FakeProvider, kind: FaultKind, failure: type[Exception]
) -> None:
    provider.script(Turn(text="never", fault=Fault(kind=kind)))

    assert await shown_before(failure, provider, timeout_seconds=0.3) == ""


async def test_a_slow_first_byte_runs_into_the_read_timeout(provider: FakeProvider) -> None:
    provider.script(Turn(text="late", first_byte_ms=60_000))

    assert await shown_before(anthropic.APITimeoutError, provider, timeout_seconds=0.3) == ""

    await provider.wait_for_outcome("client_gone")


async def test_a_polite_cut_looks_like_a_success_without_a_stop_reason(provider: FakeProvider) -> None:
    provider.script(Turn(text="one two three", fault=Fault(kind="cut", at=2)))

    message = await claude(provider.url, streaming=True).ainvoke("hi")

    assert message.text == "one two "
    assert message.response_metadata.get("stop_reason") is None
    assert message.usage_metadata is None
    [entry] = provider.ledger
    assert (entry.outcome, entry.output_tokens) == ("cut", 2)


async def test_a_cut_inside_tool_json_leaves_a_call_that_looks_whole(provider: FakeProvider) -> None:
    provider.script(Turn(tools=(CALL,), fault=Fault(kind="cut", at="tool_json")))

    message = await claude(provider.url, streaming=True).bind_tools([WEATHER]).ainvoke("hi")

    [call] = message.tool_calls
    assert call["args"] != CALL.args
    assert message.response_metadata.get("stop_reason") is None


@pytest.mark.parametrize("kind", ["reset", "cut"])
async def test_a_whole_answer_can_break_off_too(provider: FakeProvider, kind: FaultKind) -> None:
    provider.script(Turn(text="one two three", fault=Fault(kind=kind, at="end")))

    with pytest.raises(anthropic.APIConnectionError):
        await claude(provider.url).ainvoke("hi")

    assert [entry.outcome for entry in provider.ledger] == [kind]


async def test_a_fault_planned_beyond_the_answer_strikes_at_its_end(provider: FakeProvider) -> None:
    provider.script(Turn(text="one", fault=Fault(kind="cut", at=99)))

    message = await claude(provider.url, streaming=True).ainvoke("hi")

    assert (message.text, message.response_metadata.get("stop_reason")) == ("one", None)


async def test_pings_go_on_until_the_client_leaves(provider: FakeProvider) -> None:
    provider.script(Turn(text="one two", fault=Fault(kind="pings", at=1)))
    pings = 0
    async with (
        httpx.AsyncClient(base_url=provider.url, headers=HEADERS) as client,
        client.stream("POST", "/v1/messages", json=BODY) as response,
    ):
        async for line in response.aiter_lines():
            pings += line == "event: ping"
            if pings == 4:
                break

    [entry] = await provider.wait_for_outcome("client_gone")
    assert entry.output_tokens == 1


async def test_a_cancelled_call_is_noticed_within_a_second_and_billed_for_what_it_produced(
    provider: FakeProvider,
) -> None:
    provider.script(Turn(text="one two three", fault=Fault(kind="silence", at=3)))

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        call = group.create_task(claude(provider.url, streaming=True).ainvoke("hi"))
        await provider.wait_for(lambda calls: any(entry.output_tokens == 3 for entry in calls))
        assert provider.clients == 1
        cancelled_at = monotonic()
        call.cancel()

    [entry] = await provider.wait_for_outcome("client_gone")
    assert entry.client_gone_mono is not None
    assert entry.client_gone_mono - cancelled_at < 1
    assert (entry.output_tokens, entry.stop_reason) == (3, None)


def _asked(*ids: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "weather", "args": {}, "id": call_id} for call_id in ids])


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([HumanMessage("Bern?"), _asked("toolu_1"), HumanMessage("hello?")], "without `tool_result` blocks"),
        ([HumanMessage("Bern?"), _asked("toolu_1")], "without `tool_result` blocks"),
        (
            [HumanMessage("Bern?"), _asked("toolu_1", "toolu_2"), ToolMessage("rain", tool_call_id="toolu_1")],
            "toolu_2",
        ),
        ([HumanMessage("Bern?"), ToolMessage("rain", tool_call_id="toolu_9")], "unexpected `tool_use_id`"),
        (
            [
                HumanMessage("Bern?"),
                _asked("toolu_1"),
                ToolMessage("rain", tool_call_id="toolu_1"),
                _asked("toolu_1"),
                ToolMessage("rain", tool_call_id="toolu_1"),
            ],
            "must be unique",
        ),
        ([HumanMessage("Bern?"), AIMessage("yes"), HumanMessage("  ")], "non-whitespace"),
        ([AIMessage("yes"), HumanMessage("hello")], "first message must use the user role"),
        ([HumanMessage("long " * 200_000)], "prompt is too long"),
    ],
)
async def test_a_broken_history_is_a_bad_request_and_costs_nothing(
    provider: FakeProvider, messages: list[BaseMessage], complaint: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=complaint):
        await claude(provider.url).ainvoke(messages)

    [entry] = provider.ledger
    assert (entry.outcome, entry.input_tokens, entry.output_tokens) == ("bad_request", 0, 0)
    assert complaint in (entry.detail or "")


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        json.dumps({"model": MODEL, "messages": BODY["messages"]}).encode(),
        json.dumps(BODY | {"messages": []}).encode(),
        json.dumps(BODY | {"messages": [{"role": "user", "content": ""}]}).encode(),
        json.dumps(BODY | {"messages": [{"role": "robot", "content": "hi"}]}).encode(),
    ],
)
async def test_a_malformed_request_is_a_bad_request(provider: FakeProvider, body: bytes) -> None:
    async with httpx.AsyncClient(base_url=provider.url, headers=HEADERS) as client:
        response = await client.post("/v1/messages", content=body)

    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    assert [entry.outcome for entry in provider.ledger] == ["bad_request"]


async def test_fifty_calls_at_once_keep_their_own_answers(provider: FakeProvider) -> None:
    numbers = range(50)
    provider.script(rules=tuple(Rule(when=f"<{n}>", turns=(Turn(text=f"answer {n}"),)) for n in numbers))
    model = claude(provider.url, streaming=True)

    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(model.ainvoke(f"<{n}>") for n in numbers))

    assert [answer.text for answer in answers] == [f"answer {n}" for n in numbers]
    assert {entry.outcome for entry in provider.ledger} == {"complete"}


async def test_stopping_cuts_off_whoever_is_connected() -> None:
    async with FakeProvider() as provider:
        provider.script(Turn(text="one two", fault=Fault(kind="silence", at=1)))
        stream = claude(provider.url).astream("hi")
        assert [(await anext(stream)).text for _ in range(2)] == ["", "one "]

    async with asyncio.timeout(10):
        with pytest.raises(httpx2.TransportError):
            await anext(stream)
