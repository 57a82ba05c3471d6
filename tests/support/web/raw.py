"""A client that does exactly what a test says, byte for byte."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.web.fakes import KEY

_WAIT = 10


@dataclass(frozen=True)
class Answer:
    """A complete response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body as an object."""
        return json.loads(self.body)


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self, method: str, path: str, *, key: str | None = KEY, **headers: str) -> None:
        """Send the request line and headers."""
        lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if key is not None:
            lines.append(f"x-api-key: {key}")
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def send(self, data: bytes) -> None:
        """Send bytes; returns when the kernel has taken nearly all of them."""
        async with asyncio.timeout(_WAIT):
            self.writer.write(data)
            await self.writer.drain()

    async def send_chunk(self, data: bytes) -> None:
        """Send one chunk of a body without a declared length."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def answer(self) -> Answer:
        """Read one whole response."""
        async with asyncio.timeout(_WAIT):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await self._body(headers)
        return Answer(int(head[0].split()[1]), headers, body)

    async def until(self, text: bytes) -> bytes:
        """Read up to and with ``text``."""
        async with asyncio.timeout(_WAIT):
            return await self.reader.readuntil(text)

    async def closed(self) -> bool:
        """Whether the server closes; what it still sends is dropped."""
        async with asyncio.timeout(_WAIT):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                return True
        return True

    async def _body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") != "chunked":
            return b""
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readline()
        await self.reader.readline()
        return body


@asynccontextmanager
async def connected(port: int) -> AsyncGenerator[Wire]:
    """A connection to the server on ``port``; reset, not closed, when it is left."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()
