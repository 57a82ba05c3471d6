"""Callers of the admin API on the real application."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx

from roadworthy.domain.audit import Actor
from roadworthy.domain.ids import TenantId, UserId
from roadworthy.domain.principal import Owner, Scope
from tests.support.web.real import Real


@asynccontextmanager
async def client_of(real: Real, key: str | None) -> AsyncGenerator[httpx.AsyncClient]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(real.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        yield client


async def new_key(real: Real, *scopes: Scope, tenant: str = "default") -> str:
    owner = Owner(tenant=TenantId(tenant), user=UserId("ops"))
    return (await real.container.keys.create(owner, Actor(name="test"), scopes=frozenset(scopes))).text


def code_of(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]
