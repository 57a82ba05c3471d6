"""The OpenAPI document, held against the real server by generated requests, good and bad."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.core.transport import Response

from roadworthy.app import build_app
from roadworthy.http.deps import HttpLimits
from tests.support.web.fakes import Fakes
from tests.support.web.live import serving
from tests.support.web.real import real_app

APP = build_app(Fakes().services, HttpLimits(), auth=True, version="1.2.3", api_version="v1")
schema = schemathesis.openapi.from_dict(APP.openapi())


@contextmanager
def in_a_thread(folder: Path) -> Iterator[tuple[str, str]]:
    """The real application in a loop of its own; yields its URL and a key."""
    ready, stop = threading.Event(), asyncio.Event()
    found: list[str] = []

    async def run() -> None:
        async with real_app(folder) as real, serving(real.app) as port:
            real.gate.opened.set()
            found.extend([f"http://127.0.0.1:{port}", real.alice])
            ready.set()
            await stop.wait()

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(run(),))
        thread.start()
        try:
            assert ready.wait(30)
            yield found[0], found[1]
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with in_a_thread(tmp_path_factory.mktemp("openapi")) as found:
        yield found


@schema.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_server_does_what_the_document_says(case: Case, server: tuple[str, str]) -> None:
    url, key = server
    case.call_and_validate(base_url=url, headers={"x-api-key": key, "Authorization": f"Bearer {key}"})
