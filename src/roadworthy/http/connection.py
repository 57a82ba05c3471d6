"""The one thing that ASGI cannot say: drop this connection now, whatever is still buffered for it.

Closing in the ordinary way waits until the peer has taken everything, which a stuck reader never does. The CLI serves
with ``AbortableProtocol``; without it, such a connection stays until the operating system gives it up.
"""

import socket
import struct
from collections.abc import Callable
from typing import Final, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

EXTENSION: Final = "roadworthy.abort"
_NO_LINGER: Final = struct.pack("ii", 1, 0)  # on, for 0 seconds: what the kernel has buffered is thrown away too


class AbortableProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which also hands the application a way to abort the connection."""

    def on_message_begin(self) -> None:
        """Add the extension to the scope of a request that begins."""
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"abort": self.abort}}

    def abort(self) -> None:
        """Reset the connection."""
        connection = cast("socket.socket | None", self.transport.get_extra_info("socket"))
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()


def abort_of(scope: Scope) -> Callable[[], None] | None:
    """How to abort the connection of a request, or None when the server offers no way."""
    offered = scope.get("extensions", {}).get(EXTENSION)
    return cast("Callable[[], None]", offered["abort"]) if offered else None
