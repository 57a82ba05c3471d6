"""A fleet on this machine: Postgres that waits for the disk, Valkey, and processes of the shipped command."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx
import psutil

from benchmarks.client import LoadFailed, Target
from benchmarks.cores import measured_core
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.server import ADMIN_KEY, COMMAND, ROOT, free_port
from tests.support.valkey import ValkeyServer, valkey_server

Role = Literal["serve", "api", "worker"]

_GRAPHS = Path(__file__).parent / "graphs"
_WORDS: Mapping[Role, tuple[str, ...]] = {"serve": ("serve",), "api": ("serve", "--no-worker"), "worker": ("worker",)}
_OK = 200
_START_SECONDS = 180


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """What a fleet shares."""

    postgres: PostgresServer
    valkey: ValkeyServer

    @property
    def processes(self) -> Mapping[str, psutil.Process]:
        """By the name that a table gives them."""
        info = self.valkey.run("INFO", "server")
        assert isinstance(info, dict)
        return {"Postgres": psutil.Process(self.postgres.pid), "Valkey": psutil.Process(int(info["process_id"]))}


@contextmanager
def stores() -> Generator[Stores]:
    """Start both; end both."""
    with postgres_server(durable=True) as postgres, valkey_server() as valkey:
        yield Stores(postgres=postgres, valkey=valkey)


class Replica:
    """One process of a fleet, which may be ended and started again at the same port."""

    def __init__(self, role: Role, graph: str, folder: Path, env: Mapping[str, str]) -> None:
        self.role: Role = role
        self.log = folder / f"{role}.log"
        self.target = Target(port=free_port(), key=ADMIN_KEY)
        self._graph = graph
        self._env = {**os.environ, **env, "ROADWORTHY_DATA_DIR": str(folder / "data"), "PYTHONPATH": str(ROOT)}
        self._process: asyncio.subprocess.Process | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def process(self) -> psutil.Process:
        """The one that runs now."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    async def start(self) -> None:
        """Start it; returns when it is ready.

        Raises:
            LoadFailed: it ended first.
        """
        words = [*_WORDS[self.role], str(_GRAPHS / self._graph), "--port", str(self.target.port)]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(COMMAND), *words, env=self._env, cwd=ROOT, stdout=log, stderr=log
            )
        async with asyncio.timeout(_START_SECONDS), httpx.AsyncClient() as client:
            while not await self._ready(client):
                if self._process.returncode is not None:
                    raise LoadFailed(self.log.read_text(errors="replace")[-2000:])
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """End it, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _ready(self, client: httpx.AsyncClient) -> bool:
        try:
            return (await client.get(f"http://127.0.0.1:{self.target.port}/readyz")).status_code == _OK
        except httpx.TransportError:
            return False


@dataclass(slots=True, kw_only=True)
class Fleet:
    """Replicas on one database. ``url``: where it is; ``folder``: their logs."""

    graph: str
    folder: Path
    url: str
    env: Mapping[str, str]
    pinned: bool
    replicas: list[Replica] = field(default_factory=list[Replica])

    async def add(self, role: Role) -> Replica:
        """One more, ready."""
        replica = Replica(role, self.graph, self.folder / str(len(self.replicas)), self.env)
        self.replicas.append(replica)
        with measured_core() if self.pinned else nullcontext():
            await replica.start()
        return replica


@asynccontextmanager
async def fleet(
    graph: str,
    folder: Path,
    shared: Stores,
    *,
    slots: int,
    env: Mapping[str, str] | None = None,
    pinned: bool = True,
) -> AsyncGenerator[Fleet]:
    """One without replicas yet, on a new database. ``graph``: as ``scripted.py:instant``, of ``graphs``. ``pinned``:
    to the measured core.
    """
    url = shared.postgres.create()
    settings = {
        "ROADWORTHY_DATABASE_URL": url,
        "ROADWORTHY_REDIS_URL": shared.valkey.url,
        "ROADWORTHY_AUTO_MIGRATE": "true",
        "ROADWORTHY_KEY_PEPPER": "of no worth, in benchmarks",
        "ROADWORTHY_ADMIN_KEY": ADMIN_KEY,
        "ROADWORTHY_LOG_FORMAT": "json",
        "MAX_CONCURRENT_REQUESTS": str(slots),
        **(env or {}),
    }
    made = Fleet(graph=graph, folder=folder, url=url, env=settings, pinned=pinned)
    try:
        yield made
    finally:
        for replica in made.replicas:
            await replica.kill()


def cpu_seconds(process: psutil.Process) -> float:
    """Of a process, of its children, and of those that have ended."""
    times = process.cpu_times()
    own = times.user + times.system
    if sys.platform == "linux":
        own += times.children_user + times.children_system
    return own + sum(sum(child.cpu_times()[:2]) for child in process.children(recursive=True))
