"""The only composition root: settings → adapters → services → engine, as one async context.

Called by ``cli``; ``app.py`` puts the HTTP side on top of what is yielded here.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from roadworthy.cluster import Shared, open_shared, state_place
from roadworthy.database import open_database
from roadworthy.domain.errors import ConfigError, StorageUnavailable
from roadworthy.domain.ids import AgentName, new_id
from roadworthy.engine.acceptor import Acceptor
from roadworthy.engine.circuits import ProviderCircuits
from roadworthy.engine.execution import Surroundings
from roadworthy.engine.fleet import Fleet
from roadworthy.engine.heartbeat import Watchdog
from roadworthy.engine.leases import LeaseKeeper
from roadworthy.engine.reaper import reap_orphans
from roadworthy.engine.settlements import Settlements
from roadworthy.engine.spending import sweep_reservations
from roadworthy.engine.supervision import EngineStuck, watch_slots
from roadworthy.engine.worker import Worker, WorkerLimits
from roadworthy.identity.tokens import open_tokens
from roadworthy.ports.circuits import Circuits
from roadworthy.ports.identity import TokenVerifier
from roadworthy.ports.runtime import AgentRuntime, Caps
from roadworthy.ports.telemetry import Telemetry
from roadworthy.pricing.book import open_price_book
from roadworthy.runtimes.langgraph.registry import LoadedAgent
from roadworthy.runtimes.langgraph.runtime import open_runtime
from roadworthy.runtimes.langgraph.store import StoreConfig
from roadworthy.runtimes.langgraph.threads import TrackingExecutor
from roadworthy.services.admission import Admission
from roadworthy.services.agents import Agents
from roadworthy.services.audit import AuditTrail
from roadworthy.services.budgets import Budgets
from roadworthy.services.identity import Identity
from roadworthy.services.keys import Keys, NewKey
from roadworthy.services.limits import Limits
from roadworthy.services.readiness import Probe, Readiness
from roadworthy.services.retention import Kept, Retention, keep_pruning
from roadworthy.services.runs import Runs
from roadworthy.services.streams import Streams
from roadworthy.services.threads import Threads, finish_erasures
from roadworthy.services.usage import UsageReports
from roadworthy.services.user_export import UserExports
from roadworthy.services.users import UserErasures
from roadworthy.settings import Settings
from roadworthy.storage.audit import SqlAuditLog
from roadworthy.storage.event_log import SqlEventLog
from roadworthy.storage.folder import DataFolder
from roadworthy.storage.health import database_problem
from roadworthy.storage.keys import SqlKeyStore
from roadworthy.storage.ledger import SqlLedger
from roadworthy.storage.policies import SqlPolicyStore
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.retention import SqlRetention
from roadworthy.storage.runs import SqlRunStore
from roadworthy.storage.threads import SqlThreadStore
from roadworthy.storage.transaction import Database
from roadworthy.storage.users import SqlUserRecords
from roadworthy.telemetry.clock import SystemClock

__all__ = ["Container", "EngineStuck", "Project", "bootstrap", "open_project_runtime"]

# Threads for sync nodes and tools: a slot may use several at once, and one that hangs must not starve the others.
_THREADS_PER_SLOT = 4
_MIN_THREADS = 32
_NOTE_KEYS_EVERY = timedelta(minutes=1)

Engine: TypeAlias = Worker | Acceptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What is served: the agents, the first one being the default, and how their store is indexed."""

    agents: Sequence[LoadedAgent]
    store: StoreConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """Everything that is wired. ``first_key``: the admin key of a first start, to be shown once."""

    agents: Agents
    runs: Runs
    streams: Streams
    threads: Threads
    user_exports: UserExports
    user_erasures: UserErasures
    keys: Keys
    identity: Identity
    budgets: Budgets
    limits: Limits
    usage: UsageReports
    audit: AuditTrail
    readiness: Readiness
    worker: Engine
    runtime: AgentRuntime
    database: Database
    agent_names: Sequence[AgentName]
    first_key: NewKey | None

    async def drain(self) -> None:
        """Bring every run to a safe place; accept no new one."""
        await self.worker.drain()


