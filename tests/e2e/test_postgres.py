"""The shipped program on a real Postgres: started, asked, administered beside a server, restarted."""

import asyncio
import json
import re
import signal
from collections.abc import Generator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psycopg
import pytest

from roadworthy.domain.ids import TenantId, UserId
from roadworthy.domain.principal import Owner
from roadworthy.http.readiness import FRESH_SECONDS
from roadworthy.runtimes.langgraph.keys import store_prefix
from roadworthy.storage.schema import REVISIONS
from tests.e2e.command import AGENTS, greeting, run, serving, starting
from tests.support.postgres import PostgresServer, name_of, postgres_server, start, stop
from tests.support.server import ADMIN_KEY, free_port
from tests.support.valkey import ValkeyServer, valkey_server

TARGET = f"{AGENTS}:waiting"
ANN = Owner(tenant=TenantId("default"), user=UserId("ann"))
PEPPER = "the-pepper-of-the-test"


@pytest.fixture(scope="module")
def postgres() -> Generator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def valkey() -> Generator[ValkeyServer]:
    with valkey_server() as server:
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
    code, out, err = await run(tmp_path, "doctor", TARGET, env=env)
    assert (code, "run `roadworthy migrate`" in out) == (1, True)
    code, out, err = await run(tmp_path, "migrate", env=env)
    assert (code, err) == (0, "")
    assert f"went from nothing to the schema {REVISIONS[-1]}" in out
    code, out, err = await run(tmp_path, "migrate", env=env)
    assert (code, err) == (0, "")
    assert f"has the schema {REVISIONS[-1]}: nothing to do" in out
    code, out, err = await run(tmp_path, "keys", "list", env=env)
    assert code == 0, err
    assert not (tmp_path / ".roadworthy").exists()
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
        seen: set[str] = set()
        for server in servers:
            async with server.client(printed[0]) as client:
                assert (await client.get("/readyz")).status_code == 200
                answer = await client.post("/agent/invoke", json={"message": "hello", "thread_id": server.folder.name})
                assert answer.json()["response"] == "hello to you"
                seen |= {one["thread_id"] for one in (await client.get("/agent/threads")).json()["threads"]}
        assert seen == {"one", "two"}
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
        async with server.client(server.first_key) as client, asyncio.TaskGroup() as group:
            running = group.create_task(client.post("/agent/invoke", json={"message": "wait"}))
            while not (found := json.loads(await cli("runs", "list", "--status", "running", "--json"))):
                pass
            await cli("runs", "cancel", found[0]["run_id"])
        assert running.result().status_code == 409
        assert {one["status"] for one in json.loads(await cli("runs", "list", "--json"))} == {"success", "cancelled"}
        assert answer.json()["run_id"] in await cli("runs", "show", answer.json()["run_id"])
        await cli("budgets", "set", "--scope", "user", "--subject", "ann", "--window", "day", "--limit", "1")
        await cli("rates", "set", "--scope", "user", "--subject", "ann", "--kind", "requests", "--limit", "100")
        assert "ann" in await cli("budgets", "list")
        assert "ann" in await cli("rates", "list")
        await cli("usage")
        assert "key.create" in await cli("audit")
        with psycopg.connect(url) as connection:
            prefix = ".".join((*store_prefix(ANN, shared_by_tenant=False), "notes"))
            connection.execute(
                "INSERT INTO store (prefix, key, value) VALUES (%s, 'k', '{\"tree\": \"oak\"}')", (prefix,)
            )
        exported = [json.loads(line) for line in (await cli("users", "export", "ann")).splitlines()]
        assert any(one.get("thread_id") == "t" for one in exported)
        items = [one for one in exported if one.get("key") == "k"]
        assert [(one["namespace"], one["value"]) for one in items] == [(["notes"], {"tree": "oak"})]
        assert "verdict: ok" in await cli("doctor", TARGET)
        code, out, err = await run(tmp_path, "users", "erase", "ann", "--yes", env=env)
        assert (code, out) == (2, "")
        assert "/admin/users/ann" in err


