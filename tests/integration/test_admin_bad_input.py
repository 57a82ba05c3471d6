"""What the admin API refuses, and that nothing is stored of it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.domain.principal import Scope
from tests.support.web.admin import client_of, code_of, new_key
from tests.support.web.real import Real, real_app

BUDGET = {"scope": "user", "window": "day", "limit_usd": "5.00"}
RATE = {"scope": "key", "kind": "requests", "limit": 60}
GONE = "0" * 32


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Real]:
    async with real_app(tmp_path) as real:
        yield real


@pytest.fixture
async def admin(real: Real) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(real, await new_key(real, Scope.ADMIN)) as client:
        yield client


def bad_budgets() -> dict[str, dict[str, Any]]:
    amounts = [-1, "-1", "NaN", "Infinity", "1e400", 1e10, 10**18, "1" * 41, True, [], {}, "", "five", "1_0.5x"]
    amounts += [0.1234567891, "0.0000000001", 123456789.123456789]
    cases = {f"limit {amount!r}": {**BUDGET, "limit_usd": amount} for amount in amounts}
    changes: list[dict[str, Any]] = [
        {"scope": "run"},
        {"window": "run"},
        {"scope": "nobody"},
        {"window": "year"},
        {"scope": None},
        {"window": None},
        {"subject": ""},
        {"subject": "a b"},
        {"subject": "x" * 129},
        {"subject": 5},
        {"scope": "tenant", "subject": "default"},
        {"scope": "run", "window": "run", "subject": GONE},
        {"scope": "key", "subject": "rw_live_x"},
        {"limit_usd": None},
        {"soft_usd": 0},
        {"soft_usd": 6},
        {"soft_usd": "x"},
        {"time_zone": "Mars/Olympus"},
        {"time_zone": "America"},
        {"time_zone": "../../etc/passwd"},
        {"time_zone": ""},
        {"time_zone": "x" * 65},
        {"tenant": "other"},
        {"limit": 5},
    ]
    return cases | {str(change): {**BUDGET, **change} for change in changes}


async def test_a_bad_budget_is_refused_and_not_stored(real: Real, admin: httpx.AsyncClient) -> None:
    for name, body in bad_budgets().items():
        answer = await admin.put("/admin/budgets", json=body)
        assert code_of(answer) == (422, "invalid_request"), name
        assert len(answer.content) < 2000, name
    for text in ("NaN", "Infinity", "1e400", "9" * 30):
        content = f'{{"scope":"user","window":"day","limit_usd":{text}}}'
        answer = await admin.put("/admin/budgets", content=content, headers={"content-type": "application/json"})
        assert code_of(answer) == (400, "malformed_body"), text
    assert await real.container.budgets.list(None) == []
    assert (await real.container.audit.entries_of(None, since=None, limit=100, cursor=None)).items[
        0
    ].action != "budget.set"


async def test_a_bad_top_up_is_refused(real: Real, admin: httpx.AsyncClient) -> None:
    each = (await admin.put("/admin/budgets", json=BUDGET)).json()["budget_id"]
    run = (await admin.put("/admin/budgets", json={"scope": "run", "window": "run", "limit_usd": 1})).json()[
        "budget_id"
    ]
    for budget_id, body in (
        (each, {"amount_usd": 1}),
        (each, {"amount_usd": 0, "subject": "alice"}),
        (each, {"amount_usd": -1, "subject": "alice"}),
        (each, {"amount_usd": 10**9, "subject": "alice"}),
        (each, {"amount_usd": None, "subject": "alice"}),
        (each, {"subject": "alice"}),
        (each, {"amount_usd": 1, "subject": "a b"}),
        (each, {"amount_usd": 1, "subject": "alice", "until": "never"}),
        (run, {"amount_usd": 1}),
        (run, {"amount_usd": 1, "subject": GONE}),
    ):
        assert code_of(await admin.post(f"/admin/budgets/{budget_id}/top-up", json=body)) == (422, "invalid_request")


@pytest.mark.parametrize(
    "change",
    [
        {"limit": 0},
        {"limit": -1},
        {"limit": 1.5},
        {"limit": "60"},
        {"limit": True},
        {"limit": None},
        {"limit": 2**63},
        {"scope": "agent"},
        {"kind": "money"},
        {"subject": "alice"},
        {"subject": "x" * 129},
        {"scope": "tenant", "subject": "default"},
        {"window": "day"},
    ],
    ids=str,
)
async def test_a_bad_rate_is_refused(admin: httpx.AsyncClient, change: dict[str, Any]) -> None:
    assert code_of(await admin.put("/admin/rates", json={**RATE, **change})) == (422, "invalid_request")
    assert (await admin.get("/admin/rates")).json() == {"rates": []}


async def test_bad_query_parameters_are_refused(admin: httpx.AsyncClient) -> None:
    for path in (
        "/admin/budgets?scope=nobody",
        "/admin/budgets?subject=alice",
        "/admin/budgets?scope=user&subject=a%20b",
        "/admin/budgets?scope=user&subject=" + "x" * 129,
        "/admin/usage?by=tenant",
        "/admin/usage?by=day,day",
        "/admin/usage?by=colour",
        "/admin/usage?since=yesterday",
        "/admin/usage?since=2020-01-01",
        "/admin/usage?since=2026-01-02&until=2026-01-01",
        "/admin/usage?since=2026-02-30",
        "/admin/usage?user=a%20b",
        "/admin/usage?format=xml",
        "/admin/audit?since=yesterday",
        "/admin/audit?since=2026-01-01T00:00:00",
        "/admin/audit?since=1e400",
        "/admin/audit?since=0001-01-01T00:00:00%2B23:59",
        "/admin/audit?since=9999-12-31T23:59:59-23:59",
        "/admin/audit?since=1700000000",
        "/admin/audit?limit=0",
        "/admin/audit?limit=100000",
        "/admin/audit?cursor=x",
        "/admin/audit?cursor=-1",
    ):
        assert code_of(await admin.get(path)) == (422, "invalid_request"), path
    for path in ("/admin/rates", "/admin/rates?scope=user", "/admin/rates?scope=agent&kind=runs"):
        assert code_of(await admin.delete(path)) == (422, "invalid_request"), path
    for since in ("2026-01-31", "2026-01-31T12:00:00Z", "2999-12-31T23:59:59-23:59"):
        assert (await admin.get(f"/admin/audit?since={since}")).status_code == 200, since


async def test_a_mistyped_query_parameter_is_refused_before_it_removes_everyones_limit(
    admin: httpx.AsyncClient,
) -> None:
    place = {"scope": "user", "kind": "runs"}
    await admin.put("/admin/rates", json={**place, "limit": 2})
    answer = await admin.delete("/admin/rates", params={**place, "subjct": "bob"})
    assert code_of(answer) == (422, "invalid_request")
    assert answer.json()["errors"] == [
        {
            "field": "subjct",
            "message": "unknown query parameter 'subjct': the route has scope, kind, subject",
        }
    ]
    assert len((await admin.get("/admin/rates")).json()["rates"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/admin/budgets", None),
        ("PUT", "/admin/budgets", BUDGET),
        ("DELETE", f"/admin/budgets/{GONE}", None),
        ("POST", f"/admin/budgets/{GONE}/top-up", {"amount_usd": 1}),
        ("GET", "/admin/rates", None),
        ("PUT", "/admin/rates", RATE),
        ("DELETE", "/admin/rates", None),
        ("GET", "/admin/usage", None),
        ("GET", "/admin/audit", None),
        ("GET", "/admin/keys", None),
        ("POST", "/admin/keys", {"user": "dora"}),
        ("POST", f"/admin/keys/{GONE}/rotate", None),
        ("DELETE", f"/admin/keys/{GONE}", None),
        ("GET", "/agent/usage", None),
    ],
)
async def test_no_route_passes_over_a_query_parameter(
    real: Real, admin: httpx.AsyncClient, method: str, path: str, body: object
) -> None:
    answer = await admin.request(method, path, params={"format": "csv", "userr": "x" * 999}, json=body)
    assert code_of(answer) == (422, "invalid_request")
    assert "'userr'" in answer.json()["detail"]
    assert len(answer.content) < 2000
    async with client_of(real, None) as nobody:
        assert code_of(await nobody.request(method, path, params={"userr": "x"}, json=body)) == (401, "unauthenticated")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/admin/usage?since=yesterday", "since: must be a day or a moment, as in 2026-01-31"),
        ("/admin/usage?until=2026-01-31T12:00", "until: must be a day or a moment"),
        ("/admin/usage?by=day%20user", "by: must be names with commas between them, as in day,model"),
        ("/admin/usage?by=tenant", "must be of day, user, key, agent, model"),
        ("/admin/usage?user=a%20b", "user: must be 1 to 128 characters of A-Z a-z 0-9"),
        ("/admin/audit?since=last-week", "since: must be a day or a moment"),
    ],
)
async def test_a_refusal_can_be_read(admin: httpx.AsyncClient, path: str, text: str) -> None:
    detail = (await admin.get(path)).json()["detail"]
    assert text in detail
    assert "pattern" not in detail


@pytest.mark.parametrize(
    "change",
    [
        {"user": "a b"},
        {"user": None},
        {"user": "x" * 129},
        {"name": "x" * 201},
        {"scopes": []},
        {"scopes": ["everything"]},
        {"scopes": "admin"},
        {"agents": []},
        {"agents": ["../x"]},
        {"expires_in_days": 0},
        {"expires_in_days": 10**9},
        {"expires_in_days": "3"},
        {"tenant": "other"},
    ],
    ids=str,
)
async def test_a_bad_key_is_refused(admin: httpx.AsyncClient, change: dict[str, Any]) -> None:
    before = (await admin.get("/admin/keys")).json()
    assert code_of(await admin.post("/admin/keys", json={"user": "dora", **change})) == (422, "invalid_request")
    assert (await admin.get("/admin/keys")).json() == before


async def test_malformed_ids_are_not_found(admin: httpx.AsyncClient) -> None:
    for name in ("x" * 999, "%00", "..%2f", "%F0%9F%98%80", "' or 1=1 --"):
        assert code_of(await admin.delete(f"/admin/budgets/{name}")) == (404, "not_found")
        assert code_of(await admin.delete(f"/admin/keys/{name}")) == (404, "not_found")
        assert code_of(await admin.post(f"/admin/keys/{name}/rotate")) == (404, "not_found")
        answer = await admin.post(f"/admin/budgets/{name}/top-up", json={"amount_usd": 1})
        assert code_of(answer) == (404, "not_found")
        assert len(answer.content) < 1000
