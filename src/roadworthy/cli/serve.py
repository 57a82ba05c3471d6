"""``roadworthy serve``: from the command line to a server that answers, and back to an exit code.

In order: settings, logs, the port (so that a taken one is told at once), the agents and the data (``bootstrap``), the
application (``app``), the greeting with the first key, and only then the first request.
"""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from roadworthy.cli.environment import load_settings, unknown_variables
from roadworthy.cli.output import hint, say

if TYPE_CHECKING:
    from roadworthy.settings import Settings

# The code of a process that ends itself because it cannot serve any more: EX_SOFTWARE of sysexits.h.
EXIT_STUCK = 70
# Seconds that closing databases and joining threads may take after the last response.
_TEARDOWN_SECONDS = 10


def serve(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]",
            help="path.py:attribute or module:attribute of a graph. Default: the graphs of ./langgraph.json, "
            "else the built-in agents.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 picks a free one.", show_default="8000")] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask for no key; only together with a loopback address.")
    ] = False,
) -> None:
    """Serve agents over HTTP until SIGTERM or Ctrl-C, then drain: runs go on at the next start."""
    # Nothing is to be drained yet, but without a handler the first process of a container ignores the signal.
    signal.signal(signal.SIGTERM, lambda number, _frame: os._exit(128 + number))
    settings = load_settings(target, host=host, port=port, auth=False if no_auth else None)
    _start_logs(settings)
    from roadworthy.cli.http_server import bind

    bound = bind(settings.host, settings.port)
    from roadworthy.engine.supervision import EngineStuck

    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(_serve(settings, target, bound))
    except* EngineStuck as stuck:
        hint(f"roadworthy: {stuck.exceptions[0]}; ending the process")
        raise SystemExit(EXIT_STUCK) from None


async def _serve(settings: "Settings", target: str | None, bound: socket.socket) -> None:
    # Most of the start-up time is spent in these imports.
    import structlog

    from roadworthy import __version__
    from roadworthy.app import build_app, http_limits
    from roadworthy.bootstrap import bootstrap
    from roadworthy.cli.greeting import Greeting
    from roadworthy.cli.http_server import listen, serve_http
    from roadworthy.cli.project import open_project
    from roadworthy.http.deps import Services
    from roadworthy.telemetry.run_log import RunLog

    async with (
        open_project(settings, target) as project,
        bootstrap(settings, project, RunLog()) as container,
    ):
        services = Services(
            runs=container.runs,
            streams=container.streams,
            threads=container.threads,
            keys=container.keys,
            agents=container.agents,
            readiness=container.readiness,
        )
        app = build_app(
            services,
            http_limits(settings),
            auth=settings.auth,
            version=__version__,
            api_version=settings.api_version,
        )
        host, port = listen(bound)
        greeting = Greeting(
            host=host,
            port=port,
            agents=container.agent_names,
            data_dir=settings.data_dir,
            auth=settings.auth,
            admin_key=None if container.first_key is None else container.first_key.text,
        )
        for line in greeting.lines():
            say(line)
        structlog.get_logger("roadworthy.server").info(
            "serving", version=__version__, host=host, port=port, agents=list(container.agent_names), auth=settings.auth
        )
        with _ends_in_time():
            await serve_http(app, bound, drain=container.drain)


@contextmanager
def _ends_in_time() -> Generator[None]:
    """Whatever ended the body, the process follows soon: a thread that hangs in a tool would hold it up for ever."""
    code = EXIT_STUCK
    try:
        yield
        code = 0
    finally:
        last_resort = threading.Timer(_TEARDOWN_SECONDS, os._exit, (code,))
        last_resort.daemon = True
        last_resort.start()


def _start_logs(settings: "Settings") -> None:
    import structlog

    from roadworthy.telemetry.logs import configure_logs

    configure_logs(level=settings.log_level, log_format=settings.log_format, secrets=settings.secrets())
    log = structlog.get_logger("roadworthy.settings")
    for sentence in unknown_variables():
        log.warning("unknown_variable", detail=sentence)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
