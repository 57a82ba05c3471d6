"""A run's events from any position: what is there, then live, then the end. Every stream and join of every dialect."""

from collections.abc import AsyncGenerator, Sequence

from roadworthy.domain.event import Event, EventId
from roadworthy.domain.run import Run
from roadworthy.ports.event_log import EventLog


class Streams:
    """Reads the log; whoever has a Run in hand has already been allowed to see it."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def follow(self, run: Run, *, after: EventId | None) -> AsyncGenerator[Sequence[Event], None]:
        """Batches of events behind ``after``; ends after RunEnded, or without it when the server drains.

        Who leaves before the end closes it.
        """
        return self._log.follow(run, after=after)
