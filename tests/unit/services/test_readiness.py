"""What makes a process unready, what only degrades it, and that each has a name."""

import asyncio
from collections.abc import Sequence

import pytest

from roadworthy.domain.ids import RunId
from roadworthy.domain.load import Load
from roadworthy.domain.principal import Owner
from roadworthy.domain.rate_limit import AppliedLimit
from roadworthy.domain.run import CancelReason, Run
from roadworthy.ports.queue import Accepted, IdempotencyRecord
from roadworthy.services.readiness import Problem, Readiness


class Engine:
    """A Dispatcher in the state that the test gives it."""

    def __init__(self, *, draining: bool = False, stuck: bool = False, trouble: str | None = None) -> None:
        self.draining = draining
        self._stuck = stuck
        self._trouble = trouble

    async def submit(
        self, run: Run, *, idempotency: IdempotencyRecord | None, at_once: Sequence[AppliedLimit] = ()
    ) -> Accepted:
        raise AssertionError("not used")

    async def find_replay(self, owner: Owner, record: IdempotencyRecord) -> Run | None:
        raise AssertionError("not used")

    async def stop(self, run: Run, reason: CancelReason) -> Run:
        raise AssertionError("not used")

    def provider_trouble(self) -> str | None:
        return self._trouble

    def load(self) -> Load:
        raise AssertionError("not used")

    def stuck(self) -> bool:
        return self._stuck

    def executing(self) -> frozenset[RunId]:
        return frozenset()


async def well() -> str | None:
    return None


async def locked() -> str | None:
    return "the database is locked"


async def never() -> str | None:
    raise AssertionError("a draining process asks nobody")


async def test_a_process_without_a_problem_is_ready() -> None:
    assert await Readiness(Engine(), {"database": well, "checkpoints": well}).problems() == []


async def test_every_part_at_fault_is_named() -> None:
    readiness = Readiness(Engine(stuck=True), {"database": locked, "checkpoints": well})
    problems = await readiness.problems()
    assert [problem.name for problem in problems] == ["slots", "database"]
    assert problems[1] == Problem(name="database", detail="the database is locked")


async def test_a_draining_process_says_only_that() -> None:
    readiness = Readiness(Engine(draining=True, stuck=True), {"database": never})
    assert readiness.draining
    assert [problem.name for problem in await readiness.problems()] == ["draining"]


@pytest.mark.parametrize("trouble", [None, "the provider is overloaded"])
async def test_a_providers_trouble_degrades_and_does_not_unready(trouble: str | None) -> None:
    readiness = Readiness(Engine(trouble=trouble), {"database": well})
    assert await readiness.problems() == []
    assert [problem.detail for problem in readiness.degraded()] == ([] if trouble is None else [trouble])


async def test_a_probe_that_does_not_come_back_is_told_and_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadworthy.services.readiness._PATIENCE", 0.01)
    asked, answer = 0, asyncio.Event()

    async def silent() -> str | None:
        nonlocal asked
        asked += 1
        await answer.wait()
        return None

    readiness = Readiness(Engine(), {"checkpoints": silent, "database": well})
    for _ in range(2):
        assert [problem.name for problem in await readiness.problems()] == ["checkpoints"]
    assert asked == 1
    answer.set()
    monkeypatch.undo()
    assert await readiness.problems() == []
    assert await readiness.problems() == []
    assert asked == 2
