"""The API and the workers as processes apart, on one Postgres: the shipped commands and nothing else."""

import asyncio
import json
import os
import re
import signal
import socket
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import tuple_row

from tests.e2e.command import AGENTS, COMMAND, environment, run, serving
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.server import ADMIN_KEY, free_port
from tests.support.transcript import stream

TARGET = f"{AGENTS}:waiting"


@pytest.fixture(scope="module")
def postgres() -> Generator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def env(postgres: PostgresServer) -> Generator[dict[str, str]]:
    """Settings that the API and the workers share, with an empty database of the test's own."""
    url = postgres.create()
    yield {
        "ROADWORTHY_DATABASE_URL": url,
        "ROADWORTHY_KEY_PEPPER": "the-pepper-of-the-test",
        "ROADWORTHY_AUTO_MIGRATE": "true",
        "ROADWORTHY_ADMIN_KEY": ADMIN_KEY,
        "ROADWORTHY_LOG_FORMAT": "json",
    }
    postgres.drop(url)


@dataclass(slots=True)
class Working:
    """A started `roadworthy worker`. All its processes write to one log."""

    process: asyncio.subprocess.Process
    log_file: Path
    env: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def working(self) -> list[dict[str, Any]]:
        """What each process said when it began, in that order."""
        records = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [record for record in records if record["event"] == "working"]

    async def begun(self, count: int = 1) -> list[dict[str, Any]]:
        """Once so many processes have begun."""
        async with asyncio.timeout(90):
            while len(found := self.working()) < count:
                assert self.process.returncode is None, self.log
                await asyncio.sleep(0.02)
        return found

    def children(self) -> list[int]:
        """Processes of which it is the parent, by their ids."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            return await self.process.wait()


@asynccontextmanager
async def working(folder: Path, *args: str, env: Mapping[str, str]) -> AsyncGenerator[Working]:
    """`roadworthy worker ARGS`. Killed in the end, and its children with it."""
    folder.mkdir()
    file = folder / "stderr"
    with file.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            str(COMMAND),
            "worker",
            *args,
            stdout=log,
            stderr=log,
            stdin=asyncio.subprocess.DEVNULL,
            env=environment(folder, env),
            cwd=folder,
        )
    worker = Working(process, file)
    try:
        yield worker
    finally:
        if process.returncode is None:
            for pid in worker.children():
                os.kill(pid, signal.SIGKILL)
            process.kill()
            await process.wait()


async def test_a_server_without_a_worker_accepts_and_a_worker_executes(tmp_path: Path, env: dict[str, str]) -> None:
    async with serving(tmp_path, TARGET, "--no-worker", env=env) as server, server.client(ADMIN_KEY) as client:
        assert (await client.get("/readyz")).status_code == 200
        early = await begin(client, "hello")
        assert attempts(env, early) == ("pending", 0)
        async with working(tmp_path / "worker", TARGET, env=env) as worker:
            ((first, *_), invoked) = await asyncio.gather(
                worker.begun(), client.post("/agent/invoke", json={"message": "hello"})
            )
            assert (invoked.status_code, invoked.json()["response"]) == (200, "hello to you"), invoked.text
            assert await until_final(client, early) == "success"
            transcript = await stream(client, {"message": "hello"})
            assert transcript.done is not None
            assert transcript.done["status"] == "success"
            await probe(f"http://{first['host']}:{first['port']}")
            assert await worker.stop() == 0
        assert attempts(env, await begin(client, "hello")) == ("pending", 0)
        assert await server.stop() == 0
    assert "Traceback" not in server.log + worker.log


async def test_a_cancel_reaches_the_worker_and_a_drained_worker_leaves_its_runs_to_another(
    tmp_path: Path, env: dict[str, str]
) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path, TARGET, "--no-worker", env=env))
        client = await stack.enter_async_context(server.client(ADMIN_KEY))
        first = await stack.enter_async_context(working(tmp_path / "first", TARGET, env=env))
        await first.begun()
        run_id = await begin(client, "wait")
        await until_status(client, run_id, "running")
        second = await stack.enter_async_context(working(tmp_path / "second", TARGET, env=env))
        await second.begun()
        assert await first.stop() == 0
        async with asyncio.timeout(30):
            while attempts(env, run_id) != ("running", 2):  # noqa: ASYNC110 -- another process
                await asyncio.sleep(0.02)
        await client.post(f"/agent/runs/{run_id}/cancel")
        assert await until_final(client, run_id) == "cancelled"
        assert await second.stop() == 0
        assert await server.stop() == 0
        assert "Traceback" not in server.log + first.log + second.log


async def test_a_parent_keeps_several_processes_and_ends_them_all(tmp_path: Path, env: dict[str, str]) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path, TARGET, "--no-worker", env=env))
        client = await stack.enter_async_context(server.client(ADMIN_KEY))
        worker = await stack.enter_async_context(working(tmp_path / "worker", TARGET, "--processes", "2", env=env))
        for one in await worker.begun(2):
            await probe(f"http://{one['host']}:{one['port']}")
        ports = {one["port"] for one in worker.working()}
        assert len(ports) == 2
        killed, other = worker.children()
        os.kill(killed, signal.SIGKILL)
        again = (await worker.begun(3))[2]
        await probe(f"http://{again['host']}:{again['port']}")
        children = set(worker.children())
        assert (len(children), killed in children, other in children) == (2, False, True)
        answers = await asyncio.gather(*(client.post("/agent/invoke", json={"message": "hello"}) for _ in range(8)))
        assert {answer.status_code for answer in answers} == {200}
        assert await worker.stop() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)
        assert await server.stop() == 0


async def test_the_processes_of_a_parent_take_the_ports_from_the_first_on(tmp_path: Path, env: dict[str, str]) -> None:
    port = free_ports(2)
    async with working(tmp_path / "worker", TARGET, "--processes", "2", "--port", str(port), env=env) as worker:
        assert {one["port"] for one in await worker.begun(2)} == {port, port + 1}
        assert await worker.stop() == 0


async def test_what_cannot_work_is_one_readable_error(tmp_path: Path, env: dict[str, str]) -> None:
    alone: dict[str, str] = {}
    shared_port = {**env, "ROADWORTHY_METRICS_PORT": "9"}
    for args, given, said in (
        (("serve", TARGET, "--no-worker", "--port", "0"), alone, "a server that executes nothing needs workers beside"),
        (("worker", TARGET), alone, "a worker shares a Postgres with the servers that accept runs"),
        (("worker", TARGET, "--processes", "2"), alone, "a worker shares a Postgres with the servers that accept runs"),
        (("worker", TARGET, "--processes", "2"), shared_port, "several processes cannot share ROADWORTHY_METRICS_PORT"),
        (("worker", "missing.py:graph"), env, "missing.py"),
        (("worker", "missing.py:graph", "--processes", "2"), env, "missing.py"),
    ):
        code, out, err = await run(tmp_path, *args, env=given)
        assert (code, out) == (2, ""), (args, err)
        assert said in err, (args, err)
        assert "Traceback" not in err
        if given is alone:
            assert "ROADWORTHY_DATABASE_URL" in err
            assert len(err.strip().splitlines()) == 1, err


async def probe(url: str) -> None:
    """A worker answers probes and tells its numbers; it serves no agents."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        assert (await client.get("/livez")).json() == {"status": "alive"}
        assert (await client.get("/health")).json()["status"] == "healthy"
        async with asyncio.timeout(10):
            while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110 -- another process
                await asyncio.sleep(0.05)
        numbers = await client.get("/metrics", headers={"x-api-key": ADMIN_KEY})
        assert numbers.status_code == 200, numbers.text
        assert re.search(r"^roadworthy_slots\S* \d", numbers.text, re.MULTILINE), numbers.text
        assert (await client.get("/metrics")).status_code == 401
        for path in ("/agent/threads", "/agent/runs", "/admin/budgets"):
            assert (await client.get(path, headers={"x-api-key": ADMIN_KEY})).status_code == 404


