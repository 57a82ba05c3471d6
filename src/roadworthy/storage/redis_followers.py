"""The receiving half of ``redis_events.py``: one connection waits for the streams of every run that is followed here.

A wait under way does not know of a run that is added to it. So it waits for a stream of this process's own too, and
the sending half rings there.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import TypeAlias

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.event import EventId
from roadworthy.domain.ids import RunId, new_id
from roadworthy.storage.event_rows import event_from
from roadworthy.storage.live_events import LiveEvent
from roadworthy.storage.redis_connection import RedisServer, translated

_log = logging.getLogger(__name__)

# The fields of an entry, and the types that are no event's.
TYPE, BODY = "t", "b"
END, LOOK = "end", "look"

_Fields: TypeAlias = Mapping[bytes, bytes]

# A server that is gone is noticed after this and the time for an answer.
_WAIT = timedelta(seconds=2)
_MAX_RETRY = 1.0
_MAX_OF_STREAM = 500
# What waits for one run's reader. Behind that it is left to the database.
_MAX_WAITING = 4_000
# With many streams a wait costs more than what it brings: let some more come first.
_MANY = 32
_GATHER_MAX = 0.005


class Followers:
    """``ring``: tells the sending half that ``rung`` is set, whose next trip then carries what ``answer`` packs."""

    def __init__(self, server: RedisServer, *, ring: Callable[[], None]) -> None:
        self._server = server
        self._ring = ring
        self._bell = server.key("followers", new_id())
        self._heard = "0-0"
        self._feeds: dict[str, RedisFeed] = {}
        self._some = asyncio.Event()
        self.rung = False
        self.connected = False

    def follow(self, run_id: RunId, after: EventId) -> "RedisFeed":
        """See ``LiveEvents.follow``. One feed a run at a time."""
        key = self._server.key("events", run_id)
        feed = self._feeds[key] = RedisFeed(self, key, after)
        self._some.set()
        self.rung = True
        self._ring()
        return feed

    def leave(self, feed: "RedisFeed") -> None:
        """A feed is closed."""
        if self._feeds.get(feed.key) is feed:
            del self._feeds[feed.key]
        if not self._feeds:
            self._some.clear()

    def answer(self, pipe: "Pipeline") -> None:
        """Ring the bell."""
        pipe.execute_command("XADD", self._bell, "MAXLEN", 1, "*", "a", "b")
        pipe.execute_command("PEXPIRE", self._bell, timedelta(minutes=1) // timedelta(milliseconds=1))

    async def run(self) -> None:
        """Receive for ever."""
        retry = 0.05
        async with aclosing(self._server.client(patience=_WAIT)) as client:
            while True:
                await self._some.wait()
                try:
                    await self._receive(client)
                    retry = 0.05
                except StorageUnavailable as error:
                    self.connected = False
                    self._server.failed("followers", error)
                    await asyncio.sleep(retry)
                    retry = min(_MAX_RETRY, 2 * retry)

    async def _receive(self, client: Redis) -> None:
        """Wait once for all streams.

        Raises:
            StorageUnavailable: Redis does not answer, or refuses.
        """
        feeds = dict(self._feeds)
        names = [self._bell, *feeds]
        ids = [self._heard, *(feed.position for feed in feeds.values())]
        # Until the first answer nobody knows whether there will be one.
        wait = _WAIT // timedelta(milliseconds=1) if self.connected else 1
        with translated():
            found = await client.execute_command(
                "XREAD", "COUNT", _MAX_OF_STREAM, "BLOCK", wait, "STREAMS", *names, *ids
            )
        self.connected = True
        self._server.worked("followers")
        for name, entries in found or ():
            if (feed := self._feeds.get(name.decode())) is not None:
                feed.put(entries)
            elif name.decode() == self._bell:
                self._heard = entries[-1][0].decode()
        if len(feeds) > _MANY:
            await asyncio.sleep(min(_GATHER_MAX, len(feeds) * 1e-5))


class RedisFeed:
    """``live_events.Feed``."""

    def __init__(self, owner: Followers, key: str, after: EventId) -> None:
        self._owner = owner
        self._ord = after.ord
        self._waiting: deque[LiveEvent] = deque()
        self._some = asyncio.Event()
        self.key = key
        self.position = f"{after.attempt}-{after.n}"

    @property
    def connected(self) -> bool:
        """See the protocol."""
        return self._owner.connected

    async def next(self, patience: timedelta) -> Sequence[LiveEvent]:
        """See the protocol."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience.total_seconds()):
                await self._some.wait()
        self._some.clear()
        batch, self._waiting = self._waiting, deque[LiveEvent]()
        return batch

    def close(self) -> None:
        """See the protocol."""
        self._owner.leave(self)

    def put(self, entries: Sequence[tuple[bytes, _Fields | Sequence[bytes]]]) -> None:
        """What Redis has said, as it came."""
        for id_, fields in entries:
            self.position = id_.decode()
            attempt, _, n = self.position.partition("-")
            pairs = fields if isinstance(fields, Mapping) else dict(zip(fields[::2], fields[1::2], strict=True))
            event = _decoded(EventId(self._ord, int(attempt), int(n)), pairs)
            if len(self._waiting) < _MAX_WAITING:
                self._waiting.append(event)
        self._some.set()


def _decoded(id_: EventId, fields: _Fields) -> LiveEvent:
    type_ = fields.get(TYPE.encode(), b"").decode(errors="replace")
    if type_ in (END, LOOK):
        return LiveEvent(id=id_, end=type_ == END)
    try:
        event = event_from(id_.ord, (id_.attempt, id_.n, type_, fields.get(BODY.encode(), b"").decode()))
    except (KeyError, TypeError, ValueError, json.JSONDecodeError):
        # Of a newer version, or of somebody else: the database knows.
        _log.warning("an entry of a run's stream in Redis cannot be read; it has the type %r", type_[:40])
        return LiveEvent(id=id_)
    return LiveEvent(id=id_, event=event)
