"""How much of a request's body is read, and what becomes of the rest.

Two middlewares: one refuses bodies that are too large, the other lets a refusal reach a client that is still sending.
Put in order by ``app.py``.
"""

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from roadworthy.domain.errors import BodyTooLarge
from roadworthy.http.headers import header_of

_SMALL: Final = 64 * 1024
_SMALL_SECONDS: Final = 1.0
_DRAIN_MAX: Final = 64 * 1024 * 1024
_DRAIN_SECONDS: Final = 10.0


class BodyLimit:
    """Raises BodyTooLarge for a body over ``limit`` bytes, before it is read when its length is declared."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body counted (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if (_declared_length(scope) or 0) > self.limit:
            raise self._error()
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.limit:
                raise self._error()
            return message

        await self.app(scope, counted, send)

    def _error(self) -> BodyTooLarge:
        return BodyTooLarge(f"The body is larger than {self.limit} bytes.")


class UnreadBody:
    """Reads what the application left of a body, within bounds, before the response ends.

    A server that answers and closes while the client still sends resets the connection, and the client never sees the
    answer (RFC 9112, 9.6). A small rest is taken before the response, so that the connection can be used again; before
    a large one the whole response is sent, with ``Connection: close``, and only its end waits.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on (ASGI)."""
        if scope["type"] != "http" or not _has_body(scope):
            await self.app(scope, receive, send)
            return
        body = _Body(receive)
        await self.app(scope, body.receive, _answering(send, body, small=_is_small(scope)))


def _answering(send: Send, body: "_Body", *, small: bool) -> Send:
    async def answer(message: Message) -> None:
        if body.complete:
            await send(message)
        elif message["type"] == "http.response.start":
            if small:
                await body.drain(_SMALL, seconds=_SMALL_SECONDS)
            if not body.complete:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)
        elif message.get("more_body", False):
            await send(message)
        else:
            await send({**message, "more_body": True})
            await body.drain(_DRAIN_MAX, seconds=_DRAIN_SECONDS)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return answer


class _Body:
    """The request's body on its way to the application. ``complete``: nothing more will come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.complete = self.complete or not message.get("more_body", False)
        return message

    async def drain(self, limit: int, *, seconds: float) -> None:
        """Throw away what is left, up to ``limit`` bytes and for so long."""
        try:
            async with asyncio.timeout(seconds):
                while not self.complete and limit > 0:
                    limit -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            return


def _declared_length(scope: Scope) -> int | None:
    declared = header_of(scope, b"content-length") or ""
    return int(declared) if declared.isdecimal() else None


def _has_body(scope: Scope) -> bool:
    return bool(_declared_length(scope)) or header_of(scope, b"transfer-encoding") is not None


def _is_small(scope: Scope) -> bool:
    """Whether the rest is worth waiting for. Not when the client waits itself, for leave to send its body."""
    length = _declared_length(scope)
    return length is not None and length <= _SMALL and header_of(scope, b"expect") is None
