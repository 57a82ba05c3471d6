"""The pruner over LangGraph's own checkpoints: a long thread stays as small as a short one and forgets no message."""

import json
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import pytest
from langchain_core.messages import AIMessage
from langgraph.channels.last_value import LastValue
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph

from roadworthy.domain.ids import AgentName
from roadworthy.domain.principal import Scope
from roadworthy.runtimes.langgraph.registry import LoadedAgent
from roadworthy.services.retention import Kept, Retention
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.retention import SqlRetention
from roadworthy.telemetry.clock import SystemClock
from roadworthy.telemetry.run_log import RunLog
from tests.support.web.admin import client_of, new_key
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
        telemetry=RunLog(),
        kept=Kept(threads=None, events=None, idempotency=timedelta(0), checkpoints=2, outputs=3),
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


async def test_a_thread_whose_metadata_sqlite_cannot_read_does_not_keep_the_others(tmp_path: Path) -> None:
    not_json = _echo("nan").with_config(metadata={"t": float("nan")})
    more = [LoadedAgent(name=AgentName("nan"), graph=not_json)]
    async with real_app(tmp_path, more=more) as real, client_of(real, real.alice) as client:
        for agent, thread in (("nan", "bad"), ("echo", "good"), ("echo", "good"), ("echo", "good")):
            body = {"message": "hi", "thread_id": thread, "agent": agent}
            assert (await client.post("/agent/invoke", json=body)).status_code == 200
        pruned = await retention_of(real).prune_once()
        assert pruned.failed == 1
        assert pruned.checkpoints > 0


async def test_a_thread_whose_agent_cannot_read_it_is_exported_without_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = [LoadedAgent(name=AgentName("fickle"), graph=_fickle())]
    async with (
        real_app(tmp_path, more=more) as real,
        client_of(real, real.alice) as client,
        client_of(real, await new_key(real, Scope.ADMIN)) as admin,
    ):
        for agent, thread in (("echo", "a"), ("fickle", "b"), ("echo", "c")):
            body = {"message": "hi", "thread_id": thread, "agent": agent}
            assert (await client.post("/agent/invoke", json=body)).status_code == 200
        monkeypatch.setattr(_Fickle, "broken", True)
        lines = [json.loads(line) for line in (await admin.get("/admin/users/alice/export")).text.splitlines()]
        threads = {line["thread_id"]: line for line in lines if line["kind"] == "thread"}
        assert {name: thread["unreadable"] for name, thread in threads.items()} == {"a": False, "b": True, "c": False}
        assert [threads[name]["messages"] is None for name in "abc"] == [False, True, False]
        assert (lines[-1]["kind"], lines[-1]["counts"]["runs"]) == ("end", 3)
        assert (await client.get("/agent/threads/b")).json()["code"] == "agent_failed"


def _echo(text: str) -> CompiledStateGraph[MessagesState, None, MessagesState, MessagesState]:
    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(text)]}

    return StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer").compile()


class _Fickle(LastValue[str]):
    """A channel that cannot be read once it is ``broken``."""

    broken: ClassVar[bool] = False

    def from_checkpoint(self, checkpoint: Any) -> Self:
        """As LangGraph's own, or not."""
        if self.broken:
            raise KeyError("secret")
        return super().from_checkpoint(checkpoint)


class _Noted(MessagesState):
    """A state with such a channel."""

    note: Annotated[str, _Fickle(str)]


def _fickle() -> CompiledStateGraph[_Noted, None, _Noted, _Noted]:
    async def note(state: _Noted) -> dict[str, Any]:
        return {"note": "noted"}

    return StateGraph(_Noted).add_node("note", note).add_edge(START, "note").compile()
