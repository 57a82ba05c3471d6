"""The OpenAPI document, held against the real server by generated requests, good and bad."""

import asyncio
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.specs.openapi.checks import positive_data_acceptance

from roadworthy.app import build_app
from roadworthy.http.deps import HttpLimits
from tests.support.web.fakes import Fakes
from tests.support.web.live import serving
from tests.support.web.real import real_app

APP = build_app(Fakes().services, HttpLimits(), auth=True, version="1.2.3", api_version="v1")
schema = schemathesis.openapi.from_dict(APP.openapi())

SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@contextmanager
def in_a_thread(folder: Path) -> Generator[tuple[str, str]]:
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


@schema.parametrize()  # pyright: ignore[reportUntypedFunctionDecorator] -- the library has no types for it
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=SLOW_IS_FINE)
def test_the_server_does_what_the_document_says(case: Case[Any], server: tuple[str, str]) -> None:
    url, key = server
    headers = {"x-api-key": key, "Authorization": f"Bearer {key}"}
    # What an agent takes as its input, and which cursors were given out, no schema can say: 422 is right for them.
    case.call_and_validate(base_url=url, headers=headers, excluded_checks=[positive_data_acceptance])
