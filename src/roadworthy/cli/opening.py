"""From a bound port to an opened server, also while the database cannot be used: then alive, not ready, and trying.

``serve`` opens ``bootstrap`` with ``opened`` and serves the ``Front``: one listening socket, whose application changes
once, from ``not_ready`` to the real one.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.http.encoding import to_json
from roadworthy.http.middleware import RequestContext, SecurityHeaders
from roadworthy.http.problems import problem_of, problem_response
from roadworthy.http.request_body import UnreadBody

RETRY_EVERY = timedelta(seconds=1)

T = TypeVar("T")


class Front:
    """The application that is served: it passes each request on to the one of the moment.

    ``answers`` is set when it is known what to answer, ``opened`` when that comes from the opened server.
    """

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.opened = False
        self._app = not_ready("the database is being opened")
        self._drain: Callable[[], Awaitable[None]] | None = None

    def wait(self, detail: str) -> None:
        """Answer that the database cannot be used, and why."""
        self._app = not_ready(detail)
        self.answers.set()

    def open(self, app: ASGIApp, drain: Callable[[], Awaitable[None]]) -> None:
        """Answer with ``app`` from the next request on. ``drain`` brings its runs to a safe place."""
        self._app, self._drain, self.opened = app, drain, True
        self.answers.set()

    async def drain(self) -> None:
        """Bring the runs to a safe place, if there can be any yet."""
        if self._drain is not None:
            await self._drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on (ASGI)."""
        await self._app(scope, receive, send)


@asynccontextmanager
async def opened(
    opening: Callable[[], AbstractAsyncContextManager[T]], front: Front, *, retry_every: timedelta = RETRY_EVERY
) -> AsyncGenerator[T]:
    """What ``opening`` yields, tried again for as long as the database cannot be used; ``front`` says so meanwhile.

    Raises:
        ConfigError, and whatever else ``opening`` raises that does not go away by itself.
    """
    log = structlog.get_logger("roadworthy.server")
    async with AsyncExitStack() as stack:
        while True:
            try:
                thing = await stack.enter_async_context(opening())
            except StorageUnavailable as error:
                log.warning("waiting_for_database", detail=error.message, cause=_first_line(error.__cause__))
                front.wait(error.message)
                await asyncio.sleep(retry_every.total_seconds())
            else:
                break
        yield thing


def not_ready(detail: str) -> ASGIApp:
    """The application of a server that cannot open its database: ``/livez`` is well, all else is told to come back."""
    error = StorageUnavailable(detail)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # The probes speak as those of an opened server do (``http/health.py``).
        match scope["path"]:
            case "/livez":
                response = _json({"status": "alive"}, status=200)
            case "/readyz":
                trouble = {"name": "database", "detail": detail}
                response = _json({"status": "not_ready", "problems": [trouble], "degraded": []}, status=503)
            case _:
                response = problem_response(problem_of(error), Request(scope))
        await response(scope, receive, send)

    return RequestContext(SecurityHeaders(UnreadBody(app)))


def _first_line(cause: BaseException | None) -> str | None:
    """What a database's driver says, for the log alone: it names hosts and users."""
    return None if cause is None else str(cause).strip().partition("\n")[0]


def _json(body: object, *, status: int) -> Response:
    return Response(to_json(body), status, media_type="application/json")
