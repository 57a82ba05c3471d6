"""An HTTP client that costs the load generator little: one keep-alive connection, one request at a time."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Self, cast

from httptools import HttpResponseParser

_CONTENT = b'"type":"content"'
_SUCCESS = b'"status":"success"'
_OK = 200
_MESSAGE = "How long is the road?"


class LoadFailed(Exception):
    """The server answered something else than what the benchmark is about; its numbers would be worth nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete response. Times are seconds of ``perf_counter``; ``content_at`` is that of the first content event."""

    status: int
    body: bytes
    began_at: float
    content_at: float | None
    ended_at: float

    @property
    def seconds(self) -> float:
        """From the request to the last byte."""
        return self.ended_at - self.began_at

    def checked(self) -> Self:
        """Itself.

        Raises:
            LoadFailed: the run did not succeed.
        """
        if self.status != _OK or _SUCCESS not in self.body:
            raise LoadFailed(f"status {self.status}: {self.body[-500:].decode(errors='replace')}")
        return self

    @property
    def first_content(self) -> float:
        """Seconds from the request to the first content event.

        Raises:
            LoadFailed: there was none.
        """
        if self.content_at is None:
            raise LoadFailed("a stream without content")
        return self.content_at - self.began_at


class Connection(asyncio.Protocol):
    """One connection. httptools calls the methods that begin with ``on_``."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self._body: list[bytes] = []
        self._content_at: float | None = None
        self._began_at = 0.0
        self._answer: asyncio.Future[Answer] | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are duck-typed.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits."""
        self.lost = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or LoadFailed("the server closed the connection"))

    def on_body(self, body: bytes) -> None:
        """Keep the body and note when content came first."""
        if self._content_at is None and _CONTENT in body:
            self._content_at = perf_counter()
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand over the answer."""
        if self._answer is None or self._answer.done():
            return  # nobody waits any more
        self._answer.set_result(
            Answer(
                status=self._parser.get_status_code(),
                body=b"".join(self._body),
                began_at=self._began_at,
                content_at=self._content_at,
                ended_at=perf_counter(),
            )
        )

    async def call(self, request: bytes) -> Answer:
        """Send a request and wait for its whole answer."""
        assert self._transport is not None
        self._body, self._content_at = [], None
        self._answer = asyncio.get_running_loop().create_future()
        self._began_at = perf_counter()
        self._transport.write(request)
        return await self._answer

    def send(self, request: bytes) -> None:
        """Send a request whose answer nobody waits for."""
        assert self._transport is not None
        self._answer = None
        self._transport.write(request)

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the server is, and the requests that the benchmark sends it."""

    port: int
    key: str

    async def connect(self) -> Connection:
        """A new connection."""
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self.port)
        return connection

    def run(self, kind: str, **more: str) -> bytes:
        """``invoke`` or ``stream``, on a thread of its own unless ``thread_id`` is given."""
        return self._request("POST", f"/agent/{kind}", {"message": _MESSAGE, **more})

    def get(self, path: str) -> bytes:
        """A GET."""
        return self._request("GET", path, None)

    def _request(self, method: str, path: str, document: Mapping[str, str] | None) -> bytes:
        body = b"" if document is None else json.dumps(document).encode()
        head = [f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{self.port}", f"authorization: Bearer {self.key}"]
        if body:
            head += ["content-type: application/json", f"content-length: {len(body)}"]
        return "\r\n".join([*head, "", ""]).encode() + body
