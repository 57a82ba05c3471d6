"""uvicorn, with our own way to stop: the first signal drains while ``/readyz`` says so, the second ends the process.

Called by ``serve``; runs what ``app.build_app`` made.
"""

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import structlog
import uvicorn
from starlette.types import ASGIApp

from roadworthy.domain.errors import ConfigError
from roadworthy.http.connection import BoundedProtocol

BACKLOG = 2048
# uvloop takes one new connection in a turn of the loop from each listening socket. The same socket, several times over,
# lets a crowd in sooner.
_MORE_DOORS = 15
# Seconds that responses get to end after the drain; runs have had their own time before.
_LAST_RESPONSES = 5
# Seconds an idle connection stays open: longer than load balancers keep theirs, so that they never reuse a closed one.
_KEEP_ALIVE = 75
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not yet listening: a taken port is found before anything slow is loaded.

    Raises:
        ConfigError: the address cannot be had, and why.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"the host {host} cannot be resolved: {error}") from error
    # `localhost` may mean two addresses; most clients try IPv4 first or next.
    family, kind, protocol, _, address = min(found, key=lambda item: item[0] is not socket.AF_INET)
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigError(_refusal(error, host, port)) from error
    bound.setblocking(False)
    return bound


def listen(bound: socket.socket) -> tuple[str, int]:
    """Let clients connect; they are answered once ``serve_http`` runs. Returns host and port.

    Raises:
        ConfigError: another process was faster.
    """
    host, port = bound.getsockname()[:2]
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        raise ConfigError(_refusal(error, host, port)) from error
    return str(host), int(port)


async def serve_http(
    app: ASGIApp, bound: socket.socket, *, stop: asyncio.Event, drain: Callable[[], Awaitable[None]]
) -> None:
    """Serve until ``stop`` is set, then drain, then stop. Returns when every response has ended or 5 s are over.

    ``drain``: brings the runs to a safe place; requests are still answered meanwhile.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_LAST_RESPONSES,
        )
    )
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(sockets=[bound, *(bound.dup() for _ in range(_MORE_DOORS))]))
        await stop.wait()
        await drain()
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals are ours: see ``stop_signals``."""
        yield


@contextmanager
def stop_signals() -> Generator[asyncio.Event]:
    """Yields what SIGTERM or Ctrl-C sets. A second signal ends the process at once, with the exit code that shells give
    to that signal: what was running is recovered by others, or at the next start.
    """
    stop = asyncio.Event()
    log = structlog.get_logger("roadworthy.server")
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            log.warning("stopped_at_once", signal=number.name)
            os._exit(128 + number)
        log.info("stopping", signal=number.name)
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield stop
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _refusal(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} on {host} is in use: stop the other program, or choose another with --port"
        case errno.EACCES:
            return f"port {port} needs more rights than this user has: choose one above 1023 with --port"
        case errno.EADDRNOTAVAIL:
            return f"this machine has no address {host}: choose one with --host"
        case _:
            return f"cannot listen on {host} port {port}: {error.strerror}"