async def test_who_may_make_no_tables_serves_what_the_owner_has_migrated(
    tmp_path: Path, url: str, valkey: ValkeyServer
) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS clerk")
        connection.execute("CREATE ROLE clerk LOGIN")
    clerk = environment(url.replace("postgres@", "clerk@"), ROADWORTHY_REDIS_URL=valkey.url)
    try:
        code, out, err = await run(tmp_path, "migrate", env=environment(url))
        assert (code, err) == (0, "")
        assert "the tables of agents' state are there" in out
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO clerk")
            connection.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO clerk")
        found = await _findings(tmp_path, clerk)
        assert (found["agents' state"], found["redis"]) == (("ok", "its tables are there"), ("ok", "it answers"))
        async with serving(tmp_path, TARGET, env=clerk) as server, server.client(server.first_key) as client:
            answer = await client.post("/agent/invoke", json={"message": "hello", "thread_id": "t"})
            assert (answer.status_code, answer.json()["response"]) == (200, "hello to you"), answer.text
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP TABLE journal")
        dead = {**clerk, "ROADWORTHY_REDIS_URL": f"redis://:hidden-word@127.0.0.1:{free_port()}/0"}
        found = await _findings(tmp_path, dead)
        assert found["agents' state"] == ("warn", "its tables are missing")
        assert found["redis"] == ("warn", "Redis cannot be used at the moment")
        code, out, err = await run(tmp_path, "doctor", TARGET, env=dead)
        assert "hidden-word" not in out + err
        code, out, err = await run(tmp_path, "serve", TARGET, env=clerk)
        assert (code, "run `roadworthy migrate` as a role that may" in err) == (2, True), err
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP OWNED BY clerk")
            connection.execute("DROP ROLE clerk")


async def test_an_older_version_goes_on_while_a_later_one_adds_to_the_schema(tmp_path: Path, url: str) -> None:
    """What revisions that expand do, done by hand: this code knows nothing of it."""
    env = environment(url, ROADWORTHY_AUTO_MIGRATE="true", ROADWORTHY_ADMIN_KEY=ADMIN_KEY)
    later = f"9999_since_{REVISIONS[-1]}"
    async with serving(tmp_path, TARGET, env=env) as server, server.client(ADMIN_KEY) as client:
        answers: list[httpx.Response] = []
        migrated = asyncio.Event()

        async def ask() -> None:
            while not migrated.is_set() or len(answers) < 20:
                body = {"message": "hello", "thread_id": f"t{len(answers) % 3}"}
                answers.append(await client.post("/agent/invoke", json=body))

        async with asyncio.TaskGroup() as group:
            group.create_task(ask())
            await asyncio.to_thread(_expand, url, later)
            migrated.set()
        assert {answer.status_code for answer in answers} == {200}
        await asyncio.sleep(FRESH_SECONDS)
        assert (await client.get("/readyz")).status_code == 200
    # It also starts there, and leaves the schema as it is.
    async with serving(tmp_path, TARGET, env=env) as server, server.client(ADMIN_KEY) as client:
        assert (await client.post("/agent/invoke", json={"message": "hello"})).status_code == 200
    code, out, err = await run(tmp_path, "migrate", env=env)
    assert (code, f"has the schema {later}: nothing to do" in out) == (0, True), err


async def test_an_unknown_schema_makes_a_server_unready_and_keeps_the_next_from_opening(
    tmp_path: Path, url: str
) -> None:
    env = environment(url, ROADWORTHY_AUTO_MIGRATE="true", ROADWORTHY_ADMIN_KEY=ADMIN_KEY)
    async with serving(tmp_path, TARGET, env=env) as server, server.client(ADMIN_KEY) as client:
        assert (await client.get("/readyz")).status_code == 200
        _revise(url, "9999")
        trouble = (await _until(client, "/readyz", 503)).json()["problems"]
        assert [(one["name"], "9999" in one["detail"]) for one in trouble] == [("database", True)]
    port = free_port()
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
        starting(tmp_path, TARGET, port=port, env=env) as process,
    ):
        await _until(client, "/livez", 200)
        trouble = (await _until(client, "/readyz", 503)).json()["problems"]
        assert [(one["name"], "9999" in one["detail"]) for one in trouble] == [("database", True)]
        _revise(url, REVISIONS[-1])
        await greeting(process, tmp_path)
        await _until(client, "/readyz", 200)
    _revise(url, "9999")
    code, out, err = await run(tmp_path, "migrate", env=env)
    assert (code, out) == (2, "")
    assert "has the schema 9999, which this version does not know" in err


