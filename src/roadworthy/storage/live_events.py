"""What carries events from the process that executes a run to those whose clients follow it, soon but not surely.

Used by ``event_log.py`` (sends) and ``event_mirror.py`` (receives); adapters: ``redis_events.py``, and ``NoLiveEvents``
for processes that have only the database in common. Whatever is lost on the way is read from the database.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from roadworthy.domain.event import Event, EventId
from roadworthy.domain.ids import RunId


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveEvent:
    """``event`` None: something of that id is to be looked up. ``end``: the run has ended, just before that id."""

    id: EventId
    event: Event | None = None
    end: bool = False


class Feed(Protocol):
    """One process's view of one run."""

    @property
    def connected(self) -> bool:
        """Whether what is sent arrives at the moment; else look into the database now and then."""
        ...

    async def next(self, patience: timedelta) -> Sequence[LiveEvent]:
        """What has come, in order, maybe with gaps or twice; nothing when that takes longer than ``patience``."""
        ...

    def close(self) -> None:
        """Nothing more is wanted."""
        ...


class LiveEvents(Protocol):
    """See the module. Sending never waits and never fails."""

    def send(self, run_id: RunId, event: Event) -> None:
        """Show an event to other processes."""
        ...

    def send_end(self, run_id: RunId, terminal: EventId) -> None:
        """A run has ended: its row is final. ``terminal``: the id of its RunEnded."""
        ...

    def follow(self, run_id: RunId, after: EventId) -> Feed:
        """What is sent of a run behind ``after``, and what of it is still kept."""
        ...


class NoLiveEvents:
    """Nothing is carried: other processes look into the database now and then."""

    def send(self, run_id: RunId, event: Event) -> None:
        """See the protocol."""

    def send_end(self, run_id: RunId, terminal: EventId) -> None:
        """See the protocol."""

    def follow(self, run_id: RunId, after: EventId) -> Feed:
        """See the protocol."""
        del run_id, after
        return _Silence()


class _Silence:
    connected = False

    async def next(self, patience: timedelta) -> Sequence[LiveEvent]:
        await asyncio.sleep(patience.total_seconds())
        return ()

    def close(self) -> None:
        return None
