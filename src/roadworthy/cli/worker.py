"""``roadworthy worker``: execute runs that servers on the same Postgres accept; answer probes and metrics, no more.

With ``--processes`` it is the parent of several, each with a port of its own: one that ends unasked is started again.
"""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from roadworthy.cli.environment import load_settings
from roadworthy.cli.running import Role, heed_sigterm, run_server
from roadworthy.cli.serve import Target
from roadworthy.domain.errors import ConfigError

if TYPE_CHECKING:
    from roadworthy.settings import Settings

_WRONG_USAGE = 2
_RESTART_AFTER = 1.0
_MOST = 64


def worker(
    target: Target = None,
    host: Annotated[str | None, typer.Option(help="Address of the probes.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the probes; 0 picks a free one.", show_default="0")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=_MOST, help="How many; each takes the next port.")] = 1,
) -> None:
    """Execute runs until SIGTERM or Ctrl-C, then drain: others go on with them."""
    heed_sigterm()
    settings = load_settings(target, host=host, port=port)
    if settings.database_url is None:
        raise ConfigError("a worker shares a Postgres with the servers that accept runs: set ROADWORTHY_DATABASE_URL")
    # The port of the settings is that of a server, which may be on this machine too.
    chosen = settings.port if port is not None or "port" in settings.model_fields_set else 0
    if processes == 1:
        run_server(settings.model_copy(update={"port": chosen}), target, Role.WORKER)
        return
    if settings.metrics_port:
        raise ConfigError(
            "several processes cannot share ROADWORTHY_METRICS_PORT: scrape /metrics on the ports of their probes, or "
            "start them one by one"
        )
    raise typer.Exit(asyncio.run(_parent(_commands(settings, target, chosen, processes))))


def _commands(settings: "Settings", target: str | None, port: int, processes: int) -> Sequence[Sequence[str]]:
    command = [sys.executable, "-c", "from roadworthy.cli.main import main; main()", "worker"]
    command += [] if target is None else [target]
    return [
        [*command, "--host", settings.host, "--port", str(port + number if port else 0)] for number in range(processes)
    ]


async def _parent(commands: Sequence[Sequence[str]]) -> int:
    """Keep one process for each command until a signal, which all of them get. Returns the worst exit code."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    children: set[subprocess.Popen[bytes]] = set()

    def stop(number: signal.Signals) -> None:
        stopping.set()
        for child in children:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    # A thread for each, because asyncio's own way loses the exit code of a child that has ended when a signal is sent.
    with ThreadPoolExecutor(max_workers=len(commands)) as waiting:
        async with asyncio.TaskGroup() as group:
            kept = [group.create_task(_keep(command, children, stopping, waiting)) for command in commands]
    return max(task.result() for task in kept)


async def _keep(
    command: Sequence[str], children: "set[subprocess.Popen[bytes]]", stopping: asyncio.Event, waiting: Executor
) -> int:
    """One child, again whenever it ends unasked; but wrong usage ends all."""
    code = 0
    while not stopping.is_set():
        # Of a session of its own, so that Ctrl-C reaches it once, through its parent.
        child = subprocess.Popen(command, start_new_session=True)  # noqa: S603, ASYNC220 -- our own command; it forks
        children.add(child)
        code = await asyncio.get_running_loop().run_in_executor(waiting, child.wait)
        children.discard(child)
        if code == _WRONG_USAGE:
            stopping.set()
            for other in children:
                other.terminate()
        elif not stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_RESTART_AFTER):
                    await stopping.wait()
    return max(code, 0)
