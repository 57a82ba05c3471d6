"""The keeper of leases: what it tells the worker, and when it gives everything up by itself."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.ids import RunId, TenantId, UserId
from roadworthy.domain.lease import Lease, LeaseTerms
from roadworthy.domain.principal import Owner
from roadworthy.engine.leases import LeaseKeeper
from tests.support.telemetry import Deaf

TERMS = LeaseTerms(
    length=timedelta(seconds=100),
    renew_every=timedelta(milliseconds=5),
    margin=timedelta(seconds=10),
    stall=timedelta(milliseconds=20),
    strange_after=timedelta(milliseconds=25),
)
OWNER = Owner(tenant=TenantId("acme"), user=UserId("ann"))


def lease(name: str, attempt: int = 1) -> Lease:
    return Lease(run_id=RunId(name), owner=OWNER, attempt=attempt, worker="worker")


class Store:
    """What the database holds for the worker; ``error``: it does not answer."""

    def __init__(self) -> None:
        self.held: list[Lease] = []
        self.error: Exception | None = None
        self.renewals = 0
        self.closed = False

    def renew(self, worker: str) -> Sequence[Lease]:
        assert worker == "worker"
        self.renewals += 1
        if self.error is not None:
            raise self.error
        return list(self.held)

    def close(self) -> None:
        self.closed = True


@dataclass
class Worker:
    """What it was told."""

    gone: list[Lease] = field(default_factory=list[Lease])
    strange: list[Lease] = field(default_factory=list[Lease])
    came: int = 0

    def lost(self, leases: Collection[Lease]) -> None:
        self.gone.extend(leases)

    def found(self, leases: Collection[Lease]) -> None:
        self.strange.extend(leases)

    def work_came(self) -> None:
        self.came += 1


class Notes(Deaf):
    """A Telemetry that remembers what was noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def worker_note(self, event: str, **_fields: str | float | bool | None) -> None:
        self.notes.append(event)


class Scene:
    """A keeper at work, with time and heartbeat that the test owns."""

    def __init__(self) -> None:
        self.store, self.worker, self.notes = Store(), Worker(), Notes()
        self.now = 0.0
        self.wedged = False
        self._beats = 0
        self.keeper = LeaseKeeper(
            self.store, "worker", TERMS, beats=self.beats, telemetry=self.notes, monotonic=lambda: self.now
        )

    def beats(self) -> int:
        self._beats += not self.wedged
        return self._beats

    async def until_sound(self, sound: bool = True) -> None:
        async with asyncio.timeout(10):
            while self.keeper.sound is not sound:  # noqa: ASYNC110 -- a thread decides it
                await asyncio.sleep(0.001)

    async def renewals(self, more: int) -> None:
        """Until so many have begun."""
        enough = self.store.renewals + more
        async with asyncio.timeout(10):
            while self.store.renewals < enough:  # noqa: ASYNC110 -- a thread decides it
                await asyncio.sleep(0.001)
        await asyncio.sleep(0)


@asynccontextmanager
async def at_work() -> AsyncGenerator[Scene]:
    scene = Scene()
    keeping = asyncio.get_running_loop().create_task(scene.keeper.keep(scene.worker))
    try:
        yield scene
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
        assert scene.store.closed
        assert not scene.keeper.sound


async def test_it_is_sound_once_the_database_has_answered() -> None:
    async with at_work() as scene:
        await scene.until_sound()
        await scene.renewals(3)
        assert scene.worker.came == 1


async def test_a_lease_that_is_not_held_any_more_is_lost_and_its_neighbour_is_not() -> None:
    async with at_work() as scene:
        await scene.until_sound()
        scene.store.held = [lease("kept"), lease("again", 2)]
        for one in (lease("kept"), lease("again", 1), lease("ended")):
            scene.keeper.took(one)
        scene.keeper.left(lease("ended"))
        await scene.renewals(3)
        assert set(scene.worker.gone) == {lease("again", 1)}


async def test_what_nobody_knows_for_long_is_found() -> None:
    async with at_work() as scene:
        scene.store.held = [lease("strange"), lease("mine")]
        scene.keeper.took(lease("mine"))
        await scene.renewals(4)
        assert scene.worker.strange == []
        await scene.renewals(6)
        assert set(scene.worker.strange) == {lease("strange")}


async def test_everything_is_given_up_before_it_expires_and_nothing_renewed_until_it_has() -> None:
    async with at_work() as scene:
        await scene.until_sound()
        scene.store.held = [lease("mine")]
        scene.keeper.took(lease("mine"))
        await scene.renewals(2)
        scene.store.error = StorageUnavailable("away")
        await scene.renewals(2)
        scene.now = 89.9
        await scene.renewals(2)
        assert scene.keeper.sound
        scene.now = 90.1
        await scene.until_sound(False)
        assert scene.worker.gone == [lease("mine")]
        assert {"lease_renewal_failed", "leases_given_up"} <= set(scene.notes.notes)
        scene.store.error = None
        before = scene.store.renewals
        scene.now = 99.9
        await asyncio.sleep(0.03)
        assert scene.store.renewals - before <= 1  # one may have been under way
        scene.keeper.left(lease("mine"))
        scene.store.held = []
        scene.now = 250.0
        await scene.until_sound()


async def test_a_wedged_loop_is_not_renewed_for() -> None:
    async with at_work() as scene:
        await scene.until_sound()
        scene.wedged = True
        await asyncio.sleep(0.1)
        before = scene.store.renewals
        await asyncio.sleep(0.05)
        assert scene.store.renewals == before
        scene.wedged = False
        await scene.renewals(2)


async def test_a_defect_of_the_store_ends_the_keeper() -> None:
    scene = Scene()
    scene.store.error = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        async with asyncio.timeout(10):
            await scene.keeper.keep(scene.worker)
