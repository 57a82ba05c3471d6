import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from roadworthy.domain.errors import InvalidRequest, StorageUnavailable
from roadworthy.domain.event import (
    AttemptStarted,
    ContentDelta,
    Event,
    EventId,
    RunEnded,
    RunStarted,
)
from roadworthy.domain.run import Run, RunError, RunStatus
from roadworthy.protocols.plain.stream import frames, parse_position, position_in
from tests.support.web.fakes import make_run

Batches: TypeAlias = AsyncGenerator[Sequence[Event], None]

FAILED = RunError(code="agent_failed", message="it raised")


def log_of(run: Run, attempts: Sequence[int], error: RunError | None) -> list[Event]:
    """A whole log: ``attempts[i]`` texts in attempt i + 1, then the end."""
    log: list[Event] = []
    for attempt, texts in enumerate(attempts, start=1):
        opening = (
            RunStarted(run_id=run.run_id, thread_id=run.thread_id, agent=run.agent)
            if attempt == 1
            else AttemptStarted(attempt=attempt, last_valid=None)
        )
        bodies = [opening, *(ContentDelta(message_id="m", text=str(n)) for n in range(texts))]
        log += [Event(id=EventId(run.ord, attempt, n), body=body) for n, body in enumerate(bodies, start=1)]
    last = log[-1].id if log else EventId(run.ord, 0, 0)
    status = RunStatus.SUCCESS if error is None else RunStatus.ERROR
    return [*log, Event(id=last._replace(n=last.n + 1), body=RunEnded(status=status, error=error))]


def following(log: Sequence[Event], size: int) -> Callable[[EventId | None], Batches]:
    async def follow(after: EventId | None) -> Batches:
        rest = [event for event in log if after is None or event.id > after]
        for begin in range(0, len(rest), size):
            yield rest[begin : begin + size]

    return follow


async def documents(run: Run, log: Sequence[Event], after: EventId | None, *, size: int = 3) -> list[dict[str, Any]]:
    lines = [frame async for batch in frames(run, following(log, size), after=after) for frame in batch]
    return [json.loads(line.decode().rstrip().split("\n")[-1].removeprefix("data: ")) for line in lines]


@given(
    attempts=st.lists(st.integers(0, 4), max_size=3),
    failed=st.booleans(),
    size=st.integers(1, 5),
)
def test_reconnecting_behind_any_event_gives_exactly_the_rest(attempts: list[int], *, failed: bool, size: int) -> None:
    run = make_run(ord=3, attempt=len(attempts), status=RunStatus.ERROR if failed else RunStatus.SUCCESS)
    log = log_of(run, attempts, FAILED if failed else None)

    async def check() -> None:
        whole = await documents(run, log, None, size=size)
        assert whole[0]["type"] == "run"
        assert whole[-1]["type"] == "done"
        assert [document["type"] for document in whole].count("error") == failed
        for index, document in enumerate(whole):
            position = position_in(run, parse_position(document["id"]))
            assert await documents(run, log, position, size=size) == whole[index + 1 :]

    asyncio.run(check())


async def test_the_run_is_named_before_it_has_a_slot() -> None:
    waiting = asyncio.Event()

    async def never(_after: EventId | None) -> Batches:
        waiting.set()
        await asyncio.Event().wait()
        yield []

    stream = frames(make_run(), never, after=None)
    assert b'"type":"run"' in next(iter(await anext(stream)))
    assert not waiting.is_set()
    await stream.aclose()


async def test_the_log_is_closed_when_the_client_leaves() -> None:
    closed = asyncio.Event()

    async def follow(_after: EventId | None) -> Batches:
        try:
            yield [Event(id=EventId(1, 1, 2), body=ContentDelta(message_id="m", text="a"))]
        finally:
            closed.set()

    stream = frames(make_run(), follow, after=None)
    await anext(stream)
    await anext(stream)
    await stream.aclose()
    assert closed.is_set()


async def test_a_log_that_ends_before_the_run_hands_over() -> None:
    run = make_run(attempt=1)
    log = log_of(run, [2], None)[:-1]
    assert [document["type"] for document in await documents(run, log, None)] == [
        "run",
        "content",
        "content",
        "handover",
    ]
    assert [document["type"] for document in await documents(run, log, EventId(1, 1, 3))] == ["handover"]


@pytest.mark.parametrize("failure", [StorageUnavailable("locked"), ValueError("a row that nobody can read")])
async def test_a_log_that_fails_meanwhile_hands_over_and_is_told_to_the_operator(failure: Exception) -> None:
    async def follow(_after: EventId | None) -> Batches:
        yield [Event(id=EventId(1, 1, 2), body=ContentDelta(message_id="m", text="a"))]
        raise failure

    run = make_run()
    with capture_logs() as logs:
        lines = [line async for batch in frames(run, follow, after=None) for line in batch]
    assert [b'"content"' in lines[1], b'"handover"' in lines[2], len(lines)] == [True, True, 3]
    assert [(entry["event"], entry["log_level"], entry["run_id"]) for entry in logs] == [
        ("follow_failed", "error", run.run_id)
    ]


async def test_a_client_that_leaves_a_stream_is_no_failure_of_the_log() -> None:
    run = make_run(attempt=1)
    with capture_logs() as logs:
        stream = frames(run, following(log_of(run, [2], None), 1), after=None)
        await anext(stream)
        await anext(stream)
        await stream.aclose()
    assert logs == []


@pytest.mark.parametrize("text", ["x", "1-1", "1-1-1-1", "1-1-9999999999"])
def test_a_position_that_is_no_event_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as failed:
        parse_position(text)
    assert failed.value.field == "Last-Event-ID"


def test_a_position_in_another_run_is_refused() -> None:
    with pytest.raises(InvalidRequest) as failed:
        position_in(make_run(ord=1), EventId(2, 1, 1))
    assert failed.value.field == "Last-Event-ID"


@pytest.mark.parametrize("text", [None, ""])
def test_no_position_means_the_beginning(text: str | None) -> None:
    assert position_in(make_run(), parse_position(text)) is None
