"""How an answer leaves the server: as a stream of events or as one JSON document. `playing` drives either.

Each form also knows its own way to fail, to be cut and to turn into garbage.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol

from tests.support.provider.errors import ApiError
from tests.support.provider.rendering import JsonObject, Plan, whole_message
from tests.support.provider.wire import Connection, json_bytes


class Answer(Protocol):
    """One response under way."""

    async def begin(self) -> None:
        """Send the status line and headers, if the form sends them before the content."""
        ...

    async def send(self, event: JsonObject) -> None:
        """Send one event, if the form has events."""
        ...

    async def complete(self) -> None:
        """End as the API does."""
        ...

    async def fail(self, error: ApiError) -> None:
        """End with an error after `begin`."""
        ...

    async def cut(self) -> None:
        """End early."""
        ...

    async def garbage(self) -> None:
        """End with broken JSON."""
        ...


class StreamedAnswer:
    """Server-sent events over a chunked response."""

    def __init__(self, connection: Connection, headers: Mapping[str, str]) -> None:
        self._connection = connection
        self._headers = headers

    async def begin(self) -> None:
        await self._connection.start_stream(
            {**self._headers, "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        )

    async def send(self, event: JsonObject) -> None:
        await self._connection.send_chunk(b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), json_bytes(event)))

    async def complete(self) -> None:
        await self._connection.send_chunk(b"")

    async def fail(self, error: ApiError) -> None:
        await self.send(error.envelope(self._headers["request-id"]))
        await self.complete()

    async def cut(self) -> None:
        await self.complete()

    async def garbage(self) -> None:
        await self._connection.send_chunk(b'event: content_block_delta\ndata: {"type": "content_block_del\n\n')
        await self.complete()


class WholeAnswer:
    """One JSON document at the end; the events only set its pace."""

    def __init__(self, connection: Connection, headers: Mapping[str, str], plan: Plan) -> None:
        self._connection = connection
        self._headers = {**headers, "content-type": "application/json"}
        self._plan = plan

    async def begin(self) -> None:
        pass

    async def send(self, event: JsonObject) -> None:
        pass

    async def complete(self) -> None:
        await self._connection.respond(HTTPStatus.OK, json_bytes(whole_message(self._plan)), self._headers)

    async def fail(self, error: ApiError) -> None:
        await respond_error(self._connection, error, self._headers)

    async def cut(self) -> None:
        await self._connection.respond_half(HTTPStatus.OK, json_bytes(whole_message(self._plan)), self._headers)

    async def garbage(self) -> None:
        await self._connection.respond(HTTPStatus.OK, b'{"type": "mess', self._headers)


async def respond_error(connection: Connection, error: ApiError, headers: Mapping[str, str]) -> None:
    """Answer with an HTTP error; `headers` hold the `request-id`."""
    extra = {"content-type": "application/json"}
    if error.retry_after is not None:
        extra["retry-after"] = f"{error.retry_after:g}"
    await connection.respond(error.status, json_bytes(error.envelope(headers["request-id"])), {**headers, **extra})
