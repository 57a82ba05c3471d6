"""A provider process that outlives the servers, and servers under test with the agent that uses it: one, or a fleet."""

import gc
import time
import warnings
from collections.abc import AsyncGenerator, Generator
from functools import partial
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio

from tests.support.effects import EffectLog
from tests.support.fleet import SERVE, Fleet
from tests.support.postgres import PostgresServer, name_of, postgres_server
from tests.support.preloaded import Preloaded, PreloadedServer
from tests.support.provider.process import ProviderProcess
from tests.support.rig import Rig
from tests.support.valkey import ValkeyServer, valkey_server


@pytest.fixture
async def provider() -> AsyncGenerator[ProviderProcess]:
    async with ProviderProcess() as process:
        yield process


@pytest.fixture
async def rig(tmp_path: Path, provider: ProviderProcess) -> AsyncGenerator[Rig]:
    async with Rig(tmp_path, provider) as one:
        yield one


@pytest.fixture
def effects(rig: Rig) -> EffectLog:
    return rig.effects


@pytest.fixture(scope="module", autouse=True)
def forgotten_connections() -> Generator[None]:
    """Connections to servers that were killed are left half closed. They are let go of here, where they belong, and
    not in whatever test comes next.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def fleet_forks() -> Generator[Preloaded]:
    with Preloaded() as one:
        yield one


@pytest.fixture(scope="module")
def fleet_postgres() -> Generator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def fleet_valkey() -> Generator[ValkeyServer]:
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="module")
def fleet_provider() -> Generator[ProviderProcess]:
    with ProviderProcess() as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet_schema(
    fleet_forks: Preloaded,
    fleet_postgres: PostgresServer,
    fleet_provider: ProviderProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """A database with all tables and nothing in them, to be copied."""
    url = fleet_postgres.create()
    make = partial(PreloadedServer, fleet_forks)
    async with Fleet(tmp_path_factory.mktemp("schema"), fleet_provider, url, make_server=make) as fleet:
        await fleet.begin(roles=(SERVE,))
        await fleet.stop(0)
    return name_of(url)


@pytest.fixture
async def fleet(
    tmp_path: Path,
    fleet_forks: Preloaded,
    fleet_postgres: PostgresServer,
    fleet_valkey: ValkeyServer,
    fleet_provider: ProviderProcess,
    fleet_schema: str,
) -> AsyncGenerator[Fleet]:
    """With Redis, its provider and its database empty; ``begin`` it."""
    fleet_provider.reset()
    fleet_valkey.run("FLUSHALL")
    url = _copy(fleet_postgres, fleet_schema)
    make = partial(PreloadedServer, fleet_forks)
    async with Fleet(tmp_path, fleet_provider, url, redis_url=fleet_valkey.url, make_server=make) as one:
        yield one
    fleet_postgres.drop(url)


def _copy(postgres: PostgresServer, template: str) -> str:
    deadline = time.monotonic() + 10
    while True:
        try:
            return postgres.create(template)
        except psycopg.errors.ObjectInUse:  # the last connections of who made it
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
