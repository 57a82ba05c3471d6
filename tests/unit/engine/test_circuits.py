"""When a provider is left alone, when it is tried again, and what replicas tell each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from roadworthy.domain.errors import CircuitOpen, StorageUnavailable
from roadworthy.engine.circuits import ProviderCircuits
from tests.support.telemetry import Deaf

SECONDS = timedelta(seconds=1)


class FakeClock:
    def __init__(self) -> None:
        self.passed = timedelta()

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + self.passed

    def monotonic(self) -> float:
        return self.passed.total_seconds()


class Notes(Deaf):
    def __init__(self) -> None:
        self.notes: list[tuple[str, float | None]] = []

    def worker_note(self, event: str, **fields: str | float | bool | None) -> None:
        seconds = fields.get("seconds")
        self.notes.append((event, float(seconds) if isinstance(seconds, float) else None))


@dataclass
class Store:
    """What a fleet shares, by the same clock."""

    clock: FakeClock
    rows: dict[str, tuple[timedelta, int]] = field(default_factory=dict[str, tuple[timedelta, int]])
    away: bool = False

    async def opened(self) -> Mapping[str, tuple[timedelta, int]]:
        self._answer()
        return {name: (until - self.clock.passed, openings) for name, (until, openings) in self.rows.items()}

    async def open(self, provider: str, lasts: timedelta, openings: int) -> None:
        self._answer()
        self.rows[provider] = (self.clock.passed + lasts, openings)

    async def close(self, provider: str) -> None:
        self._answer()
        self.rows.pop(provider, None)

    def _answer(self) -> None:
        if self.away:
            raise StorageUnavailable("away")


@dataclass
class Stage:
    clock: FakeClock = field(default_factory=FakeClock)
    notes: Notes = field(default_factory=Notes)
    store: Store | None = None
    circuits: ProviderCircuits = field(init=False)

    def __post_init__(self) -> None:
        self.circuits = ProviderCircuits(self.clock, self.notes, failures=3, lasts=10 * SECONDS, store=self.store)

    def fail(self, times: int = 1, provider: str = "p") -> None:
        for _ in range(times):
            self.circuits.failed(provider)

    def let_through(self, provider: str = "p") -> bool:
        try:
            self.circuits.check(provider)
        except CircuitOpen:
            return False
        return True

    async def sync(self) -> None:
        assert self.store is not None
        await self.circuits.sync(self.store)


def test_failures_in_a_row_open_a_circuit_which_says_when_to_come_back() -> None:
    stage = Stage()
    stage.fail(2)
    assert stage.let_through()
    stage.fail()
    stage.clock.passed += 4 * SECONDS
    with pytest.raises(CircuitOpen, match="the model provider p keeps failing") as refused:
        stage.circuits.check("p")
    assert refused.value.retry_after == 6 * SECONDS
    assert stage.let_through("another"), "providers stand alone"
    assert stage.notes.notes == [("circuit_opened", 10.0)]


def test_an_answer_in_between_starts_the_count_anew() -> None:
    stage = Stage()
    stage.fail(2)
    stage.circuits.answered("p")
    stage.fail(2)
    assert stage.let_through()
    assert stage.notes.notes == []


def test_one_call_probes_and_its_answer_closes_the_circuit() -> None:
    stage = Stage()
    stage.fail(3)
    stage.clock.passed += 10 * SECONDS
    assert [stage.let_through() for _ in range(3)] == [True, False, False]
    stage.circuits.answered("p")
    assert [stage.let_through() for _ in range(3)] == [True, True, True]
    assert stage.notes.notes == [("circuit_opened", 10.0), ("circuit_closed", None)]
    stage.fail(2)
    assert stage.let_through(), "the count began anew"


def test_a_probe_that_fails_opens_it_again_for_twice_as_long_two_minutes_at_most() -> None:
    stage = Stage()
    stage.fail(3)
    for lasts in (10, 20, 40, 80, 120, 120):
        stage.clock.passed += (lasts - 1) * SECONDS
        assert not stage.let_through()
        stage.clock.passed += SECONDS
        assert stage.let_through()
        stage.fail()
    assert [seconds for _, seconds in stage.notes.notes] == [10, 20, 40, 80, 120, 120, 120]


def test_calls_from_before_that_fail_while_it_is_open_change_nothing() -> None:
    stage = Stage()
    stage.fail(3)
    stage.clock.passed += 5 * SECONDS
    stage.fail(10)
    stage.clock.passed += 5 * SECONDS
    assert stage.let_through()
    assert len(stage.notes.notes) == 1


def test_a_probe_that_was_given_up_leaves_its_turn_to_the_next() -> None:
    stage = Stage()
    stage.fail(3)
    stage.clock.passed += 10 * SECONDS
    assert stage.let_through()
    stage.circuits.left("p")
    assert stage.let_through()
    assert not stage.let_through()


def test_a_probe_without_an_end_holds_nobody_up_for_ever_and_one_failure_opens_it_again() -> None:
    stage = Stage()
    stage.fail(3)
    stage.clock.passed += 10 * SECONDS
    assert stage.let_through()
    stage.clock.passed += 60 * SECONDS
    assert [stage.let_through() for _ in range(3)] == [True, True, True]
    stage.fail()
    assert not stage.let_through()


def test_providers_without_a_name_and_servers_without_breakers_are_never_cut() -> None:
    stage = Stage()
    stage.fail(100, provider="")
    assert stage.let_through("")
    off = ProviderCircuits(stage.clock, stage.notes, failures=0, lasts=SECONDS)
    for _ in range(100):
        off.failed("p")
    off.check("p")


async def test_what_one_replica_opens_all_leave_alone_and_what_one_closes_all_use() -> None:
    store = Store(FakeClock())
    one, two = Stage(clock=store.clock, store=store), Stage(clock=store.clock, store=store)
    one.fail(3)
    await one.sync()
    await two.sync()
    assert not two.let_through()
    store.clock.passed += 10 * SECONDS
    assert two.let_through(), "each process may probe"
    two.circuits.answered("p")
    await two.sync()
    assert not store.rows
    await one.sync()
    assert [one.let_through() for _ in range(2)] == [True, True]
    assert [note for note, _ in one.notes.notes] == [note for note, _ in two.notes.notes]


async def test_a_store_that_is_away_is_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(FakeClock(), away=True)
    stage = Stage(clock=store.clock, store=store)
    stage.fail(3)
    with pytest.raises(StorageUnavailable):
        await stage.sync()
    assert not stage.let_through(), "this process knows it all the same"
    store.away = False
    await stage.sync()
    assert set(store.rows) == {"p"}
