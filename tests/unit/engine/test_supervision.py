"""A process that lost every slot to its threads says so and ends, unless they come back in time."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from roadworthy.domain.ids import RunId
from roadworthy.domain.load import Load
from roadworthy.domain.principal import Owner
from roadworthy.domain.rate_limit import AppliedLimit
from roadworthy.domain.run import CancelReason, Run
from roadworthy.engine import supervision
from roadworthy.engine.supervision import EngineStuck, watch_slots
from roadworthy.ports.queue import Accepted, IdempotencyRecord
from tests.support.telemetry import Deaf


class Slots:
    """A Dispatcher whose slots are stuck as the test's list says, look by look; the last answer stays."""

    draining = False

    def __init__(self, answers: list[bool]) -> None:
        self.answers = answers
        self.looks = 0
        self.last = asyncio.Event()

    def load(self) -> Load:
        raise AssertionError("not used")

    def stuck(self) -> bool:
        self.looks += 1
        if len(self.answers) > 1:
            return self.answers.pop(0)
        self.last.set()
        return self.answers[0]

    async def submit(
        self, run: Run, *, idempotency: IdempotencyRecord | None, at_once: Sequence[AppliedLimit] = ()
    ) -> Accepted:
        raise AssertionError("not used")

    async def find_replay(self, owner: Owner, record: IdempotencyRecord) -> Run | None:
        raise AssertionError("not used")

    async def stop(self, run: Run, reason: CancelReason) -> Run:
        raise AssertionError("not used")

    def provider_trouble(self) -> str | None:
        return None

    def executing(self) -> frozenset[RunId]:
        return frozenset()


class Notes(Deaf):
    """A Telemetry that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def worker_note(self, event: str, **fields: str | float | bool | None) -> None:
        self.notes.append(event)


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "_LOOK_EVERY", timedelta(milliseconds=1))


async def test_slots_that_stay_stuck_end_the_process() -> None:
    telemetry = Notes()
    async with asyncio.timeout(10):
        with pytest.raises(EngineStuck, match=r"for 0\.01 s"):
            await watch_slots(Slots([False, True]), timedelta(milliseconds=10), telemetry)
    assert telemetry.notes == ["all_slots_stuck"]


async def test_slots_that_come_back_start_the_count_again() -> None:
    slots, telemetry = Slots([True, False, True, True, False]), Notes()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        watching = group.create_task(watch_slots(slots, timedelta(hours=1), telemetry))
        await slots.last.wait()
        watching.cancel()
    assert telemetry.notes == ["all_slots_stuck", "all_slots_stuck"]
