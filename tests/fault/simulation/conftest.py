"""What every history begins with, made once."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from roadworthy.domain.audit import Actor
from roadworthy.domain.ids import BudgetId
from roadworthy.storage.policies import SqlPolicyStore
from roadworthy.storage.schema import migrate
from roadworthy.storage.sqlite import open_sqlite
from roadworthy.telemetry.clock import SystemClock
from tests.fault.simulation.clients import PAYING
from tests.fault.simulation.database import LeasedText, image_of
from tests.fault.simulation.history import Ground
from tests.support.money import a_budget


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A migrated database in which one tenant has a budget."""
    path = tmp_path_factory.mktemp("ground") / "ground.db"
    migrate(path)
    asyncio.run(_give_budget(path))
    return image_of(path)


@pytest.fixture
def ground(image: bytes) -> Ground:
    """The statements are the test's own, to break."""
    return Ground(image=image, text=LeasedText())


async def _give_budget(path: Path) -> None:
    async with open_sqlite(path) as database:
        budget = replace(a_budget(10**9, tenant=PAYING), budget_id=BudgetId("budget"))
        await SqlPolicyStore(database, SystemClock()).set_budget(PAYING, budget, Actor(name="cli:test"))