@asynccontextmanager
async def bootstrap(
    settings: Settings, project: Project, telemetry: Telemetry, *, executes: bool = True
) -> AsyncGenerator[Container]:
    """A running engine on the database of ``settings``. Interrupted runs are back in line when it is yielded.

    ``executes``: whether runs are executed in this process; else others on the same Postgres do it.

    Raises:
        ConfigError: the data folder, the schema or the admin key is not usable.
        StorageUnavailable, StorageFull: the database cannot be opened.
        EngineStuck: (from the body) every slot was lost to threads that do not end.
    """
    folder = DataFolder(settings.data_dir.absolute())
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings, folder, owned=True))
        clock = SystemClock()
        policies = SqlPolicyStore(database, clock)
        keys = Keys(SqlKeyStore(database, clock, policies.forget), clock, settings.pepper(folder.pepper))
        tokens = await stack.enter_async_context(_open_tokens(settings))
        executor = TrackingExecutor(max(_MIN_THREADS, _THREADS_PER_SLOT * settings.max_concurrent_requests))
        asyncio.get_running_loop().set_default_executor(executor)
        shared = await stack.enter_async_context(open_shared(settings, database, telemetry))
        circuits = _circuits(settings, shared, telemetry)
        runtime = await stack.enter_async_context(open_project_runtime(settings, project, folder, circuits))
        around = await _surroundings(stack, settings, database, policies, runtime, shared, telemetry)
        watchdog = stack.enter_context(Watchdog(settings.watchdog_timeout))
        worker = _engine(settings, around, shared, watchdog) if executes else _acceptor(settings, around, shared)
        await finish_erasures(SqlThreadStore(database), runtime)
        revived = await reap_orphans(around) if executes else 0
        if revived:
            telemetry.worker_note("runs_recovered", count=revived)
        first_key = await _prepare_keys(keys, settings)
        # One for all: what one of them erases, the others leave alone meanwhile.
        threads = Threads(threads=SqlThreadStore(database), runs=SqlRunStore(database), runtime=runtime)
        async with (
            worker.under_way(),
            _beside(
                watchdog.keep_beating(),
                watch_slots(worker, settings.stuck_timeout, telemetry),
                _note_key_uses(keys),
                *([keep_pruning(_retention(settings, database, around, threads), telemetry)] if executes else []),
                sweep_reservations(around.ledger, around.clock, telemetry),
                circuits.keep_in_step(),
            ),
        ):
            yield _container(
                settings,
                database,
                around,
                shared,
                worker=worker,
                identity=Identity(keys, tokens),
                keys=keys,
                threads=threads,
                first_key=first_key,
            )


@asynccontextmanager
async def open_project_runtime(
    settings: Settings, project: Project, folder: DataFolder, circuits: Circuits | None = None
) -> AsyncGenerator[AgentRuntime]:
    """The agents with their checkpoints and their store, which are files of the data folder, or tables on Postgres."""
    async with open_runtime(
        project.agents,
        state=state_place(settings, folder),
        tool_timeout=settings.tool_timeout,
        tool_output_max=settings.tool_output_max,
        store_scope=settings.store_scope,
        store_index=project.store,
        extra_types=settings.state_types,
        clock=SystemClock(),
        circuits=circuits,
    ) as runtime:
        yield runtime


async def _surroundings(
    stack: AsyncExitStack,
    settings: Settings,
    database: Database,
    policies: SqlPolicyStore,
    runtime: AgentRuntime,
    shared: Shared,
    telemetry: Telemetry,
) -> Surroundings:
    clock = SystemClock()
    return Surroundings(
        worker=f"worker-{new_id()[:12]}",
        queue=SqlRunQueue(database, clock, lease=shared.terms.length, caps=shared.caps),
        log=await stack.enter_async_context(SqlEventLog(database, SqlRunStore(database), live=shared.live)),
        ledger=SqlLedger(database),
        runtime=runtime,
        clock=clock,
        telemetry=telemetry,
        caps=Caps(steps=settings.max_steps, model_calls=settings.max_model_calls, tool_calls=settings.max_tool_calls),
        idle_timeout=settings.idle_timeout,
        prices=await asyncio.to_thread(open_price_book, settings.price_file),
        policies=policies,
        rates=shared.rates,
        reserved_output_tokens=settings.reserved_output_tokens,
        settlements=Settlements(),
    )


def _circuits(settings: Settings, shared: Shared, telemetry: Telemetry) -> ProviderCircuits:
    failures, lasts = settings.circuit_failures, settings.circuit_seconds
    return ProviderCircuits(SystemClock(), telemetry, failures=failures, lasts=lasts, store=shared.circuits)


def _engine(settings: Settings, around: Surroundings, shared: Shared, watchdog: Watchdog) -> Worker:
    keeper = None
    if shared.leases is not None:
        keeper = LeaseKeeper(
            shared.leases, around.worker, shared.terms, beats=watchdog.beats, telemetry=around.telemetry
        )
    limits = WorkerLimits(
        slots=settings.max_concurrent_requests,
        queue_size=settings.queue_size,
        drain_timeout=settings.drain_timeout,
    )
    return Worker(around, limits, Fleet(keeper, shared.wakeups))


