"""The engine on a data folder, wired as ``bootstrap`` does it, with an agent, a clock and failures that a test owns."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from roadworthy.domain.event import Event, RunEvent
from roadworthy.domain.ids import RunId, TenantId, ThreadId, UserId, new_id
from roadworthy.domain.principal import USER_SCOPES, Owner, Principal
from roadworthy.domain.run import InputKind, MultitaskStrategy, Run, RunRequest, RunStatus
from roadworthy.domain.thread import ThreadRef
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.engine.execution import Surroundings
from roadworthy.engine.reaper import reap_orphans
from roadworthy.engine.settlements import Settlements
from roadworthy.engine.worker import Worker, WorkerLimits
from roadworthy.ports.queue import Accepted
from roadworthy.ports.runtime import Caps
from roadworthy.runtimes.scripted import DEFAULT_AGENT, ScriptedRuntime
from roadworthy.services.admission import Admission
from roadworthy.services.agents import Agents
from roadworthy.services.runs import Runs
from roadworthy.services.threads import Threads
from roadworthy.storage.event_log import SqlEventLog
from roadworthy.storage.policies import SqlPolicyStore
from roadworthy.storage.rates import MemoryRateCounters
from roadworthy.storage.runs import SqlRunStore
from roadworthy.storage.sqlite import SqliteDatabase, open_sqlite
from roadworthy.storage.threads import SqlThreadStore
from tests.integration.engine.failing import FailingLedger, FailingLog, FailingQueue, Obstacle
from tests.support.money import FlatPrices

Item = TypeVar("Item")

ANN = Owner(tenant=TenantId("acme"), user=UserId("ann"))
START = datetime(2030, 1, 1, tzinfo=UTC)
BOUND = 20.0


class FakeClock:
    """Stands still until a test moves it. asyncio's timeouts go on in real time."""

    def __init__(self) -> None:
        self._passed = timedelta(0)

    def now(self) -> datetime:
        """The test's present moment."""
        return START + self._passed

    def monotonic(self) -> float:
        """Seconds since the test's start."""
        return self._passed.total_seconds()

    def advance(self, by: timedelta) -> None:
        """Let time pass."""
        self._passed += by


@dataclass
class Witness:
    """A Telemetry that remembers."""

    finished: list[Run] = field(default_factory=list[Run])
    failures: list[BaseException] = field(default_factory=list[BaseException])
    notes: list[str] = field(default_factory=list[str])
    details: dict[str, dict[str, str | float | bool | None]] = field(default_factory=dict)

    def run_finished(self, run: Run) -> None:
        """See the port."""
        self.finished.append(run)

    def attempt_failed(self, run: Run, error: BaseException) -> None:
        """See the port."""
        self.failures.append(error)

    def worker_note(self, event: str, **fields: str | float | bool | None) -> None:
        """See the port."""
        self.notes.append(event)
        self.details[event] = fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Everything on stage. ``around`` holds the very objects that the worker uses."""

    worker: Worker
    around: Surroundings
    runtime: ScriptedRuntime
    clock: FakeClock
    witness: Witness
    queue: FailingQueue
    log: FailingLog
    stored_log: SqlEventLog
    ledger: FailingLedger
    policies: SqlPolicyStore
    rates: MemoryRateCounters
    store: SqlRunStore
    runs: Runs
    threads: Threads
    database: SqliteDatabase
    revived: int

    def run(
        self,
        thread: str = "thread",
        *,
        who: Owner = ANN,
        strategy: MultitaskStrategy = MultitaskStrategy.ENQUEUE,
        timeout: timedelta = timedelta(minutes=2),
    ) -> Run:
        """A run that nobody has accepted yet."""
        return new_run(thread, who=who, strategy=strategy, timeout=timeout, now=self.clock.now())

    async def submit(self, run: Run) -> Run:
        """Hand a run to the worker; the row as it was stored."""
        return (await self.accept(run)).run

    async def accept(self, run: Run) -> Accepted:
        """Hand a run to the worker."""
        return await self.worker.submit(run, idempotency=None)

    async def row(self, run: Run) -> Run:
        """The run's row now."""
        return await self.store.get(run.owner, run.run_id)

    async def end(self, run: Run) -> Run:
        """The run's final row."""
        async with asyncio.timeout(BOUND):
            return await self.runs.wait(run)

    async def ends(self, runs: Sequence[Run]) -> list[Run]:
        """The final rows of several runs."""
        return [await self.end(run) for run in runs]

    async def shown(self, run: Run, body: type[RunEvent]) -> Event:
        """The run's first event of a kind, as soon as somebody who follows it sees it."""
        async with asyncio.timeout(BOUND), aclosing(self.log.follow(run, after=None)) as batches:
            async for batch in batches:
                for event in batch:
                    if isinstance(event.body, body):
                        return event
        raise AssertionError(f"the run ended without {body.__name__}")

    async def events(self, run: Run) -> list[Event]:
        """What a follower sees until the stream ends."""
        async with asyncio.timeout(BOUND), aclosing(self.log.follow(run, after=None)) as batches:
            return [event async for batch in batches for event in batch]

    async def calls(self, run: Run) -> list[str]:
        """Ids of the run's calls on the ledger."""
        return sorted(call.call_id for call in await self.ledger.of_run(run.owner, run.run_id))

    def started(self) -> list[RunId]:
        """Runs in the order in which attempts of them began."""
        return [execution.run.run_id for execution in self.runtime.executions]


