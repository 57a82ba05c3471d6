"""Workers that share one Postgres: each has its own connections, event log, leases and clock, as processes would."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from roadworthy.domain.fleet import FleetCaps
from roadworthy.domain.ids import RunId, new_id
from roadworthy.domain.lease import LeaseTerms
from roadworthy.domain.run import Run
from roadworthy.engine.execution import Surroundings
from roadworthy.engine.fleet import Fleet
from roadworthy.engine.leases import LeaseKeeper
from roadworthy.engine.settlements import Settlements
from roadworthy.engine.worker import Worker, WorkerLimits
from roadworthy.ports.clock import Clock
from roadworthy.ports.runtime import Caps
from roadworthy.ports.signals import Heard
from roadworthy.runtimes.scripted import ScriptedRuntime
from roadworthy.storage.event_log import SqlEventLog
from roadworthy.storage.leases import PostgresLeases
from roadworthy.storage.ledger import SqlLedger
from roadworthy.storage.policies import SqlPolicyStore
from roadworthy.storage.postgres import PostgresDatabase, Sizes, open_postgres
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.rates import MemoryRateCounters
from roadworthy.storage.runs import SqlRunStore
from tests.integration.engine.stage import BOUND, FakeClock, Witness
from tests.support.money import FlatPrices

# Faster than the defaults; slow enough that a busy machine does not look like a dead worker.
TERMS = LeaseTerms(
    length=timedelta(seconds=3),
    renew_every=timedelta(seconds=0.3),
    margin=timedelta(seconds=0.5),
    stall=timedelta(seconds=1),
    reap_every=timedelta(seconds=0.2),
    strange_after=timedelta(seconds=3),
)


class Town:
    """Wake-ups between the replicas of a test; ``deaf``: nobody hears anything."""

    def __init__(self) -> None:
        self.deaf = False
        self.criers: list[Crier] = []

    def crier(self) -> "Crier":
        """One process's end."""
        self.criers.append(crier := Crier(self))
        return crier


class Crier:
    """``ports.signals.Wakeups``."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self._heard = Heard()
        self._news = asyncio.Event()

    def work(self) -> None:
        """See the port."""
        self._tell(Heard(work=True))

    def cancel(self, run_id: RunId) -> None:
        """See the port."""
        self._tell(Heard(cancelled=frozenset({run_id})))

    async def heard(self) -> Heard:
        """See the port."""
        await self._news.wait()
        self._news.clear()
        heard, self._heard = self._heard, Heard()
        return heard

    def _tell(self, news: Heard) -> None:
        for other in self._town.criers:
            if other is not self and not self._town.deaf:
                before = other._heard
                other._heard = Heard(
                    work=before.work or news.work, cancelled=before.cancelled | news.cancelled, resumed=False
                )
                other._news.set()


class Heart:
    """The event loop's heartbeat, as a number; ``stopped``: the loop is wedged."""

    def __init__(self) -> None:
        self.stopped = False
        self._beats = 0

    def beats(self) -> int:
        """See ``Watchdog.beats``."""
        self._beats += not self.stopped
        return self._beats


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One process."""

    worker: Worker
    around: Surroundings
    queue: SqlRunQueue
    store: SqlRunStore
    log: SqlEventLog
    ledger: SqlLedger
    keeper: LeaseKeeper
    heart: Heart
    witness: Witness
    database: PostgresDatabase
    life: "asyncio.Task[None]"

    async def submit(self, run: Run) -> Run:
        """Hand a run to this worker; the row as it was stored."""
        return (await self.worker.submit(run, idempotency=None)).run

    async def row(self, run: Run) -> Run:
        """The run's row now."""
        return await self.store.get(run.owner, run.run_id)

    async def end(self, run: Run) -> Run:
        """The run's final row."""
        async with asyncio.timeout(BOUND):
            while not (row := await self.row(run)).status.final:  # noqa: ASYNC110 -- another process ends it
                await asyncio.sleep(0.01)
            return row

    async def kill(self) -> None:
        """End the worker where it stands: nothing is given back, no lease is renewed."""
        self.life.cancel()
        await asyncio.wait({self.life})


