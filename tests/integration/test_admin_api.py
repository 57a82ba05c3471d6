"""The admin API on the real application: what each route does, for whom, and what it refuses."""

import csv
import io
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.domain.principal import Scope
from roadworthy.http.usage_report import UsageReport
from roadworthy.protocols.admin import wire
from tests.support.web.admin import client_of, code_of, new_key
from tests.support.web.real import Real, real_app

BUDGET = {"scope": "user", "window": "day", "limit_usd": "5.00"}
WHOLE = {"scope": "tenant", "window": "month", "limit_usd": 100, "soft_usd": 50.5, "time_zone": "Europe/Berlin"}
RATE = {"scope": "key", "kind": "requests", "limit": 60}
GONE = "0" * 32

# Every route: its method, path and body, what it answers to who may call it, and the scopes that may.
LIMITS, READING, USAGE = {Scope.LIMITS_WRITE}, {Scope.LIMITS_WRITE, Scope.USAGE_READ}, {Scope.USAGE_READ}
KEYS, AUDIT = {Scope.KEYS_WRITE}, {Scope.AUDIT_READ}
ROUTES: list[tuple[str, str, Any, int, set[Scope]]] = [
    ("GET", "/admin/budgets", None, 200, READING),
    ("PUT", "/admin/budgets", BUDGET, 200, LIMITS),
    ("DELETE", f"/admin/budgets/{GONE}", None, 404, LIMITS),
    ("POST", f"/admin/budgets/{GONE}/top-up", {"amount_usd": 1}, 404, LIMITS),
    ("GET", "/admin/rates", None, 200, READING),
    ("PUT", "/admin/rates", RATE, 200, LIMITS),
    ("DELETE", "/admin/rates?scope=user&kind=runs", None, 404, LIMITS),
    ("GET", "/admin/usage", None, 200, USAGE),
    ("GET", "/admin/audit", None, 200, AUDIT),
    ("GET", "/admin/keys", None, 200, KEYS),
    ("POST", "/admin/keys", {"user": "ops", "scopes": ["keys:write"]}, 201, KEYS),
    ("POST", f"/admin/keys/{GONE}/rotate", None, 404, KEYS),
    ("DELETE", f"/admin/keys/{GONE}", None, 404, KEYS),
    ("GET", "/admin/users/nobody/export", None, 200, {Scope.ADMIN}),
    ("DELETE", "/admin/users/nobody", None, 200, {Scope.ADMIN}),
]


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Real]:
    async with real_app(tmp_path) as real:
        yield real


@pytest.fixture
async def admin(real: Real) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(real, await new_key(real, Scope.ADMIN)) as client:
        yield client


@pytest.fixture
async def stranger(real: Real) -> AsyncIterator[httpx.AsyncClient]:
    """The admin of another tenant."""
    async with client_of(real, await new_key(real, Scope.ADMIN, tenant="other")) as client:
        yield client


def test_every_route_is_in_the_table(real_routes: set[tuple[str, str]]) -> None:
    assert {(method, path.partition("?")[0].replace(GONE, "{id}")) for method, path, *_ in ROUTES} == real_routes


@pytest.fixture
def real_routes(real: Real) -> set[tuple[str, str]]:
    paths: Mapping[str, Mapping[str, Any]] = real.app.openapi()["paths"]
    return {
        (method.upper(), path.replace("{budget_id}", "{id}").replace("{key_id}", "{id}").replace("{user}", "nobody"))
        for path, operations in paths.items()
        for method in operations
        if path.startswith("/admin/")
    }


async def test_without_a_key_nothing_is_answered(real: Real) -> None:
    async with client_of(real, None) as client:
        for method, path, body, *_ in ROUTES:
            assert code_of(await client.request(method, path, json=body)) == (401, "unauthenticated")


async def test_a_users_key_may_do_none_of_it(real: Real) -> None:
    async with client_of(real, real.alice) as client:
        for method, path, body, *_ in ROUTES:
            assert code_of(await client.request(method, path, json=body)) == (403, "permission_denied")


@pytest.mark.parametrize("scope", list(Scope))
async def test_a_scope_opens_its_routes_and_no_other(real: Real, scope: Scope) -> None:
    async with client_of(real, await new_key(real, scope)) as client:
        for method, path, body, status, scopes in ROUTES:
            answer = await client.request(method, path, json=body)
            expected = status if scope in {*scopes, Scope.ADMIN} else 403
            assert answer.status_code == expected, (method, path, answer.text)


async def test_who_speaks_for_a_user_is_that_user(real: Real, admin: httpx.AsyncClient) -> None:
    for method, path, body, *_ in ROUTES:
        answer = await admin.request(method, path, json=body, headers={"X-On-Behalf-Of": "alice"})
        assert code_of(answer) == (403, "permission_denied")