@asynccontextmanager
async def open_stage(
    database_file: Path,
    *,
    runtime: ScriptedRuntime | None = None,
    clock: FakeClock | None = None,
    witness: Witness | None = None,
    slots: int = 2,
    queue_size: int = 1_000,
    drain_timeout: timedelta = timedelta(seconds=10),
    idle_timeout: timedelta = timedelta(minutes=1),
    poll_every: timedelta = timedelta(minutes=5),
    tend_every: timedelta = timedelta(milliseconds=10),
    before_claim: Sequence[Obstacle] = (),
    after_claim: Sequence[Obstacle] = (),
    before_open: Sequence[Obstacle] = (),
    before_append: Sequence[Obstacle] = (),
) -> AsyncGenerator[Stage]:
    """A worker under way on a migrated database. Leaving it without ``worker.drain`` is a crash: rows stay running.

    The safety-net poll is practically off, so that a missed wake-up shows as a test that hangs. The obstacles are there
    before the worker starts.
    """
    runtime, clock, witness = runtime or ScriptedRuntime(), clock or FakeClock(), witness or Witness()
    async with open_sqlite(database_file) as database:
        store = SqlRunStore(database)
        queue, ledger = FailingQueue(database, clock), FailingLedger(database)
        policies, rates = SqlPolicyStore(database, clock, cache_for=timedelta(0)), MemoryRateCounters()
        queue.before_claim.extend(before_claim)
        queue.after_claim.extend(after_claim)
        ledger.before_append.extend(before_append)
        async with SqlEventLog(database, store, linger=timedelta(milliseconds=1)) as stored:
            log = FailingLog(stored)
            log.before_open.extend(before_open)
            around = Surroundings(
                worker=f"worker-{new_id()[:6]}",
                queue=queue,
                log=log,
                ledger=ledger,
                runtime=runtime,
                clock=clock,
                telemetry=witness,
                caps=Caps(steps=10, model_calls=10, tool_calls=10),
                idle_timeout=idle_timeout,
                prices=FlatPrices(),
                policies=policies,
                rates=rates,
                settlements=Settlements(),
                reserved_output_tokens=100,
            )
            limits = WorkerLimits(
                slots=slots,
                queue_size=queue_size,
                drain_timeout=drain_timeout,
                tend_every=tend_every,
                poll_every=poll_every,
            )
            worker = Worker(around, limits)
            revived = await reap_orphans(around)
            stage = Stage(
                worker=worker,
                around=around,
                runtime=runtime,
                clock=clock,
                witness=witness,
                queue=queue,
                log=log,
                stored_log=stored,
                ledger=ledger,
                policies=policies,
                rates=rates,
                store=store,
                runs=runs_service(around, worker, runtime, store),
                threads=Threads(threads=SqlThreadStore(database), runs=store, runtime=runtime),
                database=database,
                revived=revived,
            )
            failed: Exception | None = None
            async with worker.under_way():
                try:
                    yield stage
                except Exception as error:  # noqa: BLE001 -- raised below, outside of the worker's task group
                    failed = error
            if failed is not None:
                raise failed


def new_run(
    thread: str = "thread",
    *,
    who: Owner = ANN,
    strategy: MultitaskStrategy = MultitaskStrategy.ENQUEUE,
    timeout: timedelta = timedelta(minutes=2),
    now: datetime = START,
) -> Run:
    """A run that nobody has accepted yet, with a message for the agent."""
    return Run(
        run_id=RunId(new_id()),
        owner=who,
        thread_id=ThreadId(thread),
        ord=0,
        agent=DEFAULT_AGENT.name,
        request=RunRequest(
            kind=InputKind.INPUT,
            payload={"messages": [{"role": "user", "id": new_id(), "content": "hello"}]},
            multitask_strategy=strategy,
        ),
        request_id="request",
        key_id=None,
        status=RunStatus.PENDING,
        created_at=now,
        deadline_at=now + timeout,
    )


def runs_service(around: Surroundings, worker: Worker, runtime: ScriptedRuntime, store: SqlRunStore) -> Runs:
    """The service in front of the worker."""
    clock = around.clock
    return Runs(
        runtime=runtime,
        agents=Agents(runtime),
        admission=Admission(worker, policies=around.policies, ledger=around.ledger, rates=around.rates, clock=clock),
        dispatcher=worker,
        store=store,
        ledger=around.ledger,
        log=around.log,
        clock=clock,
        new_id=new_id,
        timeout=timedelta(minutes=2),
    )


def fresh(template: Path, folder: Path) -> Path:
    """A migrated, empty database of the test's own."""
    return Path(shutil.copy(template, folder / "roadworthy.db"))


def owner(tenant: str, user: str) -> Owner:
    """Some user of some tenant."""
    return Owner(tenant=TenantId(tenant), user=UserId(user))


def caller(who: Owner = ANN) -> Principal:
    """The user with an ordinary key."""
    return Principal(owner=who, scopes=USER_SCOPES)


def ref_of(run: Run) -> ThreadRef:
    """The run's thread."""
    return ThreadRef(owner=run.owner, thread_id=run.thread_id)


def call(call_id: str, *, outcome: str = "complete", estimated: bool = False) -> ModelCall:
    """A model call of ten tokens in and one out."""
    return ModelCall(
        call_id=call_id,
        node="model",
        provider="provider",
        model="model",
        tokens=Tokens(input=10, output=1),
        estimated=estimated,
        outcome=outcome,
        started_at=START,
        finished_at=START,
    )


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110 -- what is looked at has no event of its own
            await asyncio.sleep(0.001)


async def turns(count: int = 50) -> None:
    """Let everything that is ready happen."""
    for _ in range(count):
        await asyncio.sleep(0)