class Replicas:
    """Makes workers on one database, all with one runtime: its threads are what their checkpointer would hold."""

    def __init__(self, url: str, runtime: ScriptedRuntime, stack: AsyncExitStack) -> None:
        self.url = url
        self.runtime = runtime
        self.town = Town()
        self._stack = stack
        self._numbers = itertools.count(1)

    async def start(
        self,
        *,
        slots: int = 2,
        caps: FleetCaps | None = None,
        terms: LeaseTerms = TERMS,
        clock: Clock | None = None,
        lease_url: str | None = None,
        drain_timeout: timedelta = timedelta(0),
        tend_every: timedelta = timedelta(milliseconds=100),
        poll_every: timedelta = timedelta(minutes=5),
    ) -> Replica:
        """One more process. ``lease_url``: where its renewals go, when that may break alone."""
        limits = WorkerLimits(
            slots=slots,
            queue_size=1_000,
            drain_timeout=drain_timeout,
            tend_every=tend_every,
            poll_every=poll_every,
        )
        name = f"replica-{next(self._numbers)}-{new_id()[:6]}"
        born: asyncio.Future[Replica] = asyncio.get_running_loop().create_future()
        life = asyncio.get_running_loop().create_task(self._live(name, limits, caps, terms, clock, lease_url, born))
        self._stack.push_async_callback(_end, life)
        await asyncio.wait({born, life}, return_when=asyncio.FIRST_COMPLETED)
        if not born.done():
            life.result()
        return replace(born.result(), life=life)

    async def _live(
        self,
        name: str,
        limits: WorkerLimits,
        caps: FleetCaps | None,
        terms: LeaseTerms,
        clock: Clock | None,
        lease_url: str | None,
        born: "asyncio.Future[Replica]",
    ) -> None:
        clock, witness = clock or FakeClock(), Witness()
        async with (
            open_postgres(self.url, sizes=Sizes(writers=3, readers=2)) as database,
            open_postgres(lease_url or self.url, sizes=Sizes(writers=1, readers=1)) as renewing,
        ):
            store = SqlRunStore(database)
            queue = SqlRunQueue(database, clock, lease=terms.length, caps=caps or FleetCaps())
            ledger = SqlLedger(database)
            async with SqlEventLog(database, store, linger=timedelta(milliseconds=1)) as log:
                around = Surroundings(
                    worker=name,
                    queue=queue,
                    log=log,
                    ledger=ledger,
                    runtime=self.runtime,
                    clock=clock,
                    telemetry=witness,
                    caps=Caps(steps=10, model_calls=10, tool_calls=10),
                    idle_timeout=timedelta(minutes=1),
                    prices=FlatPrices(),
                    policies=SqlPolicyStore(database, clock, cache_for=timedelta(0)),
                    rates=MemoryRateCounters(),
                    settlements=Settlements(),
                    reserved_output_tokens=100,
                )
                heart = Heart()
                leases = PostgresLeases(renewing, terms)
                keeper = LeaseKeeper(leases, name, terms, beats=heart.beats, telemetry=witness)
                worker = Worker(around, limits, Fleet(keeper, self.town.crier()))
                async with worker.under_way():
                    born.set_result(
                        Replica(
                            worker=worker,
                            around=around,
                            queue=queue,
                            store=store,
                            log=log,
                            ledger=ledger,
                            keeper=keeper,
                            heart=heart,
                            witness=witness,
                            database=database,
                            life=born,  # pyright: ignore[reportArgumentType] -- ``start`` puts the task there
                        )
                    )
                    await asyncio.Event().wait()


async def _end(life: "asyncio.Task[None]") -> None:
    life.cancel()
    await asyncio.wait({life})


@asynccontextmanager
async def open_replicas(url: str, runtime: ScriptedRuntime | None = None) -> AsyncGenerator[Replicas]:
    """Workers end with it."""
    async with AsyncExitStack() as stack:
        yield Replicas(url, runtime or ScriptedRuntime(), stack)


async def sound(*replicas: Replica) -> None:
    """Return when all of them may claim."""
    async with asyncio.timeout(BOUND):
        while not all(one.keeper.sound for one in replicas):  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0.01)


def executing(replicas: Sequence[Replica]) -> list[int]:
    """How many runs each has under way."""
    return [len(one.worker.executing()) for one in replicas]
