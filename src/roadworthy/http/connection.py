"""uvicorn's HTTP protocol with the bounds that it lacks: on the head of a request, and on a peer that never reads.

``cli`` serves with ``BoundedProtocol``. Under another server everything works but this: heads are bounded by that
server, and a stuck reader's connection stays until the operating system gives it up.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Final, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

EXTENSION: Final = "roadworthy.abort"
HEAD_MAX: Final = 64 * 1024
HEAD_SECONDS: Final = 30.0
_NO_LINGER: Final = struct.pack("ii", 1, 0)  # on, for 0 seconds: what the kernel has buffered is thrown away too
_TOO_LARGE: Final = b'{"type":"urn:roadworthy:problem:headers_too_large","title":"Headers too large","status":431,\
"detail":"The headers are larger than 65536 bytes.","code":"headers_too_large","request_id":""}'
_REFUSAL: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/problem+json\r\n\
content-length: %d\r\nconnection: close\r\n\r\n%b"
    % (len(_TOO_LARGE), _TOO_LARGE)
)


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Its requests' scopes offer a way to abort it, which ASGI has no word for."""

    _head_size = 0
    _in_head = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A peer has connected: it has to say something soon."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come, and count it as long as it is a head."""
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head_size += len(data)
        if self._head_size > HEAD_MAX:
            self.transport.write(_REFUSAL)
            self.transport.close()
        elif self._head_timer is None:
            self._await_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._head_size = True, 0
        self.scope["extensions"] = {EXTENSION: {"abort": self.abort}}

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._in_head = False
        self._head_came()
        super().on_headers_complete()

    def abort(self) -> None:
        """Reset the connection. Closing it would wait until the peer has taken everything, which it never may."""
        connection = cast("socket.socket | None", self.transport.get_extra_info("socket"))
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def abort_of(scope: Scope) -> Callable[[], None] | None:
    """How to abort the connection of a request, or None when the server offers no way."""
    offered = scope.get("extensions", {}).get(EXTENSION)
    return cast("Callable[[], None]", offered["abort"]) if offered else None
