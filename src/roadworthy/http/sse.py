"""Server-sent events: frames → one long response, with everything that goes wrong on a connection.

A dialect hands in batches of encoded frames; what is ready together is sent together. A client that leaves is noticed
at once, a silent stream gets comments, a reader that blocks too long is dropped and may come back with its position.
Called by the routes of every dialect; below it is only ASGI. Format: the HTML standard, "server-sent events".
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import TypeAlias

import structlog
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from roadworthy.http.connection import abort_of
from roadworthy.http.deps import HttpLimits
from roadworthy.http.disconnect import ClientGone, until_disconnected
from roadworthy.ports.telemetry import WebTelemetry

MEDIA_TYPE = "text/event-stream"
Frames: TypeAlias = AsyncGenerator[Iterable[bytes], None]

_PING = b": ping\n\n"
_RETRY = b"retry: 1000\n\n"  # milliseconds after which a browser reconnects by itself
# Line breaks to Unicode, and to clients that split lines by its rules, though not to the standard of SSE.
_UNICODE_BREAKS = (
    ("\u0085".encode(), rb"\u0085"),
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
)
_WRITE_MAX = 64 * 1024
_ABORT_SECONDS = 1

_log = structlog.get_logger(__name__)


class SlowReader(Exception):
    """The client did not take a write in time."""


class EventStream(Response):
    """Sends batches of ``frames`` until they end. ``on_disconnect`` is called only when the client left before that."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        frames: Frames,
        *,
        limits: HttpLimits,
        on_disconnect: Callable[[], Awaitable[None]] | None = None,
        telemetry: WebTelemetry | None = None,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames
        self._heartbeat = limits.stream_heartbeat.total_seconds()
        self._patience = limits.slow_reader_timeout.total_seconds()
        self._on_disconnect = on_disconnect
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream (ASGI)."""
        writer = _Writer(send, heartbeat=self._heartbeat, patience=self._patience)
        try:
            with self._counted():
                await self._stream(writer, receive)
        except* ClientGone:
            if self._on_disconnect is not None:
                await self._on_disconnect()
        except* SlowReader:
            _log.info("stream_dropped", reason="slow reader", seconds=self._patience)
            await _abort(scope, receive)

    @contextmanager
    def _counted(self) -> Generator[None]:
        if self._telemetry is None:
            yield
            return
        self._telemetry.stream_opened()
        try:
            yield
        finally:
            self._telemetry.stream_closed()

    async def _stream(self, writer: "_Writer", receive: Receive) -> None:
        async with aclosing(self._frames) as batches, asyncio.TaskGroup() as group:
            companions = (
                group.create_task(_watch(receive)),
                group.create_task(writer.accompany(group)),
            )
            await writer.start(self.status_code, self.raw_headers)
            async for batch in batches:
                for piece in _pieces(batch):
                    await writer.write(piece)
            await writer.finish()
            for companion in companions:
                companion.cancel()


class _Writer:
    """The sending half of a connection. A companion task bounds its writes: a timer for each would cost more than the
    event it carries.
    """

    def __init__(self, send: Send, *, heartbeat: float, patience: float) -> None:
        self._send = send
        self._heartbeat = heartbeat
        self._patience = patience
        self._now = asyncio.get_running_loop().time
        self._turn = asyncio.Lock()
        self._ended = False
        self._began_at: float | None = None
        self._done_at = self._now()

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await self._put({"type": "http.response.start", "status": status, "headers": headers})
        await self.write(_RETRY)

    async def write(self, data: bytes) -> None:
        await self._put({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self) -> None:
        await self._put({"type": "http.response.body", "body": b"", "more_body": False})
        self._ended = True

    async def _put(self, message: Message) -> None:
        async with self._turn:
            if self._ended:  # a comment that waited for its turn behind the end
                return
            self._began_at = self._now()
            await self._send(message)
            self._done_at = self._now()
            self._began_at = None

    async def accompany(self, group: asyncio.TaskGroup) -> None:
        """Write a comment whenever the stream is silent; fail the group when a write is stuck.

        Raises:
            SlowReader: a write took longer than the client may take.
        """
        while True:
            now = self._now()
            if self._began_at is not None:
                if now - self._began_at >= self._patience:
                    raise SlowReader
                await asyncio.sleep(self._patience / 4)
            elif now - self._done_at >= self._heartbeat:
                group.create_task(self.write(_PING))
                await asyncio.sleep(0)
            else:
                await asyncio.sleep(min(self._done_at + self._heartbeat - now, self._patience))


async def _watch(receive: Receive) -> None:
    await until_disconnected(receive)
    raise ClientGone


async def _abort(scope: Scope, receive: Receive) -> None:
    """Drop the connection. Waits until the server has noticed, which would else call the response unfinished."""
    abort = abort_of(scope)
    if abort is None:
        return
    abort()
    with suppress(TimeoutError):
        async with asyncio.timeout(_ABORT_SECONDS):
            await until_disconnected(receive)


def _pieces(batch: Iterable[bytes]) -> Iterator[bytes]:
    """Join frames into writes of bounded size: a long replay must not stand in memory twice."""
    ready: list[bytes] = []
    size = 0
    for frame in batch:
        ready.append(frame)
        size += len(frame)
        if size >= _WRITE_MAX:
            yield b"".join(ready)
            ready, size = [], 0
    if ready:
        yield b"".join(ready)


def frame(data: bytes, *, event_id: str | None) -> bytes:
    """One event. ``data``: JSON without line breaks. ``event_id``: what ``Last-Event-ID`` will say; None leaves it."""
    for raw, escaped in _UNICODE_BREAKS:
        if raw in data:
            data = data.replace(raw, escaped)
    return b"data: %b\n\n" % data if event_id is None else b"id: %b\ndata: %b\n\n" % (event_id.encode(), data)
