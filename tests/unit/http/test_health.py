import asyncio

import pytest

from roadworthy.http import readiness
from roadworthy.services.readiness import Problem
from tests.support.web.calls import calling
from tests.support.web.fakes import Fakes


async def test_probes_need_no_key() -> None:
    async with calling(Fakes(), key=None) as client:
        health, alive, ready = [await client.get(path) for path in ("/health", "/livez", "/readyz")]
    assert health.json() == {"status": "healthy", "version": "1.2.3"}
    assert alive.json() == {"status": "alive"}
    assert ready.json() == {"status": "ready", "problems": [], "degraded": []}
    assert {health.status_code, alive.status_code, ready.status_code} == {200}


async def test_an_unready_server_names_what_is_wrong_and_stays_alive() -> None:
    fakes = Fakes()
    fakes.readiness.wrong = [Problem(name="database", detail="does not answer")]
    async with calling(fakes, key=None) as client:
        ready, alive = await client.get("/readyz"), await client.get("/livez")
    assert ready.status_code == 503
    assert ready.json()["problems"] == [{"name": "database", "detail": "does not answer"}]
    assert alive.status_code == 200


async def test_a_providers_trouble_degrades_but_does_not_unready() -> None:
    fakes = Fakes()
    fakes.readiness.outside = [Problem(name="provider", detail="overloaded")]
    async with calling(fakes, key=None) as client:
        health, ready = await client.get("/health"), await client.get("/readyz")
    assert (health.status_code, ready.status_code) == (200, 200)
    assert health.json()["status"] == "healthy"
    assert health.json()["degraded"] == ready.json()["degraded"] == [{"name": "provider", "detail": "overloaded"}]


async def test_probes_without_a_key_cannot_keep_the_database_busy() -> None:
    fakes = Fakes()
    async with calling(fakes, key=None) as client, asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(client.get("/readyz"))
    assert fakes.readiness.looked == 1


async def test_what_is_wrong_is_looked_up_again_when_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "FRESH_SECONDS", 0)
    fakes = Fakes()
    async with calling(fakes, key=None) as client:
        before = await client.get("/readyz")
        fakes.readiness.wrong = [Problem(name="database", detail="does not answer")]
        after = await client.get("/readyz")
    assert (before.status_code, after.status_code) == (200, 503)


async def test_a_shutdown_is_told_at_once() -> None:
    fakes = Fakes()
    async with calling(fakes, key=None) as client:
        before = await client.get("/readyz")
        fakes.readiness.begin_to_drain()
        after = await client.get("/readyz")
    assert (before.status_code, after.status_code) == (200, 503)
    assert after.json()["problems"][0]["name"] == "draining"
