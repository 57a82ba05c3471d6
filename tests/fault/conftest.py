"""A provider process that outlives the servers, and servers under test with the agent that uses it."""

import gc
import warnings
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from tests.support.effects import EffectLog
from tests.support.provider.process import ProviderProcess
from tests.support.rig import Rig


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
