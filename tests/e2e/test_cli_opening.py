"""`roadworthy serve` while its database cannot be opened: alive, not ready, no crash loop."""

import asyncio
import signal
import socket
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.command import AGENTS, greeting, run, starting

TARGET = f"{AGENTS}:waiting"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _locked(file: Path) -> Generator[sqlite3.Connection]:
    """The database, for us alone until a ROLLBACK."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield other


async def _until(client: httpx.AsyncClient, path: str, status: int) -> httpx.Response:
    async with asyncio.timeout(60):
        while True:
            try:
                answer = await client.get(path)
            except httpx.ConnectError:
                continue
            if answer.status_code == status:
                return answer


async def _gave_up_once(log: Path) -> None:
    async with asyncio.timeout(60):
        while "waiting_for_database" not in await asyncio.to_thread(log.read_text):
            pass


async def test_a_locked_database_is_waited_for_alive_and_not_ready(tmp_path: Path) -> None:
    code, _, _ = await run(tmp_path, "keys", "list")  # makes the database
    assert code == 0
    port = _free_port()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        with _locked(tmp_path / ".roadworthy" / "roadworthy.db") as other:
            async with starting(tmp_path, TARGET, port=port) as process:
                await _until(client, "/livez", 200)
                ready = await client.get("/readyz")
                assert (ready.status_code, ready.json()["problems"][0]["name"]) == (503, "database")
                refused = await client.post("/agent/invoke", json={"message": "hello"})
                assert (refused.status_code, refused.json()["code"]) == (503, "storage")
                assert int(refused.headers["retry-after"]) > 0
                assert refused.json()["request_id"] == refused.headers["x-request-id"]
                await _gave_up_once(tmp_path / "stderr")
                other.execute("ROLLBACK")
                lines = await greeting(process, tmp_path)
                assert f"on http://127.0.0.1:{port}" in "\n".join(lines)
                await _until(client, "/readyz", 200)
                client.headers["Authorization"] = f"Bearer {next(line for line in lines if line.startswith('rw_'))}"
                answer = await client.post("/agent/invoke", json={"message": "hello"})
                assert answer.json()["response"] == "hello to you"
                process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(60):
                    assert await process.wait() == 0


@pytest.mark.parametrize("file", ["roadworthy.db", "checkpoints.sqlite", "store.sqlite"])
async def test_a_signal_while_it_waits_is_a_clean_end(tmp_path: Path, file: str) -> None:
    """Of a folder with empty files, whose databases are still to be made."""
    (tmp_path / ".roadworthy").mkdir()
    port = _free_port()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        with _locked(tmp_path / ".roadworthy" / file):
            async with starting(tmp_path, TARGET, port=port) as process:
                await _until(client, "/livez", 200)
                assert (await client.get("/readyz")).status_code == 503
                process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(30):
                    assert await process.wait() == 0
    assert "Traceback" not in (tmp_path / "stderr").read_text()