async def test_a_budget_is_set_listed_topped_up_and_removed(real: Real, admin: httpx.AsyncClient) -> None:
    each = wire.Budget.model_validate_json((await admin.put("/admin/budgets", json=BUDGET)).content)
    whole = wire.Budget.model_validate_json((await admin.put("/admin/budgets", json=WHOLE)).content)
    assert (each.limit_usd, each.soft_usd, each.time_zone, each.current) == (5.0, None, "UTC", None)
    assert (whole.limit_usd, whole.soft_usd, whole.time_zone) == (100.0, 50.5, "Europe/Berlin")
    assert whole.current is not None
    assert (whole.current.subject, whole.current.left_usd, whole.current.exhausted) == ("default", 100.0, False)

    answer = await admin.get("/admin/budgets", params={"scope": "user", "subject": "alice"})
    (asked,) = wire.BudgetList.model_validate_json(answer.content).budgets
    assert asked.current is not None
    assert (asked.current.subject, asked.current.left_usd) == ("alice", 5.0)

    top_up = {"amount_usd": "0.000000001", "subject": "alice"}
    topped = await admin.post(f"/admin/budgets/{each.budget_id}/top-up", json=top_up)
    assert (topped.status_code, topped.json()["current"]["topped_up_usd"]) == (200, 1e-9)

    assert (await admin.delete(f"/admin/budgets/{each.budget_id}")).status_code == 204
    assert code_of(await admin.delete(f"/admin/budgets/{each.budget_id}")) == (404, "not_found")
    answer = await admin.get("/admin/budgets")
    assert [one.scope for one in wire.BudgetList.model_validate_json(answer.content).budgets] == ["tenant"]


async def test_a_limit_that_is_left_out_stays_and_null_removes_it(admin: httpx.AsyncClient) -> None:
    place = {"scope": "user", "window": "day"}
    for change, limit, soft in (
        ({"limit_usd": 3}, 3.0, None),
        ({"soft_usd": 1}, 3.0, 1.0),
        ({"limit_usd": 2}, 2.0, 1.0),
        ({"limit_usd": None}, None, 1.0),
        ({"limit_usd": 5, "soft_usd": None}, 5.0, None),
        ({}, 5.0, None),
    ):
        answer = await admin.put("/admin/budgets", json={**place, **change})
        assert answer.status_code == 200, answer.text
        assert (answer.json()["limit_usd"], answer.json()["soft_usd"]) == (limit, soft)
    refused = await admin.put("/admin/budgets", json={**place, "limit_usd": None})
    assert code_of(refused) == (422, "invalid_request")


async def test_a_budget_of_each_run_needs_no_window(admin: httpx.AsyncClient) -> None:
    made = await admin.put("/admin/budgets", json={"scope": "run", "limit_usd": 1})
    assert (made.status_code, made.json()["window"]) == (200, "run")
    refused = await admin.put("/admin/budgets", json={"scope": "user", "limit_usd": 1})
    assert refused.json()["errors"] == [
        {"field": "window", "message": "say when the budget begins anew: the window day, week, month or total"}
    ]


async def test_amounts_are_exact(real: Real, admin: httpx.AsyncClient) -> None:
    for amount, nanos in (
        ("0.1", 100_000_000),
        (0.1, 100_000_000),
        ("$3", 3_000_000_000),
        (0, 0),
        (1e9, 10**18),
        (0.000000001, 1),
        (123456.123456789, 123_456_123_456_789),
        ("999999999.999999999", 10**18 - 1),
    ):
        answer = await admin.put("/admin/budgets", json={**BUDGET, "limit_usd": amount})
        assert answer.status_code == 200, answer.text
        (budget,) = await real.container.budgets.list(None)
        assert budget.budget.limit_nanos == nanos


async def test_a_rate_is_set_listed_and_removed(admin: httpx.AsyncClient) -> None:
    assert (await admin.put("/admin/rates", json=RATE)).json() == {
        **RATE,
        "subject": None,
        "policy": "requests-per-key",
    }
    await admin.put("/admin/rates", json={"scope": "user", "kind": "runs", "limit": 2, "subject": "a|b+c"})
    found = wire.RateList.model_validate_json((await admin.get("/admin/rates")).content).rates
    assert {(one.scope, one.subject, one.limit) for one in found} == {("key", None, 60), ("user", "a|b+c", 2)}
    place = {"scope": "user", "kind": "runs", "subject": "a|b+c"}
    assert (await admin.delete("/admin/rates", params=place)).status_code == 204
    assert code_of(await admin.delete("/admin/rates", params=place)) == (404, "not_found")


async def test_usage_is_reported_as_json_and_csv(real: Real, admin: httpx.AsyncClient) -> None:
    report = UsageReport.model_validate_json((await admin.get("/admin/usage?by=day,user")).content)
    assert (report.by, report.rows) == (["day", "user"], [])
    answer = await admin.get("/admin/usage?by=user&format=csv&user=alice")
    assert answer.headers["content-type"].startswith("text/csv")
    (names,) = csv.reader(io.StringIO(answer.text))
    assert names[0] == "user"


