"""Bearer tokens of a provider at the real application: who may do what, and whose data it is."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from starlette.responses import Response

from tests.support.identity_provider import AUDIENCE, DISCOVERY, JWKS, IdentityProvider, identity_provider
from tests.support.web.real import Real, real_app

ASK = {"message": "hi", "agent": "echo", "thread_id": "t"}


@asynccontextmanager
async def served(folder: Path, **settings: Any) -> AsyncGenerator[tuple[Real, httpx.AsyncClient, IdentityProvider]]:
    """The application, with a provider whose tokens it takes."""
    async with (
        identity_provider() as provider,
        real_app(folder, jwt_issuer=provider.url, jwt_audience=AUDIENCE, **settings) as real,
        httpx.AsyncClient(transport=httpx.ASGITransport(real.app), base_url="http://localhost") as client,
    ):
        yield real, client, provider


def bearer(provider: IdentityProvider, **claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {provider.token(now=datetime.now(UTC), **claims)}"}


async def test_a_token_opens_its_users_threads_and_no_others(tmp_path: Path) -> None:
    async with served(tmp_path) as (real, client, provider):
        carol, dave = bearer(provider, sub="carol"), bearer(provider, sub="dave")
        run = (await client.post("/agent/invoke", json=ASK, headers=carol)).json()
        assert (run["status"], run["response"]) == ("success", "you said: hi")
        assert (await client.get(f"/agent/runs/{run['run_id']}", headers=carol)).status_code == 200
        for other in (dave, {"x-api-key": real.alice}):
            assert (await client.get(f"/agent/runs/{run['run_id']}", headers=other)).status_code == 404
            assert (await client.get("/agent/threads/t", headers=other)).status_code == 404
        assert provider.asked == [DISCOVERY, JWKS]


async def test_a_token_and_a_key_of_the_same_user_see_the_same(tmp_path: Path) -> None:
    async with served(tmp_path) as (real, client, provider):
        run = (await client.post("/agent/invoke", json=ASK, headers=bearer(provider, sub="alice"))).json()
        seen = await client.get(f"/agent/runs/{run['run_id']}", headers={"x-api-key": real.alice})
        assert seen.json()["run_id"] == run["run_id"]


async def test_tenants_of_tokens_are_apart(tmp_path: Path) -> None:
    async with served(tmp_path, jwt_tenant_claim="org") as (real, client, provider):
        acme, other = bearer(provider, org="acme"), bearer(provider, org="other")
        run = (await client.post("/agent/invoke", json=ASK, headers=acme)).json()
        assert (await client.get(f"/agent/runs/{run['run_id']}", headers=acme)).status_code == 200
        for stranger in (other, {"x-api-key": real.alice}):
            assert (await client.get(f"/agent/runs/{run['run_id']}", headers=stranger)).status_code == 404
        assert (await client.get("/agent/threads", headers=bearer(provider))).status_code == 401


async def test_scopes_of_a_token_bind(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, client, provider):
        reader = bearer(provider, scope="openid roadworthy:runs:read")
        answer = await client.post("/agent/invoke", json=ASK, headers=reader)
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
        assert (await client.get("/agent/threads", headers=reader)).status_code == 200


async def test_a_gateway_speaks_for_its_users(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, client, provider):
        gateway = bearer(provider, sub="gateway", scope="roadworthy:runs:on_behalf")
        run = (await client.post("/agent/invoke", json=ASK, headers=gateway | {"X-On-Behalf-Of": "carol"})).json()
        seen = await client.get(f"/agent/runs/{run['run_id']}", headers=bearer(provider, sub="carol"))
        assert seen.status_code == 200


async def test_bad_tokens_and_a_provider_that_is_away_are_told_apart(tmp_path: Path) -> None:
    async with served(tmp_path) as (real, client, provider):
        provider.answers[DISCOVERY] = Response(status_code=500)
        away = await client.get("/agent/agents", headers=bearer(provider))
        assert (away.status_code, away.json()["code"], away.headers["retry-after"]) == (503, "unavailable", "30")
        assert (await client.get("/agent/agents", headers={"x-api-key": real.alice})).status_code == 200
        bad = await client.get("/agent/agents", headers={"Authorization": "Bearer a.b.c"})
        assert (bad.status_code, bad.headers["www-authenticate"]) == (401, "Bearer")


async def test_without_a_provider_tokens_open_nothing(tmp_path: Path) -> None:
    async with (
        identity_provider() as provider,
        real_app(tmp_path) as real,
        httpx.AsyncClient(transport=httpx.ASGITransport(real.app), base_url="http://localhost") as client,
    ):
        assert (await client.get("/agent/agents", headers=bearer(provider))).status_code == 401
    assert provider.asked == []
