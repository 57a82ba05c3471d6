"""The installed command in a folder of its own, with nothing of the machine's settings."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

COMMAND = Path(sys.executable).parent / "roadworthy"
AGENTS = Path(__file__).parent / "agents.py"


def environment(folder: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a newcomer's shell has, with the home directory elsewhere."""
    keep = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG", "TMPDIR"}}
    return {**keep, "HOME": str(folder), **(extra or {})}


async def run(
    folder: Path, *args: str, env: Mapping[str, str] | None = None, command: Path = COMMAND
) -> tuple[int, str, str]:
    """Run `roadworthy ARGS` in ``folder``: exit code, standard output, standard error."""
    async with asyncio.timeout(60):
        process = await asyncio.create_subprocess_exec(
            str(command),
            *args,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            stdin=asyncio.subprocess.DEVNULL,
            env=environment(folder, env),
            cwd=folder,
        )
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


class Serving:
    """A started `roadworthy serve`. ``lines``: what it printed before it served."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, lines: list[str]) -> None:
        self.process = process
        self.folder = folder
        self.lines = lines

    @property
    def url(self) -> str:
        """From the line that says where it serves."""
        return next(word.rstrip(",") for line in self.lines for word in line.split() if word.startswith("http://"))

    @property
    def curl(self) -> str:
        """The line to try."""
        return next(line for line in self.lines if line.startswith("curl "))

    @property
    def first_key(self) -> str:
        """The key that stands alone on its line."""
        return next(line for line in self.lines if line.startswith("rw_live_"))

    @property
    def log(self) -> str:
        """Standard error."""
        return (self.folder / "stderr").read_text()

    def records(self, event: str) -> list[dict[str, Any]]:
        """The log's records of one kind."""
        found: list[dict[str, Any]] = [json.loads(line) for line in self.log.splitlines()]
        return [record for record in found if record["event"] == event]

    def client(self, key: str) -> httpx.AsyncClient:
        """An HTTP client with a key."""
        return httpx.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            return await self.process.wait()


@asynccontextmanager
async def starting(
    folder: Path, *args: str, port: int = 0, env: Mapping[str, str] | None = None, command: Path = COMMAND
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """`roadworthy serve --port PORT ARGS` in ``folder``, as soon as the process is there. Killed in the end."""
    with (folder / "stderr").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            str(command),
            "serve",
            "--port",
            str(port),
            *args,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            stdin=asyncio.subprocess.DEVNULL,
            env=environment(folder, env),
            cwd=folder,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def serving(
    folder: Path, *args: str, env: Mapping[str, str] | None = None, command: Path = COMMAND
) -> AsyncGenerator[Serving]:
    """The same on a free port, from the moment it answers."""
    async with starting(folder, *args, env=env, command=command) as process:
        server = Serving(process, folder, await greeting(process, folder))
        await _healthy(server)
        yield server


async def until_draining(client: httpx.AsyncClient) -> httpx.Response:
    """What ``/readyz`` says once it is not ready any more."""
    async with asyncio.timeout(30):
        while True:
            answer = await client.get("/readyz")
            if not answer.is_success:
                return answer


async def greeting(process: asyncio.subprocess.Process, folder: Path) -> list[str]:
    """What the server prints once it can serve."""
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(90):
        while not any(line.startswith("curl ") for line in lines):
            line = await process.stdout.readline()
            assert line, f"the server ended: {(folder / 'stderr').read_text()}"
            lines.append(line.decode().rstrip("\n"))
    return lines


async def _healthy(server: Serving) -> None:
    async with asyncio.timeout(30), httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        assert (await client.get("/health")).is_success
