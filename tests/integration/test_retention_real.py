"""The pruner over LangGraph's own checkpoints: a long thread stays as small as a short one and forgets no message."""

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from roadworthy.services.retention import Kept, Retention
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.retention import SqlRetention
from roadworthy.telemetry.clock import SystemClock
from tests.support.web.admin import client_of
from tests.support.web.real import Real, real_app

TURNS = 12


def retention_of(real: Real) -> Retention:
    container, clock = real.container, SystemClock()
    return Retention(
        store=SqlRetention(container.database),
        queue=SqlRunQueue(container.database, clock),
        threads=container.threads,
        runtime=container.runtime,
        clock=clock,
        kept=Kept(threads=None, events=None, idempotency=timedelta(days=1), checkpoints=2, outputs=3),
    )


def checkpoints(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "checkpoints.sqlite")) as connection:
        (count,) = connection.execute("SELECT count(*) FROM checkpoints").fetchone()
        return int(count)


async def test_a_long_thread_loses_old_checkpoints_and_outputs_and_no_message(tmp_path: Path) -> None:
    async with real_app(tmp_path) as real, client_of(real, real.alice) as client:
        retention = retention_of(real)
        left: list[int] = []
        runs: list[str] = []
        for turn in range(TURNS):
            body = {"message": f"turn {turn}", "thread_id": "t", "agent": "echo"}
            answer = await client.post("/agent/invoke", json=body)
            assert answer.status_code == 200, answer.text
            runs.append(answer.json()["run_id"])
            await retention.prune_once()
            left.append(checkpoints(tmp_path))
        # Flat: nothing is left of the turns before.
        assert left[2:] == [left[2]] * (TURNS - 2)
        messages = (await client.get("/agent/threads/t")).json()["messages"]
        assert [one["content"] for one in messages[::2]] == [f"turn {turn}" for turn in range(TURNS)]
        answers = [(await client.get(f"/agent/runs/{run_id}")).json() for run_id in runs]
        assert [answer["output"] is None for answer in answers] == [True] * (TURNS - 3) + [False] * 3
        assert [answer["response"] for answer in answers] == [f"you said: turn {turn}" for turn in range(TURNS)]


async def test_a_question_is_still_answered_after_a_pass(tmp_path: Path) -> None:
    async with real_app(tmp_path) as real, client_of(real, real.alice) as client:
        body = {"message": "go", "thread_id": "t", "agent": "asking"}
        asked = (await client.post("/agent/invoke", json=body)).json()
        assert asked["status"] == "interrupted"
        await retention_of(real).prune_once()
        answer = await client.post(f"/agent/runs/{asked['run_id']}/resume", json={"value": "yes"})
        assert answer.status_code < 300, answer.text
        run_id = answer.json()["run_id"]
        async with client.stream("GET", f"/agent/runs/{run_id}/stream") as stream:
            await stream.aread()
        assert (await client.get(f"/agent/runs/{run_id}")).json()["response"] == "answered: yes"