def _acceptor(settings: Settings, around: Surroundings, shared: Shared) -> Acceptor:
    if shared.leases is None:
        raise ConfigError("a server that executes nothing needs workers beside it: set ROADWORTHY_DATABASE_URL")
    return Acceptor(around, queue_size=settings.queue_size, wakeups=shared.wakeups)


@asynccontextmanager
async def _open_tokens(settings: Settings) -> AsyncGenerator[TokenVerifier | None]:
    if settings.jwt_issuer is None or settings.jwt_audience is None:
        yield None
        return
    async with open_tokens(
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        jwks_url=settings.jwt_jwks_url,
        algorithms=settings.jwt_algorithms,
        user_claim=settings.jwt_user_claim,
        tenant_claim=settings.jwt_tenant_claim,
        scope_claim=settings.jwt_scope_claim,
        scope_prefix=settings.jwt_scope_prefix,
        clock=SystemClock(),
    ) as tokens:
        yield tokens


async def _prepare_keys(keys: Keys, settings: Settings) -> NewKey | None:
    if not settings.auth:
        return None
    if settings.admin_key is not None:
        await keys.register_admin(settings.admin_key.get_secret_value())
        return None
    return await keys.first_admin()


@asynccontextmanager
async def _beside(*chores: Coroutine[None, None, None]) -> AsyncGenerator[None]:
    """Run the chores beside the body; one that fails ends the body, the body's end ends them all."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(chore) for chore in chores]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _note_key_uses(keys: Keys) -> None:
    while True:
        await asyncio.sleep(_NOTE_KEYS_EVERY.total_seconds())
        with suppress(StorageUnavailable):  # a date for an operator's eyes is not worth more
            await keys.note_uses()


def _retention(settings: Settings, database: Database, around: Surroundings, threads: Threads) -> Retention:
    return Retention(
        store=SqlRetention(database),
        queue=around.queue,
        threads=threads,
        runtime=around.runtime,
        clock=around.clock,
        telemetry=around.telemetry,
        kept=Kept(
            threads=_days(settings.thread_ttl_days),
            events=_days(settings.events_ttl_days),
            idempotency=timedelta(hours=settings.idempotency_ttl_hours),
            checkpoints=settings.checkpoints_kept,
            outputs=settings.outputs_kept,
        ),
    )


def _days(days: int | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)


def _container(
    settings: Settings,
    database: Database,
    around: Surroundings,
    shared: Shared,
    *,
    worker: Engine,
    identity: Identity,
    keys: Keys,
    threads: Threads,
    first_key: NewKey | None,
) -> Container:
    runtime, clock, told = around.runtime, around.clock, around.telemetry
    agents = Agents(runtime)
    return Container(
        agents=agents,
        runs=Runs(
            runtime=runtime,
            agents=agents,
            admission=Admission(
                worker, policies=around.policies, ledger=around.ledger, rates=around.rates, clock=clock, telemetry=told
            ),
            dispatcher=worker,
            store=SqlRunStore(database),
            ledger=around.ledger,
            log=around.log,
            clock=clock,
            new_id=new_id,
            timeout=settings.request_timeout,
        ),
        streams=Streams(around.log),
        threads=threads,
        user_exports=_exports(database, around, keys),
        user_erasures=_erasures(database, around, worker, keys, threads),
        keys=keys,
        identity=identity,
        budgets=Budgets(around.policies, around.ledger, clock, new_id, settings.time_zone),
        limits=Limits(around.policies),
        usage=UsageReports(around.ledger, clock, settings.time_zone),
        audit=AuditTrail(SqlAuditLog(database)),
        readiness=Readiness(worker, _probes(database, runtime), shared.outside),
        worker=worker,
        runtime=runtime,
        database=database,
        agent_names=[agent.name for agent in runtime.agents()],
        first_key=first_key,
    )


def _exports(database: Database, around: Surroundings, keys: Keys) -> UserExports:
    return UserExports(
        records=SqlUserRecords(database, around.clock),
        threads=SqlThreadStore(database),
        runs=SqlRunStore(database),
        log=around.log,
        keys=keys,
        runtime=around.runtime,
        clock=around.clock,
    )


def _erasures(database: Database, around: Surroundings, worker: Engine, keys: Keys, threads: Threads) -> UserErasures:
    return UserErasures(
        records=SqlUserRecords(database, around.clock),
        stored=SqlThreadStore(database),
        threads=threads,
        log=around.log,
        keys=keys,
        stopper=worker,
        runtime=around.runtime,
    )


def _probes(database: Database, runtime: AgentRuntime) -> Mapping[str, Probe]:
    return {"database": lambda: database_problem(database), "checkpoints": runtime.ready}