@pytest.mark.timeout(120)
async def test_a_database_that_is_down_at_the_start_is_waited_for_and_its_password_is_never_shown(
    tmp_path: Path,
) -> None:
    port = free_port()
    with postgres_server() as postgres:
        secret = "s3cret%40passw0rd"
        url = postgres.create().replace("postgres@", f"postgres:{secret}@")
        env = environment(url, ROADWORTHY_AUTO_MIGRATE="true", ROADWORTHY_LOG_LEVEL="debug", PGPASSWORD="an0ther-one")
        stop(postgres)
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
            starting(tmp_path, TARGET, port=port, env=env) as process,
        ):
            await _until(client, "/livez", 200)
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["problems"][0]["name"]) == (503, "database")
            refused = await client.post("/agent/invoke", json={"message": "hello"})
            assert (refused.status_code, refused.json()["code"]) == (503, "storage")
            assert int(refused.headers["retry-after"]) > 0
            down = await run(tmp_path, "doctor", TARGET, env=env)
            listing = await run(tmp_path, "keys", "list", env=env)
            postgres.process = start(postgres.folder).process
            lines = await greeting(process, tmp_path)
            await _until(client, "/readyz", 200)
            client.headers["Authorization"] = f"Bearer {next(line for line in lines if line.startswith('rw_'))}"
            answer = await client.post("/agent/invoke", json={"message": "hello"})
            assert answer.json()["response"] == "hello to you"
            up = await run(tmp_path, "doctor", TARGET, env=env)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                assert await process.wait() == 0
    log = (tmp_path / "stderr").read_text()
    assert "Traceback" not in log
    assert "waiting_for_database" in log
    assert (down[0], listing[0], up[0]) == (1, 1, 0)
    assert "the database cannot be used at the moment" in down[1]
    assert re.search(r"\(Postgres \d+\.\d+\) has a schema of this version", up[1])
    for text in (log, *down[1:], *listing[1:], *up[1:], "\n".join(lines), ready.text, refused.text):
        for hidden in (secret, "s3cret@passw0rd", "an0ther-one"):
            assert hidden not in text


async def test_a_missing_driver_and_wrong_addresses_are_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "none" / "psycopg").mkdir(parents=True)
    (tmp_path / "none" / "psycopg" / "__init__.py").write_text("raise ImportError('no psycopg here')")
    for env, said in (
        (environment("postgresql://u@h/d", PYTHONPATH=str(tmp_path / "none")), "pip install 'roadworthy[cluster]'"),
        (environment("mysql://u:hidden-word@h/d"), "must begin with postgresql:// or postgres://"),
        (environment("postgresql+asyncpg://u:hidden-word@h/d"), "without the name of a driver such as +asyncpg"),
        (environment("postgresql://u:hidden-%word@h/d"), "percent-encoded"),
        (environment("postgresql://u:hidden-word@h/d", ROADWORTHY_KEY_PEPPER=""), "needs ROADWORTHY_KEY_PEPPER"),
    ):
        code, out, err = await run(tmp_path, "keys", "list", env=env)
        assert (code, out) == (2, ""), err
        assert said in err
        assert "hidden" not in err
        assert "Traceback" not in err
        code, out, err = await run(tmp_path, "doctor", env=env)
        assert (code, said.partition("'")[0] in " ".join(out.split())) == (1, True), out
        assert "hidden" not in out + err


async def _findings(folder: Path, env: dict[str, str]) -> dict[str, tuple[str, str]]:
    _, out, err = await run(folder, "doctor", TARGET, "--json", env=env)
    assert "Traceback" not in err
    return {one["check"]: (one["verdict"], one["detail"]) for one in json.loads(out)["checks"]}


async def _until(client: httpx.AsyncClient, path: str, status: int) -> httpx.Response:
    async with asyncio.timeout(60):
        while True:
            try:
                answer = await client.get(path)
            except httpx.ConnectError:
                continue
            if answer.status_code == status:
                return answer


def _expand(url: str, revision: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for number, table in enumerate(("runs", "threads", "events", "idempotency", "model_calls")):
            connection.execute(f"ALTER TABLE {table} ADD COLUMN later TEXT".encode())
            connection.execute(f"CREATE TABLE later_{number} (n BIGINT PRIMARY KEY)".encode())
        connection.execute("CREATE INDEX CONCURRENTLY runs_later ON runs (later)")
    _revise(url, revision)


def _revise(url: str, revision: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = %s", (revision,))
