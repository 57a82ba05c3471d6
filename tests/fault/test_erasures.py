"""Kill -9 while a thread is erased: the next start finishes it."""

import asyncio
import sqlite3
import sys
from contextlib import closing

from tests.support.rig import Rig
from tests.support.server import ROOT

AGO = 40 * 86_400 * 1_000_000


async def test_a_kill_between_rows_and_checkpoints_is_finished_at_the_next_start(rig: Rig) -> None:
    server = await rig.serve()
    async with server.client() as client:
        for thread in ("old", "young"):
            body = {"message": "say: hello there", "thread_id": thread}
            assert (await client.post("/agent/invoke", json=body)).status_code == 200
    await server.kill()
    with closing(sqlite3.connect(server.database)) as connection, connection:
        connection.execute("UPDATE threads SET updated_at = updated_at - ? WHERE thread_id = 'old'", (AGO,))

    command = [sys.executable, "-m", "tests.support.erasing", str(server.data)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    async with asyncio.timeout(60):
        assert await process.wait() == -9

    assert threads_with_runs(server.database) == {"young"}
    assert threads_with_checkpoints(rig) == {"old", "young"}
    await server.start()
    assert threads_with_checkpoints(rig) == {"young"}
    async with server.client() as client:
        assert (await client.get("/agent/threads/old")).status_code == 404
        (thread,) = (await client.get("/agent/threads")).json()["threads"]
        assert thread["thread_id"] == "young"
        # The name is free again, for a thread that remembers nothing.
        body = {"message": "say: hello again", "thread_id": "old"}
        assert (await client.post("/agent/invoke", json=body)).status_code == 200
        messages = (await client.get("/agent/threads/old")).json()["messages"]
    assert len(messages) == 2


def threads_with_runs(database: object) -> set[str]:
    with closing(sqlite3.connect(str(database))) as connection:
        return {name for (name,) in connection.execute("SELECT thread_id FROM runs")}


def threads_with_checkpoints(rig: Rig) -> set[str]:
    with closing(sqlite3.connect(rig.server.data / "checkpoints.sqlite")) as connection:
        keys = connection.execute("SELECT DISTINCT thread_id FROM checkpoints")
        return {key.rpartition("/")[2] for (key,) in keys}
