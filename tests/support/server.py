"""The shipped server as a process of its own, with what a test needs to hurt it: kill, stop, restart, look inside."""

import asyncio
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import httpx
import psycopg
from psycopg.rows import dict_row

COMMAND = Path(sys.executable).parent / "roadworthy"
ADMIN_KEY = "rw_live_" + "testadminkey" * 3
ROOT = Path(__file__).parents[2]


class Process(Protocol):
    """What is asked of the server's process, whoever started it."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def send_signal(self, signal: int, /) -> None: ...

    def kill(self) -> None: ...

    async def wait(self) -> int: ...


class Inspected(Protocol):
    """What servers have left behind, whether it is one or a fleet of them."""

    @property
    def logs(self) -> str: ...

    def rows(self, sql: str, /, *parameters: object) -> list[dict[str, Any]]: ...


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def postgres_rows(url: str, sql: str, *parameters: object) -> list[dict[str, Any]]:
    """What a query finds in a database on Postgres. ``?`` is a parameter."""
    with psycopg.connect(url) as beside, beside.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.replace("%", "%%").replace("?", "%s").encode(), parameters).fetchall()


class ServerProcess:
    """`async with ServerProcess(folder, target=…) as server:`; the data lives in `folder` and outlasts restarts."""

    def __init__(
        self,
        folder: Path,
        *,
        target: str | None = None,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        command: str = "serve",
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_key = ADMIN_KEY
        self.env = dict(env or {})
        self._target = target
        self._args = tuple(args)
        self._command = command
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.kill()

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        return self._running.pid

    @property
    def ended(self) -> bool:
        """Whether the process that was started last has ended."""
        return self._running.returncode is not None

    @property
    def logs(self) -> str:
        """Everything that any of the processes wrote."""
        return (self.folder / "server.log").read_text(errors="replace")

    @property
    def database(self) -> Path:
        """The server's own tables."""
        return self.data / "roadworthy.db"

    @property
    def data(self) -> Path:
        """The data folder."""
        return Path(self.env.get("ROADWORTHY_DATA_DIR", self.folder / "data"))

    async def start(self, *, wait: bool = True) -> None:
        """Start a process on the same data and port; by default until it is healthy."""
        self.folder.mkdir(parents=True, exist_ok=True)
        args = [self._command, *([self._target] if self._target else []), *self._args]
        self._process = await self._spawn(args, self.folder / "server.log")
        if wait:
            await self.healthy()

    async def healthy(self, seconds: float = 60) -> None:
        """Until `/health` answers.

        Raises:
            AssertionError: the process ended first.
            TimeoutError: neither happened.
        """
        async with asyncio.timeout(seconds), httpx.AsyncClient(base_url=self.url) as client:
            while True:
                assert self._running.returncode is None, self.logs
                try:
                    if (await client.get("/health")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self._running.send_signal(number)

    async def exited(self, seconds: float = 60) -> int:
        """The exit code, once there is one; negative for a signal."""
        async with asyncio.timeout(seconds):
            return await self._running.wait()

    async def kill(self) -> None:
        """Kill -9, if it still runs."""
        process = self._running
        if process.returncode is None:
            process.kill()
            await process.wait()

    async def crash_and_restart(self) -> None:
        """Kill -9, then start again."""
        await self.kill()
        await self.start()

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        """An HTTP client with a key; without one, the admin's."""
        headers = {"Authorization": f"Bearer {key or self.admin_key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60)

    async def run_cli(self, *args: str) -> tuple[int, str, str]:
        """Run `roadworthy ARGS` beside the server; its exit code, stdout and stderr."""
        process = await asyncio.create_subprocess_exec(
            str(COMMAND),
            *args,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            stdin=asyncio.subprocess.DEVNULL,
            env=self._environment(),
            cwd=ROOT,
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    async def new_key(self, user: str, *args: str) -> str:
        """A key for a user, made by the CLI beside the running server."""
        code, out, err = await self.run_cli("keys", "create", "--user", user, *args)
        assert code == 0, err
        return out.strip()

    def rows(self, sql: str, *parameters: object) -> list[dict[str, Any]]:
        """What a query finds in the server's tables. ``?`` is a parameter on either database."""
        if url := self.env.get("ROADWORTHY_DATABASE_URL"):
            return postgres_rows(url, sql, *parameters)
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10) as connection:
            connection.row_factory = sqlite3.Row
            found = [dict(row) for row in connection.execute(sql, parameters)]
        connection.close()
        return found

    def change(self, sql: str, *parameters: object) -> int:
        """Change the tables of a server that is not running. Returns how many rows were changed."""
        if url := self.env.get("ROADWORTHY_DATABASE_URL"):
            with psycopg.connect(url) as beside:
                return beside.execute(sql.replace("%", "%%").replace("?", "%s").encode(), parameters).rowcount
        with sqlite3.connect(self.database) as connection:
            changed = connection.execute(sql, parameters).rowcount
        connection.close()
        return changed

    async def _spawn(self, args: Sequence[str], log: Path) -> Process:
        with log.open("ab") as file:
            return await asyncio.create_subprocess_exec(
                str(COMMAND),
                *args,
                stdout=file,
                stderr=file,
                stdin=asyncio.subprocess.DEVNULL,
                env=self._environment(),
                cwd=ROOT,
            )

    @property
    def _running(self) -> Process:
        assert self._process is not None, "the server was never started"
        return self._process

    def _environment(self) -> dict[str, str]:
        keep = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
        return {
            **keep,
            "PYTHONPATH": str(ROOT),
            "ROADWORTHY_DATA_DIR": str(self.data),
            "ROADWORTHY_PORT": str(self.port),
            "ROADWORTHY_ADMIN_KEY": self.admin_key,
            **self.env,
        }
