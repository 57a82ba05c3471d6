"""A real uvicorn server on a free port of 127.0.0.1, in the test's own loop."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp

from roadworthy.http.connection import BoundedProtocol


class _Quiet(uvicorn.Server):
    """Leaves signals to pytest and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def run_in_loop(self) -> None:
        await self._serve()

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup()
        self.listening.set()


@asynccontextmanager
async def serving(app: ASGIApp, **settings: object) -> AsyncGenerator[int]:
    """Serve ``app``; yields the port. ``settings``: uvicorn's, over those of ``roadworthy serve``."""
    options = {
        "host": "127.0.0.1",
        "port": 0,
        "http": BoundedProtocol,
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": 1,
    }
    server = _Quiet(uvicorn.Config(app, **{**options, **settings}))  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.run_in_loop())
        async with asyncio.timeout(10):
            await server.listening.wait()
        try:
            yield server.servers[0].sockets[0].getsockname()[1]
        finally:
            server.should_exit = True
            async with asyncio.timeout(10):
                await asyncio.wait([task])
