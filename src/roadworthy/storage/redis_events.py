"""``live_events.LiveEvents`` over Redis Streams: one stream a run, an entry an event, its id ``<attempt>-<n>``.

Redis takes only ids that rise: sending something again changes nothing, and what a worker still says of an attempt
whose successor has begun is refused. One task sends for all runs, one connection waits for all that are followed
(``redis_followers.py``). A stream is short and forgotten soon; the database keeps what was in it.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, NamedTuple, Self

from redis.asyncio.client import Pipeline
from redis.exceptions import ResponseError

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.event import Event, EventId
from roadworthy.domain.ids import RunId
from roadworthy.storage.ending import end
from roadworthy.storage.event_rows import event_rows
from roadworthy.storage.live_events import Feed
from roadworthy.storage.redis_connection import RedisServer, translated
from roadworthy.storage.redis_followers import BODY, END, LOOK, TYPE, Followers

# What one trip carries, and what waits at most while Redis is away: then the oldest is left to the database.
_MAX_OF_TRIP = 500
_MAX_WAITING = 10_000
# A body that is longer is looked up by those who want it.
_MAX_BODY = 64 * 1024
_NOT_RISING = "equal or smaller"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much of a run's stream is kept, and for how long after its last event."""

    events: int = 4_000
    time: timedelta = timedelta(minutes=10)


class _Letter(NamedTuple):
    """``event`` None: the end."""

    run_id: RunId
    id: EventId
    event: Event | None


class RedisEvents:
    """See the module. An async context: inside it events travel; at its end what is waiting is sent, if that is quick.

    ``retry``: the pause after a trip that failed.
    """

    def __init__(
        self,
        server: RedisServer,
        *,
        retention: Retention | None = None,
        retry: timedelta = timedelta(milliseconds=500),
    ) -> None:
        self._server = server
        self._retention = retention or Retention()
        self._retry = retry.total_seconds()
        self._waiting: deque[_Letter] = deque()
        self._work = asyncio.Event()
        self._group = asyncio.TaskGroup()
        self._tasks: Sequence[asyncio.Task[None]] = ()
        self._followers = Followers(server, ring=self._work.set)
        # Entries that Redis would not take because a later one was there.
        self.refused = 0

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._tasks = (
            self._group.create_task(self._send_all(), name="event-sender"),
            self._group.create_task(self._followers.run(), name="event-followers"),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await end(self._tasks)
        await self._group.__aexit__(None, None, None)
        try:
            async with asyncio.timeout(self._retry):
                while self._waiting:
                    await self._trip()
        except (StorageUnavailable, TimeoutError):
            return

    def send(self, run_id: RunId, event: Event) -> None:
        """See the protocol."""
        self._put(_Letter(run_id, event.id, event))

    def send_end(self, run_id: RunId, terminal: EventId) -> None:
        """See the protocol."""
        self._put(_Letter(run_id, terminal, None))

    def follow(self, run_id: RunId, after: EventId) -> Feed:
        """See the protocol."""
        return self._followers.follow(run_id, after)

    def _put(self, letter: _Letter) -> None:
        if len(self._waiting) >= _MAX_WAITING:
            self._waiting.popleft()
        self._waiting.append(letter)
        self._work.set()

    async def _send_all(self) -> None:
        """While a trip is under way the next one's events gather; when nothing is, an event leaves at once."""
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                while self._waiting or self._followers.rung:
                    await self._trip()
            except StorageUnavailable as error:
                self._server.failed("events", error)
                await asyncio.sleep(self._retry)
                self._work.set()

    async def _trip(self) -> None:
        """Send what waits, as far as it fits. What may not have arrived waits again, in front.

        Raises:
            StorageUnavailable: Redis does not answer, or refuses.
        """
        letters = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_OF_TRIP))]
        rung = self._followers.rung
        try:
            with translated():
                async with self._server.commands.pipeline(transaction=False) as pipe:
                    self._pack(pipe, letters)
                    if rung:
                        self._followers.answer(pipe)
                    self._judge(await pipe.execute(raise_on_error=False))
        except BaseException:  # cancelled too: what is left is sent at the end
            self._waiting.extendleft(reversed(letters))
            while len(self._waiting) > _MAX_WAITING:
                self._waiting.popleft()
            raise
        if rung:
            self._followers.rung = False
        self._server.worked("events")

    def _pack(self, pipe: "Pipeline", letters: Sequence[_Letter]) -> None:
        keys: dict[str, None] = {}
        for run_id, id_, event in letters:
            key = self._server.key("events", run_id)
            keys[key] = None
            pipe.execute_command(
                "XADD", key, "MAXLEN", "~", self._retention.events, f"{id_.attempt}-{id_.n}", *_fields(event)
            )
            if id_.n == 1 and id_.attempt > 1:
                # What earlier attempts said is in the database, so far as it is still true.
                pipe.execute_command("XTRIM", key, "MINID", f"{id_.attempt}-0")
        for key in keys:
            pipe.execute_command("PEXPIRE", key, self._retention.time // timedelta(milliseconds=1))

    def _judge(self, results: Sequence[Any]) -> None:
        for result in results:
            if not isinstance(result, Exception):
                continue
            if isinstance(result, ResponseError) and _NOT_RISING in str(result):
                self.refused += 1
            else:
                raise result


def _fields(event: Event | None) -> Sequence[str]:
    if event is None:
        return TYPE, END
    ((_, _, _, type_, body),) = event_rows(0, [event])
    if len(str(body)) > _MAX_BODY:
        return TYPE, LOOK
    return TYPE, str(type_), BODY, str(body)
