"""A TCP proxy on loopback that makes a network bad: slow, silent, cut. Before any server (Redis, Postgres, HTTP).

In the test's own event loop. With a certificate it takes TLS and speaks plainly to the server behind it.
"""

import asyncio
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024


class FaultProxy:
    """`async with FaultProxy(port) as proxy:`, then connect to ``proxy.port``. Instead of a port, a Unix socket's path.

    ``latency``: seconds that every piece is late, each way. ``blackhole()``: bytes go nowhere, connections stay and new
    ones are taken. ``reset()``: every connection is cut with a TCP reset. ``refuse()``: and new ones are cut at once.
    ``heal()`` ends all of it but what is already cut.
    """

    def __init__(self, target: int | Path, *, tls: ssl.SSLContext | None = None) -> None:
        self.latency = 0.0
        self.accepted = 0
        self._target = target
        self._tls = tls
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        for task in self._handlers:
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """Clients that are connected now."""
        return len(self._writers) // 2

    def blackhole(self) -> None:
        self._flowing.clear()

    def refuse(self) -> None:
        self._refusing = True
        self.reset()

    def heal(self) -> None:
        self._refusing = False
        self._flowing.set()

    def reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        self.accepted += 1
        if self._refusing:
            writer.transport.abort()
            return
        there: asyncio.StreamWriter | None = None
        self._writers.add(writer)
        try:
            back, there = await self._connect()
            self._writers.add(there)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, there))
                group.create_task(self._carry(back, writer))
        except* OSError:
            pass
        except* asyncio.CancelledError:
            # The end of the proxy: a stream's protocol cannot be told of it.
            pass
        finally:
            for one in (writer, there):
                if one is not None:
                    self._writers.discard(one)
                    one.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection("127.0.0.1", self._target)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            if self.latency:
                await asyncio.sleep(self.latency)
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        with suppress(OSError, NotImplementedError):  # TLS cannot be closed by halves
            writer.write_eof()


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's side for 127.0.0.1, and the file that a client trusts it by."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=127.0.0.1"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(words, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, cert
