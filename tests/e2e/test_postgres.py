"""The shipped program on a real Postgres: started, asked, administered beside a server, restarted."""

import asyncio
import json
from collections.abc import Generator
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest

from roadworthy.storage.schema import REVISIONS
from tests.e2e.command import AGENTS, run, serving
from tests.support.postgres import PostgresServer, name_of, postgres_server

TARGET = f"{AGENTS}:waiting"
PEPPER = "the-pepper-of-the-test"


@pytest.fixture(scope="module")
def postgres() -> Generator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def url(postgres: PostgresServer) -> Generator[str]:
    """An empty database of the test's own."""
    url = postgres.create()
    yield url
    postgres.drop(url)


def environment(url: str, **more: str) -> dict[str, str]:
    return {"ROADWORTHY_DATABASE_URL": url, "ROADWORTHY_KEY_PEPPER": PEPPER, "ROADWORTHY_LOG_FORMAT": "json", **more}


async def test_a_server_on_an_empty_database_answers_once_it_is_migrated(tmp_path: Path, url: str) -> None:
    env = environment(url)
    code, out, err = await run(tmp_path, "serve", TARGET, env=env)
    assert (code, out) == (2, "")
    assert f"{name_of(url)} at " in err
    assert "is empty: run `roadworthy migrate`, or let ROADWORTHY_AUTO_MIGRATE=true do it" in err
    code, out, err = await run(tmp_path, "migrate", env=env)
    assert (code, err) == (0, "")
    assert f"went from nothing to the schema {REVISIONS[-1]}" in out
    code, out, err = await run(tmp_path, "migrate", env=env)
    assert (code, err) == (0, "")
    assert f"has the schema {REVISIONS[-1]}: nothing to do" in out
    async with serving(tmp_path, TARGET, env=env) as server, server.client(server.first_key) as client:
        answer = await client.post("/agent/invoke", json={"message": "hello", "thread_id": "t"})
        assert (answer.status_code, answer.json()["response"]) == (200, "hello to you"), answer.text
        assert await server.stop() == 0
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT status FROM runs").fetchall() == [("success",)]
    assert not (tmp_path / ".roadworthy" / "roadworthy.db").exists()


async def test_servers_that_start_at_once_on_an_empty_database_make_one_admin_key(tmp_path: Path, url: str) -> None:
    env = environment(url, ROADWORTHY_AUTO_MIGRATE="true")
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    async with AsyncExitStack() as stack:
        servers = await asyncio.gather(
            *(stack.enter_async_context(serving(folder, TARGET, env=env)) for folder in folders)
        )
        printed = [line for server in servers for line in server.lines if line.startswith("rw_live_")]
        assert len(printed) == 1
        for server in servers:
            async with server.client(printed[0]) as client:
                assert (await client.get("/readyz")).status_code == 200
                answer = await client.post("/agent/invoke", json={"message": "hello", "thread_id": server.folder.name})
                assert answer.json()["response"] == "hello to you"
                listed = (await client.get("/agent/threads")).json()["threads"]
        assert {thread["thread_id"] for thread in listed} == {"one", "two"}
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM api_keys").fetchone() == (1,)


@pytest.mark.timeout(240)
async def test_the_command_line_works_beside_a_server(tmp_path: Path, url: str) -> None:
    env = environment(url, ROADWORTHY_AUTO_MIGRATE="true")
    async with serving(tmp_path, TARGET, env=env) as server:

        async def cli(*args: str) -> str:
            code, out, err = await run(tmp_path, *args, env=env)
            assert code == 0, err
            return out

        key = (await cli("keys", "create", "--user", "ann")).strip()
        async with server.client(key) as client:
            answer = await client.post("/agent/invoke", json={"message": "hello", "thread_id": "t"})
            assert answer.status_code == 200, answer.text
        async with server.client(server.first_key) as client:
            running = asyncio.create_task(client.post("/agent/invoke", json={"message": "wait"}))
            while not (pending := json.loads(await cli("runs", "list", "--status", "running", "--json"))):
                await asyncio.sleep(0)
            await cli("runs", "cancel", pending[0]["run_id"])
            assert (await running).status_code == 409
        assert {one["status"] for one in json.loads(await cli("runs", "list", "--json"))} == {"success", "cancelled"}
        assert answer.json()["run_id"] in await cli("runs", "show", answer.json()["run_id"])
        await cli("budgets", "set", "--scope", "user", "--subject", "ann", "--window", "day", "--limit", "1")
        await cli("rates", "set", "--scope", "user", "--subject", "ann", "--kind", "requests", "--limit", "100")
        assert "ann" in await cli("budgets", "list")
        assert "ann" in await cli("rates", "list")
        await cli("usage")
        assert "key.create" in await cli("audit")
        assert '"thread_id":"t"' in (await cli("users", "export", "ann")).replace(" ", "")
        assert "verdict: ok" in await cli("doctor", TARGET)
