"""The events of one run in memory: the part behind ``floor``, and those who wait for more. Used by ``event_log.py``.

Events up to and including ``floor`` are in the database alone. Positions count the run's events of this process, so
that they survive the trimming of the list's front.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Sequence

from roadworthy.domain.event import Event, EventId, RunEvent
from roadworthy.domain.ids import RunId
from roadworthy.domain.run import Run

# A list longer than this loses its durable front, down to the half.
MAX_EVENTS = 4_000


class RunLog:
    """No locks: everything happens on the event loop's thread."""

    __slots__ = (
        "_first",
        "_turned",
        "_wake",
        "attempt",
        "durable",
        "ended",
        "events",
        "floor",
        "generation",
        "gone",
        "handed",
        "n",
        "ord",
        "queued",
        "readers",
        "run_id",
        "seq",
        "verified",
        "writing",
    )

    def __init__(self, run: Run, *, floor: EventId) -> None:
        self.run_id: RunId = run.run_id
        self.ord = run.ord
        self.floor = floor
        self.events: list[Event] = []
        # Changes whenever an index into ``events`` that somebody holds becomes wrong.
        self.generation = 0
        self.attempt = 0
        self.n = 0
        # The run's key in the events table, once it is known.
        self.seq: int | None = None
        # Position up to which events are in the database, or handed to who stores the run's end.
        self.durable = 0
        # Whether the flusher has this log on its list.
        self.queued = False
        # The last events are on their way with the run's end; nothing is let go of until they are there.
        self.handed = False
        # Whether the run's row was looked at since this log was made: from then on its end is told to the log.
        self.verified = False
        self.writing = False
        self.readers = 0
        self.ended: Run | None = None
        # The run was erased while somebody followed it.
        self.gone = False
        self._first = 0
        self._wake: list[asyncio.Future[None]] | None = None
        self._turned: asyncio.Event | None = None

    def begin(self, attempt: int, floor: EventId) -> None:
        """Start an attempt's list; the events of earlier attempts are durable."""
        self.jump(floor)
        self.attempt, self.n = attempt, 0
        self.verified = self.writing = True
        self.handed = False

    def jump(self, floor: EventId) -> None:
        """Everything up to ``floor`` is in the database now, and memory begins behind it."""
        self.floor = floor
        self.attempt, self.n = floor.attempt, floor.n
        self._first = self.durable = self._first + len(self.events)
        self.events = []
        self.generation += 1
        self.wake()

    def mirror(self, events: Sequence[Event]) -> None:
        """Append events that another process has numbered; it makes them durable too."""
        if events:
            self.events.extend(events)
            self.n = events[-1].id.n
            self.durable = self.end
            self.wake()

    def append(self, body: RunEvent) -> Event:
        """Number an event and wake who waits."""
        self.n += 1
        event = Event(id=EventId(self.ord, self.attempt, self.n), body=body)
        self.events.append(event)
        self.wake()
        return event

    @property
    def end(self) -> int:
        """Position behind the last event."""
        return self._first + len(self.events)

    def unflushed(self, limit: int | None = None) -> Sequence[Event]:
        """Events that are not durable, oldest first."""
        start = self.durable - self._first
        return self.events[start : None if limit is None else start + limit]

    def flushed(self, position: int) -> None:
        """Events before ``position`` are durable. Lets go of the oldest ones when there are many."""
        self.durable = max(self.durable, min(position, self.end))
        if len(self.events) > MAX_EVENTS and not self.handed:
            self.trim(self.durable - self._first)

    def trim(self, most: int) -> None:
        """Let go of the front down to half of what is kept, but of no more than ``most`` events: those are durable."""
        excess = min(len(self.events) - MAX_EVENTS // 2, most)
        if excess > 0:
            self.floor = self.events[excess - 1].id
            del self.events[:excess]
            self._first += excess
            self.generation += 1

    def index_after(self, event_id: EventId) -> int:
        """Index into ``events`` of the first one behind ``event_id``."""
        return bisect_right(self.events, event_id, key=lambda event: event.id)

    def wake(self) -> None:
        """Wake everybody who waits in ``changed``."""
        if self._wake is not None:
            for waiter in self._wake:
                if not waiter.done():
                    waiter.set_result(None)
            self._wake = None

    def turn(self) -> None:
        """Wake those too who do not read events: the run has ended, or its attempt, or the server drains."""
        self.wake()
        if self._turned is not None:
            self._turned.set()
            self._turned = None

    async def turned(self) -> None:
        """Wait for the next ``turn``. Look first, as with ``changed``."""
        if self._turned is None:
            self._turned = asyncio.Event()
        await self._turned.wait()

    async def changed(self) -> None:
        """Wait for the next ``wake``. What happened before the call is not waited for: look first."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._wake is None:
            self._wake = [waiter]
        else:
            self._wake.append(waiter)
        await waiter
