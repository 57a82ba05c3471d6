"""The shipped server in processes forked from one that has imported it, for tests that start it hundreds of times.

Such a process runs the same command from its first line with its own environment, opens its own data and dies by its
own signals; only the three seconds of imports are shared. The agents' file is imported by each process anew.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, Self

from tests.support.server import ROOT, ServerProcess

# What a server with an agent of `tests/support/agents` has imported once it answers.
_MODULES = (
    "alembic.command",
    "alembic.op",
    "anthropic.resources.messages",
    "genai_prices.data_snapshot",
    "langchain.agents",
    "langchain_anthropic",
    "roadworthy.app",
    "roadworthy.bootstrap",
    "roadworthy.cli.greeting",
    "roadworthy.cli.http_server",
    "roadworthy.cli.main",
    "roadworthy.cli.opening",
    "roadworthy.cli.project",
    "roadworthy.telemetry.logs",
    "roadworthy.telemetry.run_log",
)
# And one of a fleet.
_FLEET_MODULES = (
    "langgraph.checkpoint.postgres.aio",
    "langgraph.store.postgres.aio",
    "roadworthy.runtimes.langgraph.postgres_checkpoints",
    "roadworthy.runtimes.langgraph.postgres_store",
    "roadworthy.storage.leases",
    "roadworthy.storage.postgres",
    "roadworthy.storage.postgres_circuits",
    "roadworthy.storage.postgres_wakeups",
    "roadworthy.storage.redis_events",
    "roadworthy.storage.redis_rates",
    "roadworthy.storage.redis_wakeups",
)
_POLL_SECONDS = 0.005
_STOP_SECONDS = 30


class Preloaded:
    """`with Preloaded() as preloaded:` keeps the process to fork from. Ends with all that was forked."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.preloaded"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self._process.communicate(timeout=_STOP_SECONDS)

    def fork(self, args: Sequence[str], env: Mapping[str, str], log: Path) -> "ForkedProcess":
        """Run `roadworthy ARGS` with this environment and nothing else, writing to `log`."""
        return ForkedProcess(self, int(self._ask({"args": list(args), "env": dict(env), "log": str(log)})))

    def exit_code(self, pid: int) -> int | None:
        """Of a process that was forked here; None while it runs."""
        code: int | None = self._ask({"pid": pid})
        return code

    def _ask(self, question: Mapping[str, Any]) -> Any:
        process = self._process
        assert process is not None, "not started"
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(question), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())


class ForkedProcess:
    """See `server.Process`."""

    def __init__(self, preloaded: Preloaded, pid: int) -> None:
        self.pid = pid
        self._preloaded = preloaded
        self._code: int | None = None

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self._code is None:
            self._code = self._preloaded.exit_code(self.pid)
        return self._code

    def send_signal(self, signal: int, /) -> None:
        """Nothing is sent to a process that has ended."""
        if self.returncode is None:
            os.kill(self.pid, signal)

    def kill(self) -> None:
        """Kill -9."""
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """The exit code, once there is one."""
        while (code := self.returncode) is None:  # noqa: ASYNC110 -- another process
            await asyncio.sleep(_POLL_SECONDS)
        return code


class PreloadedServer(ServerProcess):
    """`ServerProcess` without the time that imports take. Made with the process to fork from: `partial` it."""

    def __init__(
        self,
        preloaded: Preloaded,
        folder: Path,
        *,
        target: str,
        env: Mapping[str, str],
        args: Sequence[str] = (),
        command: str = "serve",
    ) -> None:
        super().__init__(folder, target=target, env=env, args=args, command=command)
        self._preloaded = preloaded

    async def _spawn(self, args: Sequence[str], log: Path) -> ForkedProcess:
        return self._preloaded.fork(args, self._environment(), log)


def _obey() -> None:
    """Answer each line of the input with one of the output, until it ends."""
    running: set[int] = set()
    for line in sys.stdin:
        question = json.loads(line)
        if "pid" in question:
            ended, status = os.waitpid(question["pid"], os.WNOHANG)
            running.discard(ended)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        else:
            answer = os.fork()
            if not answer:
                _serve(question["args"], question["env"], question["log"])
            running.add(answer)
        print(json.dumps(answer), flush=True)
    for pid in running:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _serve(args: Sequence[str], env: Mapping[str, str], log: str) -> NoReturn:
    """Become the server, as if started by a shell."""
    from roadworthy.cli.main import main

    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)):
        os.dup2(os.open(path, flags, 0o600), number)
    os.dup2(1, 2)
    os.environ.clear()
    os.environ.update(env)
    _set_clock(float(env.get("CLOCK_OFF", 0)))
    sys.argv = ["roadworthy", *args]
    try:
        main()
    except SystemExit as ended:
        os._exit(ended.code if isinstance(ended.code, int) else 1)
    os._exit(0)


def _set_clock(off: float) -> None:
    """Be so many seconds ahead of the machine's wall clock; the monotonic one knows no hour."""
    from roadworthy.telemetry.clock import SystemClock

    right_time, right_now = time.time, SystemClock.now
    time.time = lambda: right_time() + off
    SystemClock.now = lambda self: right_now(self) + timedelta(seconds=off)


if __name__ == "__main__":
    for _name in (*_MODULES, *_FLEET_MODULES):
        import_module(_name)
    _obey()
