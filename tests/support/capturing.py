"""A provider that answers nothing: it keeps the body of each request and refuses it, for tests of what is asked."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """Where it listens, and the bodies it got."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@asynccontextmanager
async def capturing() -> AsyncGenerator[Captured]:
    """Listen on a port of its own; every request is answered 400."""
    bodies: list[dict[str, Any]] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(int(line.split(":")[1]) for line in head.splitlines() if line.startswith("content-length"))
        bodies.append(json.loads(await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port: int = server.sockets[0].getsockname()[1]
        yield Captured(url=f"http://127.0.0.1:{port}", bodies=bodies)
