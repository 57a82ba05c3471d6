"""A server's process from its settings to its end, whatever its role: ``serve`` and ``worker`` start it.

In order: logs, the port (so that a taken one is told at once), the agents and the data (``bootstrap``), the application
(``app``), the greeting with the first key, and only then the first request. When the database cannot be opened,
``opening`` answers until it can.
"""

import asyncio
import gc
import os
import signal
import socket
from contextlib import suppress
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from roadworthy.cli.ending import ends_in_time, run
from roadworthy.cli.environment import secret_values, unknown_variables
from roadworthy.cli.output import say

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from roadworthy.bootstrap import Container, Project
    from roadworthy.cli.opening import Front
    from roadworthy.settings import Settings
    from roadworthy.telemetry.metrics import Metrics

# Seconds that opening may take before the port is opened all the same.
_OPENING_SECONDS = 3

# Of the three generations; measured by `make bench`.
_GC_THRESHOLDS = (20_000, 2, 50)


class Role(StrEnum):
    """What a process does. An ``API`` executes nothing; a ``WORKER`` answers only probes."""

    EVERYTHING = "everything"
    API = "api"
    WORKER = "worker"


def heed_sigterm() -> None:
    """Nothing is to be drained yet, but without a handler the first process of a container ignores the signal."""
    signal.signal(signal.SIGTERM, lambda number, _frame: os._exit(128 + number))


def run_server(settings: "Settings", target: str | None, role: Role) -> None:
    """Be a server until SIGTERM or Ctrl-C.

    Raises:
        ConfigError, StorageUnavailable: it could not start.
        SystemExit: it could not go on.
    """
    _start_logs(settings)
    from roadworthy.cli.http_server import bind

    bound = bind(settings.host, settings.port)
    run(_serve(settings, target, bound, role), loop_factory=_new_loop)


async def _serve(settings: "Settings", target: str | None, bound: socket.socket, role: Role) -> None:
    # Most of the start-up time is spent in these imports.
    from roadworthy import __version__
    from roadworthy.cli.http_server import serve_http, stop_signals
    from roadworthy.cli.metrics_port import metrics_port
    from roadworthy.cli.opening import Front
    from roadworthy.cli.project import open_project
    from roadworthy.telemetry.metrics import Metrics

    metrics = Metrics(__version__)
    with metrics_port(settings, metrics):
        async with open_project(settings, target) as project, asyncio.TaskGroup() as group:
            front = Front()
            # Before anything is opened: a worker may have runs before it answers.
            with stop_signals() as stop:
                life = group.create_task(_open(settings, project, bound, front, metrics, role))
                with suppress(TimeoutError):
                    # A migration of much data, or a lock on it, takes its time, and the process is alive meanwhile.
                    async with asyncio.timeout(_OPENING_SECONDS):
                        await front.answers.wait()
                with ends_in_time():
                    await serve_http(front, bound, stop=stop, drain=front.drain)
            if not front.opened:
                os._exit(0)  # there is nothing to close, and threads that wait for a lock would hold the end up
            life.cancel()


async def _open(
    settings: "Settings", project: "Project", bound: socket.socket, front: "Front", metrics: "Metrics", role: Role
) -> None:
    """Open everything, greet, let ``front`` answer; keep it open until cancelled."""
    from roadworthy.bootstrap import bootstrap
    from roadworthy.cli.opening import opened
    from roadworthy.telemetry.loop_lag import measure_loop_lag
    from roadworthy.telemetry.run_log import RunLog
    from roadworthy.telemetry.several import Several

    telemetry = Several(RunLog(), metrics)
    async with opened(
        partial(bootstrap, settings, project, telemetry, executes=role is not Role.API), front
    ) as container:
        metrics.watch(container.worker.load)
        app = _app(settings, container, metrics, role)
        _settle_heap()
        _greet(settings, container, bound, role)
        front.open(app, container.drain)
        await measure_loop_lag(metrics.loop_lag)


def _settle_heap() -> None:
    """Spare the garbage collector what lives as long as the process, and look less often.

    A run that ends well leaves no circles, only agents' own code may; but each one that is under way has made hundreds
    of objects, which a look every two thousand of them would go through again and again, to find nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def _app(settings: "Settings", container: "Container", metrics: "Metrics", role: Role) -> "ASGIApp":
    from roadworthy import __version__
    from roadworthy.app import build_app, http_limits, services_of

    return build_app(
        services_of(container),
        http_limits(settings),
        auth=settings.auth,
        version=__version__,
        api_version=settings.api_version,
        telemetry=metrics,
        exposition=metrics if settings.metrics_port is None else None,
        probes_only=role is Role.WORKER,
    )


def _greet(settings: "Settings", container: "Container", bound: socket.socket, role: Role) -> None:
    """Who reads the greeting may connect at once, so the port is opened first."""
    import structlog

    from roadworthy import __version__
    from roadworthy.cli.greeting import Greeting
    from roadworthy.cli.http_server import listen

    host, port = listen(bound)
    log = structlog.get_logger("roadworthy.server").bind(version=__version__, host=host, port=port)
    # By its name, somebody who looks at a run's row finds the process that executes it.
    log = log.bind(agents=list(container.agent_names), worker=container.worker_name)
    if role is Role.WORKER:
        log.info("working")
        return
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
    log.info("serving", auth=settings.auth)


def _start_logs(settings: "Settings") -> None:
    import structlog

    from roadworthy.services.key_text import is_short
    from roadworthy.telemetry.logs import configure_logs

    secrets = [*settings.secrets(), *secret_values()]
    configure_logs(level=settings.log_level, log_format=settings.log_format, secrets=secrets)
    log = structlog.get_logger("roadworthy.settings")
    for sentence in unknown_variables():
        log.warning("unknown_variable", detail=sentence)
    if settings.admin_key is not None and is_short(settings.admin_key.get_secret_value()):
        log.warning("short_admin_key", detail="ROADWORTHY_ADMIN_KEY may be guessed: give it 24 characters or more")


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
