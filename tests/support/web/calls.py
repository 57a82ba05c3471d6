"""The application without a server, for tests that need no connection."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx

from roadworthy.app import build_app
from roadworthy.http.deps import HttpLimits
from tests.support.web.fakes import KEY, Fakes

LIMITS = HttpLimits(body_max=100_000)


@asynccontextmanager
async def calling(
    fakes: Fakes, *, limits: HttpLimits = LIMITS, auth: bool = True, key: str | None = KEY
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of the application, with alice's key unless another is given."""
    app = build_app(fakes.services, limits, auth=auth, version="1.2.3", api_version="v1")
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000", headers=headers) as client:
        yield client
