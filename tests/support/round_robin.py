"""A load balancer of our own before a fleet: plain TCP on loopback, each connection goes to the next replica.

In the test's own event loop. It knows what such a thing knows: a replica that refuses a connection is passed over, and,
with ``look_every``, one whose ``/readyz`` does not say 200 gets no new ones. Connections that exist stay.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024
_LOOK_SECONDS = 2.0


class _Ended(Exception):
    """One side has closed its connection."""


class RoundRobin:
    """`async with RoundRobin(ports) as proxy:`, then connect to ``proxy.url``.

    ``look_every``: seconds between looks at each replica's ``/readyz``; None: replicas are never looked at. ``served``:
    how many connections each port got. When nobody can be connected to, the client's connection is reset.
    """

    def __init__(self, ports: Sequence[int], *, look_every: float | None = None) -> None:
        self.served = dict.fromkeys(ports, 0)
        self._ports = list(ports)
        self._unready: set[int] = set()
        self._next = 0
        self._look_every = look_every
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        if self._look_every is not None:
            for port in self._ports:
                # Owned here: ended in __aexit__.
                self._keep(asyncio.get_running_loop().create_task(self._look_at(port, self._look_every)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def unready(self) -> frozenset[int]:
        """Ports that get no new connections now."""
        return frozenset(self._unready)

    def _keep(self, task: "asyncio.Task[None]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._keep(task)
        there: asyncio.StreamWriter | None = None
        try:
            back, there = await self._connect()
            async with asyncio.TaskGroup() as group:
                # HTTP has no use for half a connection: when one side has ended, so has the other.
                group.create_task(self._carry(reader, there))
                group.create_task(self._carry(back, writer))
        except* (OSError, _Ended):
            pass
        finally:
            for one in (writer, there):
                if one is not None:
                    await _close(one)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The next replica that lets itself be connected to; unready ones only when there is no other.

        Raises:
            ConnectionRefusedError: there is none.
        """
        first, self._next = self._next, (self._next + 1) % len(self._ports)
        turn = [*self._ports[first:], *self._ports[:first]]
        for port in sorted(turn, key=lambda port: port in self._unready):
            with suppress(ConnectionRefusedError):
                connection = await asyncio.open_connection("127.0.0.1", port)
                self.served[port] += 1
                return connection
        raise ConnectionRefusedError

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        raise _Ended

    async def _look_at(self, port: int, every: float) -> None:
        while True:
            ready = False
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    ready = await _is_ready(port)
            (self._unready.discard if ready else self._unready.add)(port)
            await asyncio.sleep(every)


async def _close(writer: asyncio.StreamWriter) -> None:
    """Let go of a connection when what was written to it is sent, or cannot be."""
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_LOOK_SECONDS):
            await writer.wait_closed()
    writer.transport.abort()


async def _is_ready(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.readline()
    finally:
        writer.transport.abort()
