"""One process of the simulation: everything that ``bootstrap`` makes, on its own loop and its own way to the database.

It can be killed (nothing of it moves ever again), stopped and continued, cut off, drained, and started anew.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.ids import RunId
from roadworthy.domain.lease import Lease, LeaseTerms
from roadworthy.domain.run import Run
from roadworthy.engine.execution import Surroundings
from roadworthy.engine.fleet import Fleet
from roadworthy.engine.leases import Holder, LeaseKeeper
from roadworthy.engine.reaper import reap_orphans
from roadworthy.engine.settlements import Settlements
from roadworthy.engine.spending import sweep_reservations
from roadworthy.engine.worker import Worker, WorkerLimits
from roadworthy.ports.runtime import Caps
from roadworthy.ports.signals import Heard
from roadworthy.storage.database_clock import clock_of
from roadworthy.storage.event_log import SqlEventLog
from roadworthy.storage.ledger import SqlLedger
from roadworthy.storage.live_events import NoLiveEvents
from roadworthy.storage.policies import SqlPolicyStore
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.rates import MemoryRateCounters
from roadworthy.storage.runs import SqlRunStore
from tests.fault.simulation.database import Link, Server
from tests.fault.simulation.provider import Agents, Provider
from tests.fault.simulation.world import Loop, World
from tests.support.money import FlatPrices
from tests.support.telemetry import Deaf

TERMS = LeaseTerms()
_LOOK_EVERY = 0.1


@dataclass
class Witness(Deaf):
    """Remembers what the process has said of itself."""

    finished: list[Run] = field(default_factory=list[Run])
    failures: list[BaseException] = field(default_factory=list[BaseException])
    notes: list[str] = field(default_factory=list[str])

    def run_finished(self, run: Run) -> None:
        self.finished.append(run)

    def attempt_failed(self, run: Run, error: BaseException) -> None:
        self.failures.append(error)

    def worker_note(self, event: str, **fields: str | float | bool | None) -> None:
        self.notes.append(event)


class Crier:
    """``ports.signals.Wakeups`` between the processes: who is stopped hears it later, who is cut off never."""

    def __init__(self, home: "Process", all_of_them: "Sequence[Process]") -> None:
        self._home = home
        self._all = all_of_them
        self._heard = Heard()
        self._news = asyncio.Event()

    def work(self) -> None:
        self._tell(Heard(work=True))

    def cancel(self, run_id: RunId) -> None:
        self._tell(Heard(cancelled=frozenset({run_id})))

    async def heard(self) -> Heard:
        await self._news.wait()
        self._news.clear()
        heard, self._heard = self._heard, Heard()
        return heard

    def _tell(self, news: Heard) -> None:
        for other in self._all:
            if other is not self._home and not (self._home.link.cut or other.link.cut):
                other.hear(news)

    def add(self, news: Heard) -> None:
        """Somebody else has said something."""
        before = self._heard
        self._heard = Heard(work=before.work or news.work, cancelled=before.cancelled | news.cancelled)
        self._news.set()


class _InOrder:
    """A Holder that is told of leases in an order that does not depend on hashes."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder

    def lost(self, leases: Any) -> None:
        self._holder.lost(sorted(leases, key=lambda one: one.run_id))

    def found(self, leases: Any) -> None:
        self._holder.found(sorted(leases, key=lambda one: one.run_id))

    def work_came(self) -> None:
        self._holder.work_came()


class SteppedKeeper(LeaseKeeper):
    """Renews by the process's own loop in place of a thread, which stops and dies with the process just so."""

    def __init__(self, link: Link, worker: str, terms: LeaseTerms, telemetry: Witness) -> None:
        super().__init__(_NoStore(), worker, terms, beats=lambda: 0, telemetry=telemetry, monotonic=link.loop.time)
        self._link = link

    @property
    def known(self) -> frozenset[Lease]:
        return self._known

    async def keep(self, holder: Holder) -> None:
        """See ``LeaseKeeper``."""
        ordered = _InOrder(holder)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._renew_in_turn(ordered))
                while True:
                    await asyncio.sleep(_LOOK_EVERY)
                    self._look(ordered)
        finally:
            self._sound = False

    async def _renew_in_turn(self, holder: Holder) -> None:
        while True:
            if self._monotonic() >= self._renew_from:
                known, begun = self._known, self._monotonic()
                try:
                    held = await self._link.renew(self._worker, self.terms)
                except StorageUnavailable:
                    self._failed()
                else:
                    self._renewed(holder, begun, known, held)
            await asyncio.sleep(self.terms.renew_every.total_seconds())


