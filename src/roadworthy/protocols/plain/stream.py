"""A run's events → the frames of one connection, from any position.

Called by ``routes.py``; above it is ``http/sse.py``, below it ``services/streams.py``. Concatenated over reconnects,
the frames are those of an uninterrupted stream.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TypeAlias

import structlog

from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.event import Event, EventId, RunEnded
from roadworthy.domain.run import Run
from roadworthy.http.sse import Frames
from roadworthy.protocols.plain.encode import ending_frames, event_frame, handover_frame, opening_frame

Follow: TypeAlias = Callable[[EventId | None], AsyncGenerator[Sequence[Event], None]]

# A run's last event is written as up to two frames, so a position may lie two behind it.
_BACK = 2
_BEFORE_ALL = EventId(0, 0, 0)

_log = structlog.get_logger(__name__)


def parse_position(text: str | None) -> EventId | None:
    """Where a client's last connection broke off; None for the beginning.

    Raises:
        InvalidRequest: it is no event's id.
    """
    if not text:
        return None
    position = EventId.parse(text)
    if position is None:
        raise InvalidRequest("it is not the id of an event", field="Last-Event-ID")
    return position


def position_in(run: Run, position: EventId | None) -> EventId | None:
    """The position, if it is one in this run.

    Raises:
        InvalidRequest: it is in another one.
    """
    if position is not None and position.ord != run.ord:
        raise InvalidRequest("it is not the id of an event of this run", field="Last-Event-ID")
    return position


async def frames(run: Run, follow: Follow, *, after: EventId | None) -> Frames:
    """Batches of frames behind ``after``, up to ``done``; up to ``handover`` when the log ends or fails before.

    Empty when the client has seen ``done`` already.
    """
    seen = after or _BEFORE_ALL
    if after is None:
        seen, opening = opening_frame(run)
        yield [opening]
    ended = False
    try:
        async with aclosing(follow(_start(after))) as batches:
            async for batch in batches:
                ready = _frames(run, batch, seen)
                ended = isinstance(batch[-1].body, RunEnded)
                if ready:
                    yield ready
                if ended:
                    break
    except Exception:  # noqa: BLE001 -- the request edge: the status is sent, so the stream itself must say it
        _log.exception("follow_failed", run_id=run.run_id)
    if not ended:
        yield [handover_frame(run)]


def _frames(run: Run, batch: Sequence[Event], seen: EventId) -> list[bytes]:
    ready: list[bytes] = []
    for event in batch:
        if isinstance(event.body, RunEnded):
            ready += [frame for position, frame in ending_frames(run, event.id, event.body) if position > seen]
        elif event.id > seen:
            ready.append(event_frame(event.id, event.body))
    return ready


def _start(after: EventId | None) -> EventId | None:
    """Where to read from, so that the run's end is met even by a client that has seen a part of it."""
    if after is None or (after.attempt <= 1 and after.n <= _BACK + 1):
        return None
    return after._replace(n=after.n - _BACK)
