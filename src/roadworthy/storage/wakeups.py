"""``ports.signals.Wakeups``: for a process alone, and for several with a line between them.

What is said is gathered while a message is on its way and sent when the line is free; what is heard is joined until the
worker asks. Lines: ``redis_wakeups.py`` and ``postgres_wakeups.py``.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol, Self

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.ids import RunId, new_id
from roadworthy.ports.signals import Heard
from roadworthy.storage.ending import end

CHANNEL = "roadworthy_wakeups"
# A message of Postgres is no longer than 8000 bytes.
_MAX_OF_MESSAGE = 100
# Whoever has to hear more than that looks everything up.
_MAX_KEPT = 1_000
_MAX_ID = 64


class Alone:
    """For a process that has the database for itself: nobody else says anything."""

    def work(self) -> None:
        """See the port."""

    def cancel(self, run_id: RunId) -> None:
        """See the port."""

    async def heard(self) -> Heard:
        """See the port."""
        await asyncio.Event().wait()
        return Heard()


class Line(Protocol):
    """Carries short texts between processes, or loses them."""

    async def send(self, text: str) -> None:
        """To everybody who listens now.

        Raises:
            StorageUnavailable: it may not have been sent.
        """
        ...

    def listen(self) -> AsyncGenerator[str | None, None]:
        """Texts from now on; the first thing that comes is None, once nothing more is missed. Ends only by raising.

        Raises:
            StorageUnavailable: the line is down.
        """
        ...

    def failed(self, error: StorageUnavailable) -> None:
        """The operator may want to know."""
        ...

    def worked(self) -> None:
        """The operator may want to know that it is over."""
        ...


class Wakeups:
    """``ports.signals.Wakeups`` over a line. An async context: inside it hints travel. ``retry``: the longest pause
    after a failure.
    """

    def __init__(self, line: Line, *, retry: timedelta = timedelta(seconds=2)) -> None:
        self._line = line
        self._retry = retry.total_seconds()
        self._origin = new_id()
        self._group = asyncio.TaskGroup()
        self._tasks: Sequence[asyncio.Task[None]] = ()
        self._to_say = _Gathered()
        self._heard = _Gathered()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._tasks = (
            self._group.create_task(self._say(), name="wakeups-out"),
            self._group.create_task(self._listen(), name="wakeups-in"),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await end(self._tasks)
        await self._group.__aexit__(None, None, None)

    def work(self) -> None:
        """See the port."""
        self._to_say.add(work=True)

    def cancel(self, run_id: RunId) -> None:
        """See the port."""
        self._to_say.add(cancelled=(run_id,))

    async def heard(self) -> Heard:
        """See the port."""
        return await self._heard.take(_MAX_KEPT)

    async def _say(self) -> None:
        while True:
            said = await self._to_say.take(_MAX_OF_MESSAGE)
            try:
                await self._line.send(_encoded(self._origin, said))
            except StorageUnavailable as error:
                # What was said is made good by polling: it is not worth more.
                self._line.failed(error)
                await asyncio.sleep(self._retry)
            else:
                self._line.worked()

    async def _listen(self) -> None:
        pause = 0.05
        missed = False
        while True:
            try:
                async with aclosing(self._line.listen()) as texts:
                    async for text in texts:
                        pause = 0.05
                        if text is not None:
                            self._hear(text)
                        elif missed:
                            self._heard.add(resumed=True)
            except StorageUnavailable as error:
                missed = True
                self._line.failed(error)
                await asyncio.sleep(pause)
                pause = min(self._retry, 2 * pause)

    def _hear(self, text: str) -> None:
        message = _decoded(text)
        if message is None or message.get("from") == self._origin:
            return
        ids = message.get("cancelled")
        cancelled = ids if isinstance(ids, list) else []
        self._heard.add(
            work=message.get("work") is True,
            cancelled=[RunId(one) for one in cancelled if isinstance(one, str) and len(one) <= _MAX_ID],
        )


class _Gathered:
    """What was said and not taken yet."""

    def __init__(self) -> None:
        self._work = False
        self._resumed = False
        self._cancelled: dict[RunId, None] = {}
        self._some = asyncio.Event()

    def add(self, *, work: bool = False, cancelled: Sequence[RunId] = (), resumed: bool = False) -> None:
        self._work |= work
        self._resumed |= resumed
        self._cancelled.update(dict.fromkeys(cancelled))
        if len(self._cancelled) > _MAX_KEPT:
            self._cancelled.clear()
            self._resumed = True
        if self._work or self._resumed or self._cancelled:
            self._some.set()

    async def take(self, most: int) -> Heard:
        await self._some.wait()
        cancelled = list(self._cancelled)[:most]
        for run_id in cancelled:
            del self._cancelled[run_id]
        taken = Heard(work=self._work, resumed=self._resumed, cancelled=frozenset(cancelled))
        self._work = self._resumed = False
        if not self._cancelled:
            self._some.clear()
        return taken


def _encoded(origin: str, said: Heard) -> str:
    message = {"from": origin, "work": said.work or said.resumed, "cancelled": sorted(said.cancelled)}
    return json.dumps(message, separators=(",", ":"))


def _decoded(text: str) -> dict[str, Any] | None:
    """What another process of any version has said; None: nothing that is understood."""
    try:
        message = json.loads(text)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
