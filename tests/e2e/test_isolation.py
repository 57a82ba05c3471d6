"""I6: no byte crosses users or tenants. Every route of the OpenAPI document is tried with a second user."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.provider.process import ProviderProcess
from tests.support.rig import Rig
from tests.support.transcript import stream


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncGenerator[Rig]:
    async with ProviderProcess() as provider, Rig(tmp_path, provider) as one:
        yield one


async def routes_with_ids(client: httpx.AsyncClient) -> list[tuple[str, str]]:
    """Method and path of every documented route that names a run or a thread."""
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    return [
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if "{" in path and method in {"get", "post", "delete", "put", "patch"}
    ]


@pytest.mark.parametrize("other", [("bob",), ("ann", "--tenant", "elsewhere")], ids=["user", "tenant"])
async def test_another_users_things_do_not_exist_on_any_route(rig: Rig, other: tuple[str, ...]) -> None:
    server = await rig.serve()
    ann, stranger = await server.new_key("ann"), await server.new_key(*other)
    async with server.client(ann) as own, server.client(stranger) as foreign:
        mine = (await own.post("/agent/invoke", json={"message": "say: my secret", "thread_id": "t"})).json()
        routes = [(method, path) for method, path in await routes_with_ids(own) if not path.startswith("/admin/")]
        assert len(routes) >= 6
        for method, path in routes:
            url = path.replace("{run_id}", mine["run_id"]).replace("{thread_id}", "t")
            assert "{" not in url, f"this test does not know how to fill in {path}"
            body = {"tool_call_id": "call", "result": "done"} if path.endswith("/resolve") else {}
            answer = await foreign.request(method, url, json=body if method == "POST" else None)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (method, path, answer.text)
            assert "secret" not in answer.text
        assert (await foreign.get("/agent/threads")).json()["threads"] == []
        assert [one["thread_id"] for one in (await own.get("/agent/threads")).json()["threads"]] == ["t"]
        assert (await own.get(f"/agent/runs/{mine['run_id']}")).json()["response"] == "my secret"


async def test_what_an_admin_rules_in_one_tenant_does_not_exist_for_the_admin_of_another(rig: Rig) -> None:
    server = await rig.serve()
    admin = await server.new_key("root", "--scope", "admin")
    stranger = await server.new_key("root", "--scope", "admin", "--tenant", "elsewhere")
    async with server.client(admin) as own, server.client(stranger) as foreign:
        limit = {"scope": "user", "window": "day", "limit_usd": "5"}
        budget_id = (await own.put("/admin/budgets", json=limit)).json()["budget_id"]
        await own.put("/admin/rates", json={"scope": "user", "kind": "requests", "limit": 60})
        key_id = (await own.post("/admin/keys", json={"user": "ann"})).json()["key_id"]
        ids = {"{budget_id}": budget_id, "{key_id}": key_id, "{user}": "ann"}
        routes = [(method, path) for method, path in await routes_with_ids(own) if path.startswith("/admin/")]
        assert len(routes) >= 4
        for method, path in routes:
            name = next(name for name in ids if name in path)
            body = {"amount_usd": "1"} if path.endswith("/top-up") else {}
            url = path.replace(name, ids[name])
            answer = await foreign.request(method, url, json=body if method == "POST" else None)
            if name == "{user}":  # every tenant has its own ann, with or without anything to her name
                assert answer.status_code == 200
                assert key_id not in answer.text
                continue
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (method, path, answer.text)
        assert key_id in {
            one["key_id"] for one in (await own.get("/admin/keys")).json()["keys"] if not one["revoked_at"]
        }
        for path in ("/admin/budgets", "/admin/rates", "/admin/keys", "/admin/audit", "/admin/usage?by=user"):
            seen = (await foreign.get(path)).text
            theirs = {budget_id, key_id} if path == "/admin/audit" else {budget_id, key_id, "ann"}
            assert not theirs & set(seen.replace('"', " ").split()), (path, seen)
        assert [one["budget_id"] for one in (await own.get("/admin/budgets")).json()["budgets"]] == [budget_id]


async def test_the_same_thread_id_of_two_users_is_two_threads(rig: Rig) -> None:
    server = await rig.serve()
    async with (
        server.client(await server.new_key("ann")) as ann,
        server.client(await server.new_key("bob")) as bob,
    ):
        await ann.post("/agent/invoke", json={"message": "say: from ann", "thread_id": "default"})
        await bob.post("/agent/invoke", json={"message": "say: from bob", "thread_id": "default"})
        seen = (await bob.get("/agent/threads/default")).text
        kept = (await ann.get("/agent/threads/default")).text
    assert "from bob" in seen
    assert "ann" not in seen
    assert "bob" not in kept


async def test_the_same_idempotency_key_of_two_users_is_two_runs(rig: Rig) -> None:
    server = await rig.serve()
    headers = {"Idempotency-Key": "same"}
    body = {"message": "say: mine"}
    runs: list[str] = []
    for user in ("ann", "bob"):
        async with server.client(await server.new_key(user)) as client:
            runs.append((await client.post("/agent/invoke", json=body, headers=headers)).json()["run_id"])
    assert runs[0] != runs[1]


async def test_store_items_of_another_user_are_absent(rig: Rig) -> None:
    server = await rig.serve("remembering.py:graph")
    async with (
        server.client(await server.new_key("ann")) as ann,
        server.client(await server.new_key("bob")) as bob,
    ):
        await ann.post("/agent/invoke", json={"input": {"remember": "ann's secret"}})
        hers = (await ann.post("/agent/invoke", json={"input": {"remember": ""}})).json()["output"]["found"]
        his = (await bob.post("/agent/invoke", json={"input": {"remember": ""}})).json()["output"]["found"]
    assert hers == ["ann's secret"]
    assert his == []


async def test_a_key_does_only_what_its_scopes_say(rig: Rig) -> None:
    server = await rig.serve()
    reader = await server.new_key("ann", "--scope", "runs:read")
    writer = await server.new_key("ann", "--scope", "runs:write")
    backend = await server.new_key(
        "backend", "--scope", "runs:on_behalf", "--scope", "runs:read", "--scope", "runs:write"
    )
    async with server.client(reader) as client:
        refused = await client.post("/agent/invoke", json={"message": "hi"})
        assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
        assert (await client.post("/agent/stream", json={"message": "hi"})).status_code == 403
        assert (await client.delete("/agent/threads/t")).status_code == 403
    async with server.client(writer) as client:
        made = (await client.post("/agent/invoke", json={"message": "say: x", "thread_id": "t"})).json()
        assert (await client.get(f"/agent/runs/{made['run_id']}")).status_code == 403
        assert (await client.get("/agent/threads")).status_code == 403
    on_behalf = {"X-On-Behalf-Of": "carol@example.com"}
    async with server.client(backend) as client:
        await client.post("/agent/invoke", json={"message": "say: y", "thread_id": "c"}, headers=on_behalf)
        assert [
            one["thread_id"] for one in (await client.get("/agent/threads", headers=on_behalf)).json()["threads"]
        ] == ["c"]
        assert (await client.get("/agent/threads")).json()["threads"] == []
    async with server.client(writer) as client:
        denied = await client.post("/agent/invoke", json={"message": "hi"}, headers=on_behalf)
        assert denied.status_code == 403


async def test_a_users_stream_of_a_foreign_idempotency_key_is_its_own(rig: Rig) -> None:
    server = await rig.serve()
    headers = {"Idempotency-Key": "same"}
    async with (
        server.client(await server.new_key("ann")) as ann,
        server.client(await server.new_key("bob")) as bob,
    ):
        first = await stream(ann, {"message": "say: for ann"}, headers=headers)
        second = await stream(bob, {"message": "say: for bob"}, headers=headers)
    assert first.text() == "for ann"
    assert second.text() == "for bob"
