"""What surrounds every request: its id, the headers of every response, and the edge where errors become problems.

Plain ASGI, put in order by ``app.py``. Everything a route raises ends in ``ProblemEdge``.
"""

import re
import time
from typing import Final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from roadworthy.domain.ids import new_id
from roadworthy.http.disconnect import ClientGone
from roadworthy.http.headers import header_of
from roadworthy.http.problems import problem_of, problem_response
from roadworthy.ports.telemetry import WebTelemetry

REQUEST_ID: Final = "X-Request-Id"
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_SERVER_ERROR: Final = 500
_CLIENT_ERROR: Final = 400

_log = structlog.get_logger(__name__)


class RequestContext:
    """Gives a request its id (the client's own when it is a sane one), returns it, and binds it to every log record."""

    def __init__(self, app: ASGIApp, telemetry: WebTelemetry | None = None) -> None:
        self.app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = header_of(scope, b"x-request-id") or ""
        request_id = given if _SANE_ID.fullmatch(given) else new_id()
        returned = (b"x-request-id", request_id.encode())
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.perf_counter()

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], returned]
                if self._telemetry is not None:
                    self._telemetry.response_started(scope["method"], message["status"])
                _record(scope, message["status"], time.perf_counter() - began)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self.app(scope, receive, named)


class SecurityHeaders:
    """Headers for every response that does not set them itself."""

    HEADERS: Final = (
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"content-security-policy", b"frame-ancestors 'none'"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-store"),
    )

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = list(message["headers"])
                names = {name for name, _ in own}
                message["headers"] = own + [header for header in self.HEADERS if header[0] not in names]
            await send(message)

        await self.app(scope, receive, guarded)


class ProblemEdge:
    """Turns what a request raised into a problem. Tracebacks of what was not foreseen go to the log alone."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except (ClientGone, ClientDisconnect):
            _log.info("client_gone", method=scope["method"], path=scope["path"])
        except Exception as exc:  # noqa: BLE001 -- the request edge: whatever failed, the client gets a problem
            problem = problem_of(exc)
            if problem.status == _SERVER_ERROR or started:
                _log.exception("request_failed", method=scope["method"], path=scope["path"])
            if not started:
                await problem_response(problem, Request(scope))(scope, receive, send)


def _record(scope: Scope, status: int, seconds: float) -> None:
    write = _log.warning if status >= _SERVER_ERROR else _log.info if status >= _CLIENT_ERROR else _log.debug
    write(
        "http_request",
        method=scope["method"],
        path=scope["path"],
        status=status,
        duration_ms=round(seconds * 1000, 1),
    )
