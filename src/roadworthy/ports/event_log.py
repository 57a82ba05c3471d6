"""The log of a run's events. Adapter: ``storage/event_log.py`` (memory, spilled to SQL; in a cluster also Redis)."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from roadworthy.domain.event import Event, EventId, RunEvent
from roadworthy.domain.run import Run


class EventWriter(Protocol):
    """The lease holder's end of one attempt's log."""

    def append(self, body: RunEvent) -> Event:
        """Number an event and show it, to local readers at once. Never waits; made durable soon after."""
        ...

    def take_unflushed(self) -> Sequence[Event]:
        """Events that are not durable yet, to be stored with what ends the attempt: the run's end, or its release, of
        which the next attempt keeps only what is stored. They will not be flushed again.
        """
        ...

    def close(self, ended: Run | None) -> None:
        """No more events. ``ended``: the final row, from which readers derive the terminal event; None: the attempt
        was given back or lost, readers wait for the next one or are handed over.
        """
        ...


class EventLog(Protocol):
    """See the module."""

    async def open(self, run: Run) -> EventWriter:
        """Start the log of attempt ``run.attempt``. From attempt 2 its first event is an AttemptStarted that names the
        last durable event of the attempts before; on attempt 1 a RunStarted.
        """
        ...

    def follow(self, run: Run, *, after: EventId | None) -> AsyncGenerator[Sequence[Event], None]:
        """Batches of events behind ``after``, first what is there, then live, until the RunEnded event.

        Ends early, without RunEnded, when the server drains. Batches are never empty. A slow reader costs
        nothing but the run's own log. Who leaves before the end closes it.
        """
        ...

    async def wait(self, run: Run) -> Run | None:
        """The run's final row, as soon as there is one; None when the server drains first. Reads no events."""
        ...

    async def read(self, run: Run) -> Sequence[Event]:
        """Every durable or live event of a run, all attempts, without the terminal one."""
        ...

    def ended(self, run: Run) -> None:
        """A run ended without a writer (cancelled while pending, poisoned): wake its readers."""
        ...

    def hand_over(self) -> None:
        """The server drains: every ``follow`` ends once it has delivered what is there."""
        ...
