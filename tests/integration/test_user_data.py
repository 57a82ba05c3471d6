"""Export and erasure over HTTP, on the real application with LangGraph's own files."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph.store.base import BaseStore
from typing_extensions import TypedDict

from roadworthy.domain.ids import AgentName, TenantId, UserId
from roadworthy.domain.principal import Owner, Scope
from roadworthy.protocols.admin import wire
from roadworthy.runtimes.langgraph.registry import LoadedAgent
from tests.support.web.admin import client_of, code_of, new_key
from tests.support.web.real import Real, real_app

ALICE = Owner(tenant=TenantId("default"), user=UserId("alice"))


class Fact(TypedDict):
    """Something to remember."""

    fact: str


def _remembering() -> LoadedAgent:
    async def remember(state: Fact, *, store: BaseStore) -> dict[str, Any]:
        await store.aput(("facts",), state["fact"], {"text": state["fact"]})
        return {}

    graph = StateGraph(Fact).add_node("remember", remember).add_edge(START, "remember").compile()
    return LoadedAgent(name=AgentName("remembering"), graph=graph)


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Real]:
    async with real_app(tmp_path, more=[_remembering()]) as real:
        yield real


@pytest.fixture
async def admin(real: Real) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(real, await new_key(real, Scope.ADMIN)) as client:
        yield client


async def furnish(real: Real) -> None:
    for name, key in (("alice", real.alice), ("bob", real.bob)):
        async with client_of(real, key) as client:
            body = {"message": f"a word of {name}", "thread_id": "talk", "agent": "echo"}
            assert (await client.post("/agent/invoke", json=body)).status_code == 200
            body = {"input": {"fact": f"fact of {name}"}, "thread_id": "facts", "agent": "remembering"}
            assert (await client.post("/agent/invoke", json=body)).status_code == 200


async def exported(admin: httpx.AsyncClient, user: str = "alice") -> list[dict[str, Any]]:
    answer = await admin.get(f"/admin/users/{user}/export")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/jsonl")
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_an_export_has_messages_states_and_items(real: Real, admin: httpx.AsyncClient) -> None:
    await furnish(real)
    begin, *parts, end = await exported(admin)
    assert (begin["kind"], begin["states"], end["kind"]) == ("export", True, "end")
    threads = {part["thread_id"]: part for part in parts if part["kind"] == "thread"}
    assert [one["content"] for one in threads["talk"]["messages"]] == [
        "a word of alice",
        "you said: a word of alice",
    ]
    assert threads["facts"]["values"] == {"fact": "fact of alice"}
    assert [(part["namespace"], part["value"]) for part in parts if part["kind"] == "item"] == [
        (["facts"], {"text": "fact of alice"})
    ]
    assert "bob" not in str(parts)
    assert real.alice not in str(parts)


async def test_an_erased_user_is_gone_and_nobody_else(real: Real, admin: httpx.AsyncClient) -> None:
    await furnish(real)
    answer = await admin.delete("/admin/users/alice")
    assert answer.status_code == 200
    erased = wire.ErasedUser.model_validate_json(answer.content)
    assert erased == wire.ErasedUser(threads=2, runs=2, items=1, keys=1)
    async with client_of(real, real.alice) as client:
        assert code_of(await client.get("/agent/threads")) == (401, "unauthenticated")
    runtime = real.container.runtime
    assert list(await runtime.export_items(ALICE)) == []
    *_, end = await exported(admin)
    assert (end["counts"]["threads"], end["counts"]["runs"], end["counts"]["items"]) == (0, 0, 0)
    async with client_of(real, real.bob) as client:
        assert len((await client.get("/agent/threads")).json()["threads"]) == 2
    *_, end = await exported(admin, "bob")
    assert (end["counts"]["threads"], end["counts"]["items"]) == (2, 1)
    answer = await admin.delete("/admin/users/alice")
    assert answer.json() == {"threads": 0, "runs": 0, "items": 0, "keys": 0}
    log = await admin.get("/admin/audit?limit=10")
    entries = wire.AuditPage.model_validate_json(log.content).entries
    assert {"user.erase", "user.erased", "user.export"} <= {entry.action for entry in entries}
    assert {entry.target for entry in entries if entry.action.startswith("user.")} == {"alice", "bob"}


async def test_a_run_under_way_is_stopped_before_its_user_is_erased(real: Real, admin: httpx.AsyncClient) -> None:
    async with client_of(real, real.alice) as client, asyncio.timeout(20):
        body = {"message": "wait", "agent": "held", "on_disconnect": "continue"}
        async with asyncio.TaskGroup() as group:
            group.create_task(client.post("/agent/invoke", json=body))
            await real.gate.entered.wait()
            answer = await admin.delete("/admin/users/alice")
    assert answer.json() == {"threads": 1, "runs": 1, "items": 0, "keys": 1}
    assert real.gate.cancelled.is_set()


async def test_another_tenant_s_user_of_the_same_name_is_not_touched(real: Real) -> None:
    await furnish(real)
    async with client_of(real, await new_key(real, Scope.ADMIN, tenant="other")) as stranger:
        assert len(await exported(stranger)) == 2
        answer = await stranger.delete("/admin/users/alice")
        assert answer.json() == {"threads": 0, "runs": 0, "items": 0, "keys": 0}
    async with client_of(real, real.alice) as client:
        assert len((await client.get("/agent/threads")).json()["threads"]) == 2


async def test_the_key_in_use_cannot_be_erased_with_its_user(admin: httpx.AsyncClient) -> None:
    assert code_of(await admin.delete("/admin/users/ops")) == (409, "conflict")
    assert (await admin.get("/admin/users/ops/export")).status_code == 200


async def test_a_name_that_is_none_is_refused(admin: httpx.AsyncClient) -> None:
    for name in ("a b", "x" * 129, "%00"):
        assert code_of(await admin.delete(f"/admin/users/{name}"))[0] == 422
        assert code_of(await admin.get(f"/admin/users/{name}/export"))[0] == 422
