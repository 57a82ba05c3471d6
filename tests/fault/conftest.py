"""A provider process that outlives the servers, and servers under test with the agent that uses it."""

from collections.abc import AsyncGenerator
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