async def test_a_key_is_made_used_rotated_and_revoked(real: Real, admin: httpx.AsyncClient) -> None:
    asked = {"user": "dora", "name": "laptop", "agents": ["echo"], "expires_in_days": 3}
    answer = await admin.post("/admin/keys", json=asked)
    made = wire.NewKey.model_validate_json(answer.content)
    assert answer.status_code == 201
    assert (made.user, made.name, made.scopes, made.agents) == ("dora", "laptop", ["runs:read", "runs:write"], ["echo"])
    assert made.expires_at is not None
    async with client_of(real, made.key) as dora:
        assert (await dora.post("/agent/invoke", json={"message": "hi"})).status_code == 200
    rotated = await admin.post(f"/admin/keys/{made.key_id}/rotate", json={"grace_seconds": 0})
    new = wire.NewKey.model_validate_json(rotated.content)
    assert (rotated.status_code, new.user, new.agents) == (201, "dora", ["echo"])
    assert new.key != made.key
    listed = await admin.get("/admin/keys")
    assert {made.key_id, new.key_id} <= {key.key_id for key in wire.KeyList.model_validate_json(listed.content).keys}
    assert made.key not in listed.text
    assert new.key not in listed.text
    assert (await admin.delete(f"/admin/keys/{new.key_id}")).status_code == 204
    for old in (made, new):
        async with client_of(real, old.key) as dora:
            assert code_of(await dora.get("/agent/threads")) == (401, "unauthenticated")


async def test_nobody_hands_on_more_than_it_has(real: Real) -> None:
    async with client_of(real, await new_key(real, Scope.KEYS_WRITE, Scope.RUNS_READ)) as client:
        for scopes in (["admin"], ["usage:read"], ["keys:write", "runs:write"]):
            answer = await client.post("/admin/keys", json={"user": "ops", "scopes": scopes})
            assert code_of(answer) == (403, "permission_denied")
        answer = await client.post("/admin/keys", json={"user": "ops", "scopes": ["runs:read"]})
        assert answer.status_code == 201


async def test_another_tenants_admin_sees_and_changes_nothing(
    real: Real, admin: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    budget_id = (await admin.put("/admin/budgets", json=WHOLE)).json()["budget_id"]
    key_id = (await admin.post("/admin/keys", json={"user": "dora"})).json()["key_id"]
    await admin.put("/admin/rates", json=RATE)
    before = [(await admin.get(f"/admin/{path}")).json() for path in ("budgets", "rates", "keys", "audit")]

    assert (await stranger.get("/admin/budgets")).json() == {"budgets": []}
    assert (await stranger.get("/admin/rates")).json() == {"rates": []}
    assert {key["user"] for key in (await stranger.get("/admin/keys")).json()["keys"]} == {"ops"}
    assert {entry["action"] for entry in (await stranger.get("/admin/audit")).json()["entries"]} == {"key.create"}
    assert (await stranger.get("/admin/usage?by=user")).json()["rows"] == []
    for answer in (
        await stranger.delete(f"/admin/budgets/{budget_id}"),
        await stranger.post(f"/admin/budgets/{budget_id}/top-up", json={"amount_usd": 1}),
        await stranger.delete("/admin/rates?scope=key&kind=requests"),
        await stranger.post(f"/admin/keys/{key_id}/rotate"),
        await stranger.delete(f"/admin/keys/{key_id}"),
    ):
        assert code_of(answer) == (404, "not_found")
    assert [(await admin.get(f"/admin/{path}")).json() for path in ("budgets", "rates", "keys", "audit")] == before


async def test_every_change_is_audited_with_who_and_which_request(real: Real, admin: httpx.AsyncClient) -> None:
    made = await admin.put("/admin/budgets", json=BUDGET)
    await admin.put("/admin/budgets", json={**BUDGET, "limit_usd": 6})
    first = wire.AuditPage.model_validate_json((await admin.get("/admin/audit?limit=1")).content)
    rest = await admin.get("/admin/audit", params={"cursor": first.next_cursor or ""})
    second = wire.AuditPage.model_validate_json(rest.content).entries[0]
    assert [entry.action for entry in (*first.entries, second)] == ["budget.set", "budget.set"]
    changed = first.entries[0]
    assert changed.before is not None
    assert changed.after is not None
    assert (changed.before["limit_nanos"], changed.after["limit_nanos"]) == (5 * 10**9, 6 * 10**9)
    assert changed.target == made.json()["budget_id"]
    assert (second.before, second.request_id) == (None, made.headers["x-request-id"])
    assert changed.actor.startswith("key:")


async def test_without_auth_the_local_user_is_the_actor(tmp_path: Path) -> None:
    async with real_app(tmp_path, auth=False) as real, client_of(real, None) as client:
        assert (await client.put("/admin/rates", json=RATE)).status_code == 200
        (entry, *_) = (await client.get("/admin/audit")).json()["entries"]
        assert (entry["action"], entry["actor"]) == ("rate.set", "user:local")
