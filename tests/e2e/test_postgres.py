"""The shipped program on a real Postgres: started, asked, administered beside a server, restarted."""

from collections.abc import Generator
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