class _NoStore:
    def renew(self, worker: str) -> Sequence[Lease]:
        raise AssertionError("leases are renewed on the loop")

    def close(self) -> None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a process is made of, once it is up."""

    worker: Worker
    around: Surroundings
    store: SqlRunStore
    log: SqlEventLog
    keeper: SteppedKeeper


class Process:
    """See the module. ``number`` counts the processes of a history; a restart makes a new one."""

    def __init__(
        self, world: World, server: Server, provider: Provider, fleet: "list[Process]", number: int, slots: int
    ) -> None:
        self.name = f"p{number}"
        self.world = world
        self.loop = Loop(world)
        self.link = Link(world, server, self.loop)
        self.witness = Witness()
        self.alive = True
        self.stopped = False
        self.draining = False
        # When it was continued after a stop: for a moment it does not know yet what it has missed.
        self.continued: list[float] = []
        # Moments of whatever was done to it.
        self.troubled: list[float] = []
        self.parts: Parts | None = None
        # Tasks of an idle process.
        self.baseline = 0
        self.agents = Agents(self.name, self.link, provider, fleet[0].agents if fleet else None)
        self._slots = slots
        self._begun: list[asyncio.Task[Any]] = []
        self._leaving: asyncio.Event | None = None
        self._crier: Crier | None = None
        self._fleet = fleet
        fleet.append(self)
        world.processes.append(self)
        self.life = self.start(self._live())

    @property
    def awake(self) -> bool:
        """Whether it gets its turns."""
        return self.alive and not self.stopped

    @property
    def serves(self) -> bool:
        """Whether a client who comes now gets an answer some time."""
        return self.awake and self.parts is not None and not self.draining

    @property
    def tasks(self) -> int:
        """Tasks that have not ended."""
        return len(asyncio.all_tasks(self.loop))

    def start(self, coro: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Let it do something beside."""
        task = self.loop.create_task(coro)
        # Of a process that was killed nothing else may hold it any more.
        self._begun.append(task)
        return task

    def hear(self, news: Heard) -> None:
        """A hint arrives, some time."""

        def arrive() -> None:
            if self._crier is not None and self.alive:
                self.loop.call_soon(self._crier.add, news)

        self.world.after(self.world.chance.uniform(0.001, 0.05), arrive)

    def kill(self) -> None:
        """kill -9."""
        self.troubled.append(self.world.now)
        self._vanish()

    def stop(self) -> None:
        """SIGSTOP."""
        self.troubled.append(self.world.now)
        self.stopped = self.link.frozen = True

    def go_on(self) -> None:
        """SIGCONT."""
        self.stopped = False
        self.continued.append(self.world.now)
        self.troubled.append(self.world.now)
        self.link.thaw()

    def cut(self) -> None:
        """Nothing gets through to the database or back."""
        self.troubled.append(self.world.now)
        self.link.cut = True

    def join(self) -> None:
        """It does again."""
        self.troubled.append(self.world.now)
        self.link.cut = False

    def drain(self) -> None:
        """SIGTERM."""
        self.troubled.append(self.world.now)
        self.draining = True
        if self._leaving is not None:
            self.loop.call_soon(self._leaving.set)

    def bury(self) -> None:
        """Let what is left of it end, when nobody looks any more."""
        self.kill()
        _end_tasks(self.loop)
        self.loop.close()

    async def _live(self) -> None:
        link, loop, witness = self.link, self.loop, self.witness
        self._leaving = asyncio.Event()
        self._crier = Crier(self, self._fleet)
        clock = await clock_of(link, loop.time)
        store = SqlRunStore(link)
        async with SqlEventLog(link, store, live=NoLiveEvents()) as log:
            around = Surroundings(
                worker=self.name,
                queue=SqlRunQueue(link, clock, lease=TERMS.length),
                log=log,
                ledger=SqlLedger(link),
                runtime=self.agents,
                clock=clock,
                telemetry=witness,
                caps=Caps(steps=10, model_calls=100, tool_calls=10),
                idle_timeout=timedelta(minutes=1),
                prices=FlatPrices(),
                policies=SqlPolicyStore(link, clock),
                rates=MemoryRateCounters(),
                settlements=Settlements(),
                reserved_output_tokens=100,
            )
            keeper = SteppedKeeper(link, self.name, TERMS, witness)
            limits = WorkerLimits(slots=self._slots, queue_size=1_000, drain_timeout=timedelta(seconds=4))
            worker = Worker(around, limits, Fleet(keeper, self._crier, chance=self.world.chance.random))
            await reap_orphans(around)
            async with worker.under_way(), _beside(clock.keep(), sweep_reservations(around.ledger, clock, witness)):
                self.parts = Parts(worker=worker, around=around, store=store, log=log, keeper=keeper)
                self.baseline = len(asyncio.all_tasks()) + 1  # the keeper's renewals begin after this
                await self._leaving.wait()
                await worker.drain()
        self._vanish()

    def _vanish(self) -> None:
        self.alive = False
        self.link.closed = True
        if self in self.world.processes:
            self.world.processes.remove(self)


@asynccontextmanager
async def _beside(*chores: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(chore) for chore in chores]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


def _end_tasks(loop: Loop) -> None:
    for _ in range(100):
        left = asyncio.all_tasks(loop)
        if not left:
            break
        for task in left:
            task.cancel()
        loop.turn()
    else:
        raise AssertionError("tasks that do not end")