async def begin(client: httpx.AsyncClient, message: str) -> str:
    """A run that nobody follows; its id."""
    body = {"message": message, "on_disconnect": "continue"}
    async with client.stream("POST", "/agent/stream", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                return str(json.loads(line[5:])["run_id"])
    raise AssertionError("the stream ended without a run")


async def until_status(client: httpx.AsyncClient, run_id: str, *wanted: str) -> str:
    async with asyncio.timeout(60):
        while True:
            status = str((await client.get(f"/agent/runs/{run_id}")).json()["status"])
            if status in wanted:
                return status
            await asyncio.sleep(0.02)


async def until_final(client: httpx.AsyncClient, run_id: str) -> str:
    return await until_status(client, run_id, "success", "error", "timeout", "cancelled")


def attempts(env: Mapping[str, str], run_id: str) -> tuple[str, int] | None:
    """A run's status and attempt as they are stored."""
    with psycopg.connect(env["ROADWORTHY_DATABASE_URL"], row_factory=tuple_row) as beside:
        return beside.execute("SELECT status, attempt FROM runs WHERE run_id = %s", (run_id,)).fetchone()


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens at."""
    while True:
        port = free_port()
        try:
            for number in range(port, port + count):
                socket.create_server(("127.0.0.1", number)).close()
        except OSError:
            continue
        return port
