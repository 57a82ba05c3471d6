"""What is stored as JSON reads back as it was, whatever an agent or a model put into it."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.domain.event import (
    AttemptStarted,
    ContentDelta,
    ContentRetracted,
    CustomData,
    Event,
    EventId,
    InterruptRaised,
    RunEvent,
    RunStarted,
    ToolCallFinished,
    ToolCallStarted,
    UsageReported,
)
from roadworthy.domain.ids import AgentName, RunId, ThreadId
from roadworthy.domain.json import JsonValue
from roadworthy.domain.run import (
    DisconnectPolicy,
    Durability,
    InputKind,
    Interrupt,
    MultitaskStrategy,
    RunError,
    RunRequest,
    RunResult,
    ToolCall,
)
from roadworthy.domain.usage import ModelCall, Tokens, Usage
from roadworthy.storage import json_text
from roadworthy.storage.documents import request_from, request_text, result_from, result_text
from roadworthy.storage.event_rows import event_from, event_rows

# Lone surrogates and NUL included, pairs of surrogates not: together they read back as the character they mean.
TEXTS = st.text(st.characters(exclude_categories=())).filter(
    lambda text: text == text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
)
JSON: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
COUNTS = st.integers(0, 10**9)
TOKENS = st.builds(
    Tokens,
    input=COUNTS,
    output=COUNTS,
    cache_read=COUNTS,
    cache_write=COUNTS,
    cache_write_1h=COUNTS,
    reasoning=COUNTS,
)
USAGES = st.builds(
    Usage,
    model_calls=COUNTS,
    tokens=TOKENS,
    estimated=st.booleans(),
    cost_nanos=COUNTS,
    unpriced=COUNTS,
    unjournalled=COUNTS,
)
MOMENTS = st.datetimes(timezones=st.just(UTC))
CALLS = st.builds(
    ModelCall,
    call_id=TEXTS,
    node=TEXTS,
    provider=TEXTS,
    model=TEXTS,
    tokens=TOKENS,
    estimated=st.booleans(),
    outcome=TEXTS,
    started_at=MOMENTS,
    finished_at=MOMENTS,
    cost_nanos=st.none() | COUNTS,
    price_version=TEXTS,
    journalled=st.booleans(),
    message_id=TEXTS,
)
INTERRUPTS = st.builds(Interrupt, id=TEXTS, value=JSON)
EVENTS: st.SearchStrategy[RunEvent] = st.one_of(
    st.builds(RunStarted, run_id=TEXTS.map(RunId), thread_id=TEXTS.map(ThreadId), agent=TEXTS.map(AgentName)),
    st.builds(AttemptStarted, attempt=COUNTS, last_valid=st.none() | TEXTS),
    st.builds(ContentDelta, message_id=TEXTS, text=TEXTS, node=TEXTS),
    st.builds(ContentRetracted, message_id=TEXTS),
    st.builds(ToolCallStarted, id=TEXTS, name=TEXTS, args=JSON),
    st.builds(ToolCallFinished, id=TEXTS, name=TEXTS, result=JSON, error=st.none() | TEXTS, duration_ms=COUNTS),
    st.builds(CustomData, data=JSON),
    st.builds(UsageReported, call=CALLS, total=USAGES),
    st.builds(InterruptRaised, interrupts=st.lists(INTERRUPTS, max_size=3).map(tuple)),
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)
REQUESTS = st.builds(
    RunRequest,
    kind=st.sampled_from(InputKind),
    payload=JSON,
    context=st.none() | OBJECTS,
    metadata=OBJECTS,
    durability=st.sampled_from(Durability),
    on_disconnect=st.sampled_from(DisconnectPolicy),
    multitask_strategy=st.sampled_from(MultitaskStrategy),
    message_length=COUNTS,
)
RESULTS = st.builds(
    RunResult,
    response=TEXTS,
    output=JSON,
    structured_response=JSON,
    tool_calls=st.lists(
        st.builds(
            ToolCall,
            id=TEXTS,
            name=TEXTS,
            args=JSON,
            result=JSON,
            error=st.none() | TEXTS,
            duration_ms=st.none() | COUNTS,
        ),
        max_size=2,
    ).map(tuple),
    interrupts=st.lists(INTERRUPTS, max_size=2).map(tuple),
    usage=USAGES,
    error=st.none() | st.builds(RunError, code=TEXTS, message=TEXTS),
    first_token_at=st.none() | MOMENTS,
)


def stored_as_utf8(text: str) -> str:
    """What a database would give back; it refuses text that is no Unicode or holds a NUL."""
    assert "\0" not in text
    return text.encode().decode()


@given(JSON)
def test_any_json_value_reads_back(value: JsonValue) -> None:
    assert json_text.loads(stored_as_utf8(json_text.dumps(value))) == value


@given(EVENTS, st.integers(1, 10**9 - 1), st.integers(1, 10**9 - 1))
def test_any_event_reads_back(body: RunEvent, attempt: int, n: int) -> None:
    event = Event(id=EventId(7, attempt, n), body=body)
    ((run_seq, *row),) = event_rows(11, [event])
    assert run_seq == 11
    assert event_from(7, tuple(row)) == event


@given(REQUESTS)
def test_any_request_reads_back(request: RunRequest) -> None:
    assert request_from(stored_as_utf8(request_text(request))) == request


@given(RESULTS)
def test_any_result_reads_back(result: RunResult) -> None:
    assert result_from(stored_as_utf8(result_text(result))) == result


def test_a_run_without_a_result_has_the_empty_one() -> None:
    assert result_from(None) == RunResult()


def test_other_mappings_and_sequences_are_written_as_objects_and_arrays() -> None:
    value = MappingProxyType({"range": range(3), "tuple": (1, "\ud800")})
    assert json.loads(json_text.dumps(value)) == {"range": [0, 1, 2], "tuple": [1, "\ud800"]}


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError):
        json_text.dumps({"a": object()})


# The shape of stored events is a promise to later versions: a change here needs a migration.
STARTED = datetime(2030, 1, 1, tzinfo=UTC)
CALL = ModelCall(
    call_id="c",
    node="n",
    provider="p",
    model="m",
    tokens=Tokens(input=1),
    estimated=False,
    outcome="complete",
    started_at=STARTED,
    finished_at=STARTED + timedelta(seconds=1),
    cost_nanos=3,
    price_version="v",
    message_id="m",
)
TOKENS_TEXT = '{"input":1,"output":0,"cache_read":0,"cache_write":0,"cache_write_1h":0,"reasoning":0}'


@pytest.mark.parametrize(
    ("body", "type_", "text"),
    [
        (
            RunStarted(run_id=RunId("r"), thread_id=ThreadId("t"), agent=AgentName("a")),
            "run",
            '{"run_id":"r","thread_id":"t","agent":"a"}',
        ),
        (AttemptStarted(attempt=2, last_valid="1-1-3"), "attempt", '{"attempt":2,"last_valid":"1-1-3"}'),
        (ContentDelta(message_id="m", text="é", node="n"), "content", '{"message_id":"m","text":"é","node":"n"}'),
        (ContentRetracted(message_id="m"), "retract", '{"message_id":"m"}'),
        (ToolCallStarted(id="i", name="n", args={"a": 1}), "tool_call", '{"id":"i","name":"n","args":{"a":1}}'),
        (
            ToolCallFinished(id="i", name="n", result=[1], error=None, duration_ms=5),
            "tool_result",
            '{"id":"i","name":"n","result":[1],"error":null,"duration_ms":5}',
        ),
        (CustomData(data=None), "custom", '{"data":null}'),
        (
            UsageReported(call=CALL, total=Usage().plus([CALL])),
            "usage",
            '{"call":{"call_id":"c","node":"n","provider":"p","model":"m","tokens":' + TOKENS_TEXT + ","
            '"estimated":false,"outcome":"complete","started_at":"2030-01-01T00:00:00+00:00",'
            '"finished_at":"2030-01-01T00:00:01+00:00","cost_nanos":3,"price_version":"v","journalled":true,'
            '"message_id":"m"},'
            '"total":{"model_calls":1,"tokens":' + TOKENS_TEXT + ',"estimated":false,"cost_nanos":3,"unpriced":0,'
            '"unjournalled":0}}',
        ),
        (
            InterruptRaised(interrupts=(Interrupt(id="i", value="why?"),)),
            "interrupt",
            '{"interrupts":[{"id":"i","value":"why?"}]}',
        ),
    ],
)
def test_events_are_stored_in_this_shape(body: RunEvent, type_: str, text: str) -> None:
    assert list(event_rows(1, [Event(id=EventId(1, 1, 1), body=body)])) == [(1, 1, 1, type_, text)]


# What the first version stored, before calls had a price.
OLD_TOKENS = '{"input":1,"output":0,"cache_read":0,"cache_write":0,"reasoning":0}'
OLD_USAGE = '{"model_calls":1,"tokens":' + OLD_TOKENS + ',"estimated":false}'


def test_a_usage_event_from_before_prices_reads_as_not_priced() -> None:
    text = (
        '{"call":{"call_id":"c","node":"n","provider":"p","model":"m","tokens":' + OLD_TOKENS + ',"estimated":false,'
        '"outcome":"complete","started_at":"2030-01-01T00:00:00+00:00","finished_at":"2030-01-01T00:00:01+00:00"},'
        '"total":' + OLD_USAGE + "}"
    )
    event = event_from(1, (1, 1, "usage", text))
    call = replace(CALL, cost_nanos=None, price_version="", message_id="")
    assert event.body == UsageReported(call=call, total=Usage(model_calls=1, tokens=Tokens(input=1), unpriced=1))


def test_a_result_from_before_prices_reads_as_not_priced() -> None:
    text = (
        '{"response":"r","output":null,"structured_response":null,"tool_calls":[],"interrupts":[],"usage":'
        + OLD_USAGE
        + ',"error":null,"first_token_at":null}'
    )
    usage = result_from(text).usage
    assert (usage.model_calls, usage.unpriced, usage.known_cost_nanos) == (1, 1, None)
