"""HTTP/1.1 over one raw TCP connection: the only part of the fake provider that touches sockets.

Raw on purpose: a web framework cannot reset a connection, nor say at once that a client has left.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from pydantic import JsonValue

_OVERLOADED = 529


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request with its whole body; header names are lower case, `path` has no query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One client's connection, kept alive over several requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        # A byte of the next request that the watch for EOF may have read.
        self._early = b""

    async def next_request(self) -> HttpRequest | None:
        """The next request; None when the client has closed the connection or speaks no HTTP."""
        try:
            head = self._early + await self._reader.readuntil(b"\r\n\r\n")
            self._early = b""
            first, *lines = head.decode("latin-1").split("\r\n")
            method, target, _ = first.split(" ")
            fields = (line.partition(":") for line in lines if line)
            headers = {name.strip().lower(): value.strip() for name, _, value in fields}
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
            return None
        return HttpRequest(method=method, path=urlsplit(target).path, headers=headers, body=body)

    async def respond(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a whole response."""
        await self._send(_head(status, {**headers, "content-length": str(len(body))}) + body)

    async def respond_half(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Promise a whole response, send half of it and close."""
        await self._send(_head(status, {**headers, "content-length": str(len(body))}) + body[: len(body) // 2])
        self.close()

    async def start_stream(self, headers: Mapping[str, str]) -> None:
        """Begin a chunked response."""
        await self._send(_head(HTTPStatus.OK, {**headers, "transfer-encoding": "chunked"}))

    async def send_chunk(self, data: bytes) -> None:
        """Send one chunk; empty `data` ends the response properly."""
        await self._send(b"%x\r\n%b\r\n" % (len(data), data))

    def close(self) -> None:
        """Close politely (FIN)."""
        self._writer.close()

    def abort(self) -> None:
        """Close at once; what was not sent yet is lost."""
        self._writer.transport.abort()

    def reset(self) -> None:
        """Close with a TCP reset: linger 0 makes the kernel send RST instead of FIN."""
        raw: socket.socket = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def finishes(self, work: Coroutine[None, None, None]) -> bool:
        """Run `work` while the client stays; True if it ended by itself, False if the client left first."""
        async with asyncio.TaskGroup() as group:
            working = group.create_task(_unless_gone(work))
            watching = group.create_task(self._watch())
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if self._early:
                await asyncio.wait({working})
            working.cancel()
            watching.cancel()
        return not working.cancelled() and working.result()

    async def _watch(self) -> None:
        """Return when the client leaves, or when it sends its next request early."""
        try:
            self._early += await self._reader.read(1)
        except ConnectionError:
            return

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


def json_bytes(value: JsonValue) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    phrase = "Overloaded" if status == _OVERLOADED else HTTPStatus(status).phrase
    lines = (f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items()), "", "")
    return "\r\n".join(lines).encode("latin-1")


async def _unless_gone(work: Coroutine[None, None, None]) -> bool:
    try:
        await work
    except ConnectionError:
        return False
    return True
