"""Random schedules of arrivals, ends, cancellations, drains and crashes on one folder, checked against what must hold:

every accepted run ends exactly once, runs of a thread never overlap and begin in their order, no more attempts are
under way than there are slots, and a drain is no loss.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TypeAlias

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roadworthy.domain.event import ContentDelta, RunEnded
from roadworthy.domain.run import CancelReason, MultitaskStrategy, Run, RunStatus
from roadworthy.domain.thread import ThreadRef
from roadworthy.ports.runtime import Caps, Completed, Execution, Progress, Spending
from roadworthy.runtimes.scripted import Gate, Script, ScriptedRuntime
from tests.integration.engine.stage import BOUND, FakeClock, Stage, Witness, fresh, open_stage, owner, ref_of, turns

SLOTS = 2
THREADS = 3
Kind: TypeAlias = Literal["submit", "interrupt", "rollback", "step", "end", "cancel", "late", "drain", "crash", "turn"]
Move: TypeAlias = tuple[Kind, int]
STRATEGIES = {
    "submit": MultitaskStrategy.ENQUEUE,
    "interrupt": MultitaskStrategy.INTERRUPT,
    "rollback": MultitaskStrategy.ROLLBACK,
}

# The more often a kind is named, the more often it is drawn.
KINDS: Sequence[Kind] = (
    *("submit", "submit", "submit", "submit", "submit"),
    *("interrupt", "rollback", "step", "end", "end", "end"),
    *("cancel", "late", "drain", "crash", "turn"),
)
moves = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 9)), max_size=25)


class WatchedRuntime(ScriptedRuntime):
    """Each run waits at two gates of its own, with a checkpoint in between. Watches who executes beside whom."""

    def __init__(self) -> None:
        super().__init__()
        self.active: Counter[ThreadRef] = Counter()
        self.most = 0
        self.overlaps: list[ThreadRef] = []
        self.begun: dict[ThreadRef, list[int]] = {}

    def _script_of(self, run: Run) -> Script:
        return (
            ContentDelta(message_id=run.run_id, text="a"),
            Gate(name=f"{run.run_id}-step"),
            Progress(),
            ContentDelta(message_id=f"{run.run_id}-2", text="b"),
            Gate(name=f"{run.run_id}-end"),
            Completed(response="ab", output=None, structured_response=None),
        )

    @asynccontextmanager
    async def execution(
        self,
        run: Run,
        *,
        caps: Caps,
        first_on_thread: bool,
        spending: Spending | None = None,
        told: Collection[str] = (),
    ) -> AsyncGenerator[Execution]:
        """See the port."""
        ref = ref_of(run)
        self.active[ref] += 1
        self.most = max(self.most, self.active.total())
        if self.active[ref] > 1:
            self.overlaps.append(ref)
        if run.attempt == 1:
            self.begun.setdefault(ref, []).append(run.ord)
        try:
            async with super().execution(
                run, caps=caps, first_on_thread=first_on_thread, spending=spending, told=told
            ) as execution:
                yield execution
        finally:
            self.active[ref] -= 1


class Play:
    """One schedule, over as many processes as it has drains and crashes."""

    def __init__(self, file: Path) -> None:
        self.runtime = WatchedRuntime()
        self.runs: list[Run] = []
        self.crashed = False
        self._file = file
        self._clock = FakeClock()
        self._witness = Witness()
        self._process = AsyncExitStack()
        self._stage: Stage | None = None

    @property
    def stage(self) -> Stage:
        assert self._stage is not None
        return self._stage

    async def start(self) -> None:
        self._stage = await self._process.enter_async_context(
            open_stage(
                self._file,
                runtime=self.runtime,
                clock=self._clock,
                witness=self._witness,
                slots=SLOTS,
                drain_timeout=timedelta(milliseconds=5),
            )
        )

    async def die(self) -> None:
        await self._process.aclose()

    async def play(self, schedule: Sequence[Move]) -> None:
        for kind, number in schedule:
            await self._move(kind, number)

    async def _move(self, kind: Kind, number: int) -> None:
        match kind:
            case "submit" | "interrupt" | "rollback":
                await self._submit(number, STRATEGIES[kind])
            case "step" | "end":
                self._open(number, kind)
            case "cancel":
                await self._cancel(number)
            case "late":
                self._clock.advance(timedelta(seconds=number * 5))
            case "drain" | "crash":
                await self._restart(kind)
            case "turn":
                await turns(number * 5)

    async def _restart(self, kind: Kind) -> None:
        if kind == "drain":
            await self.stage.worker.drain()
        self.crashed |= kind == "crash"
        await self.die()
        await self.start()

    async def _submit(self, number: int, strategy: MultitaskStrategy) -> None:
        who = owner("acme", f"user-{number % 2}")
        new = self.stage.run(f"thread-{number % THREADS}", who=who, strategy=strategy)
        self.runs.append(await self.stage.submit(new))

    async def _cancel(self, number: int) -> None:
        if self.runs:
            run = await self.stage.row(self.runs[number % len(self.runs)])
            await self.stage.worker.stop(run, list(CancelReason)[number % 2])

    def _open(self, number: int, kind: Kind) -> None:
        if self.runs:
            run = self.runs[-1 - number % len(self.runs)]
            self.runtime.gate(f"{run.run_id}-step").set()
            if kind == "end":
                self.runtime.gate(f"{run.run_id}-end").set()

    async def finish(self) -> None:
        """Let everything end, and look."""
        for run in self.runs:
            self.runtime.gate(f"{run.run_id}-step").set()
            self.runtime.gate(f"{run.run_id}-end").set()
        ended = await self.stage.ends(self.runs)
        await self._check(ended)

    async def _check(self, ended: Sequence[Run]) -> None:
        told = Counter(run.run_id for run in self._witness.finished)
        assert told.keys() <= {run.run_id for run in ended}
        # A process may die between an end and its record in the log.
        assert all(told[run.run_id] == 1 or (self.crashed and not told[run.run_id]) for run in ended)
        assert all(run.status.final for run in ended)
        assert self.crashed or all(run.losses == 0 for run in ended)
        assert self.runtime.overlaps == []
        assert self.runtime.most <= SLOTS
        assert all(ords == sorted(ords) for ords in self.runtime.begun.values())
        for run in ended:
            await self._check_events(run)

    async def _check_events(self, run: Run) -> None:
        events = await self.stage.events(run)
        assert [isinstance(event.body, RunEnded) for event in events].count(True) == 1
        assert isinstance(events[-1].body, RunEnded)
        numbers: dict[int, list[int]] = {}
        for event in events:
            numbers.setdefault(event.id.attempt, []).append(event.id.n)
        assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())
        if run.status is RunStatus.SUCCESS:
            assert run.result.response == "ab"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schedule=moves)
def test_every_schedule_ends_every_run_once_and_in_order(template: Path, schedule: list[Move]) -> None:
    async def whole() -> None:
        with TemporaryDirectory() as folder:
            play = Play(fresh(template, Path(folder)))
            await play.start()
            try:
                async with asyncio.timeout(BOUND):
                    await play.play(schedule)
                    await play.finish()
            finally:
                await play.die()

    asyncio.run(whole())
