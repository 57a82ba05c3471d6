"""What a process shares with others on its database: agents' state, leases, live events, hints, rates, circuits.

Called by ``bootstrap.py``. On SQLite a process is alone and everything is its own; on Postgres there may be others, and
Redis, where one is set, carries what need not survive. Only here and in ``database.py`` is one told from the other.
"""

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from roadworthy.database import source_of
from roadworthy.domain.errors import ConfigError
from roadworthy.domain.fleet import FleetCaps
from roadworthy.domain.lease import LeaseTerms
from roadworthy.engine.circuits import ProviderCircuits
from roadworthy.ports.circuits import CircuitStore
from roadworthy.ports.clock import Clock
from roadworthy.ports.leases import LeaseStore
from roadworthy.ports.rate_limit import RateCounters
from roadworthy.ports.signals import Wakeups
from roadworthy.ports.telemetry import Telemetry
from roadworthy.runtimes.langgraph.state_places import PostgresTables, SqliteFolder, StatePlace
from roadworthy.services.readiness import Trouble
from roadworthy.settings import Settings
from roadworthy.storage.folder import DataFolder, open_folder
from roadworthy.storage.live_events import LiveEvents, NoLiveEvents
from roadworthy.storage.rates import MemoryRateCounters
from roadworthy.storage.transaction import Database
from roadworthy.storage.wakeups import Wakeups as LineOfWakeups
from roadworthy.telemetry.clock import SystemClock

if TYPE_CHECKING:
    from roadworthy.storage.redis_connection import RedisServer

# Connections for agents' state: not fewer, so that a few runs do not wait for each other; not more than a server with
# many replicas has to give.
_FEWEST, _MOST = 4, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """None: there is nobody to share it with. ``outside``: what is wrong with parts that a process can do without.
    ``chores``: keep ``clock`` and ``circuits`` in step with those of the others, until cancelled.
    """

    clock: Clock
    circuits: ProviderCircuits
    rates: RateCounters
    live: LiveEvents | None = None
    leases: LeaseStore | None = None
    wakeups: Wakeups | None = None
    caps: FleetCaps = field(default_factory=FleetCaps)
    terms: LeaseTerms = field(default_factory=LeaseTerms)
    outside: Mapping[str, Trouble] = field(default_factory=dict[str, Trouble])
    chores: Sequence[Callable[[], Coroutine[None, None, None]]] = ()


def state_place(settings: Settings, folder: DataFolder) -> StatePlace:
    """Where agents keep their state.

    Raises:
        ConfigError: the address of Postgres is none, or its driver is not installed.
    """
    if settings.database_url is None:
        return SqliteFolder(path=open_folder(folder.path).path)
    source_of(settings, folder)  # says in words what is wrong with the address
    from roadworthy.storage.postgres_connection import Timeouts, connection_info

    url = settings.database_url.get_secret_value()
    return PostgresTables(
        conninfo=connection_info(url, Timeouts(), name="roadworthy state"),
        connections=max(_FEWEST, min(_MOST, settings.max_concurrent_requests)),
    )


@asynccontextmanager
async def open_shared(settings: Settings, database: Database, telemetry: Telemetry) -> AsyncGenerator[Shared]:
    """Everything, for the running event loop. Nobody waits for a Redis that does not answer.

    Raises:
        ConfigError: the address of Redis is none, or its client is not installed.
    """
    if settings.database_url is None:
        clock = SystemClock()
        yield Shared(clock=clock, circuits=_circuits(settings, clock, telemetry), rates=MemoryRateCounters())
        return
    async with AsyncExitStack() as stack:
        yield await _on_postgres(stack, settings, settings.database_url.get_secret_value(), database, telemetry)


async def _on_postgres(
    stack: AsyncExitStack, settings: Settings, url: str, database: Database, telemetry: Telemetry
) -> Shared:
    # With the extra `cluster` only, which `database.py` has found to be there.
    from roadworthy.storage.database_clock import clock_of
    from roadworthy.storage.leases import PostgresLeases
    from roadworthy.storage.postgres import PostgresDatabase
    from roadworthy.storage.postgres_circuits import PostgresCircuits
    from roadworthy.storage.postgres_wakeups import PostgresLine

    if not isinstance(database, PostgresDatabase):
        raise TypeError("the settings name Postgres, and the database is none")
    terms = LeaseTerms()
    redis = await _open_redis(stack, settings, telemetry)
    if redis is None:
        live, rates, line = NoLiveEvents(), MemoryRateCounters(), PostgresLine(url, telemetry)
    else:
        from roadworthy.storage.redis_events import RedisEvents
        from roadworthy.storage.redis_rates import RedisRateCounters
        from roadworthy.storage.redis_wakeups import RedisLine

        live = await stack.enter_async_context(RedisEvents(redis))
        rates, line = RedisRateCounters(redis), RedisLine(redis)
    clock = await clock_of(database)
    circuits = _circuits(settings, clock, telemetry, PostgresCircuits(database))
    return Shared(
        clock=clock,
        circuits=circuits,
        chores=(clock.keep, circuits.keep_in_step),
        rates=rates,
        live=live,
        leases=PostgresLeases(database, terms),
        wakeups=await stack.enter_async_context(LineOfWakeups(line)),
        caps=FleetCaps(
            total=settings.fleet_runs,
            per_tenant=settings.fleet_runs_per_tenant,
            per_agent=settings.fleet_runs_per_agent,
        ),
        terms=terms,
        outside={} if redis is None else {"redis": redis.trouble},
    )


async def _open_redis(stack: AsyncExitStack, settings: Settings, telemetry: Telemetry) -> "RedisServer | None":
    if settings.redis_url is None:
        return None
    try:
        from roadworthy.storage.redis_connection import open_redis
    except ImportError as error:
        raise ConfigError(
            f"ROADWORTHY_REDIS_URL needs the extra `cluster`: pip install 'roadworthy[cluster]' ({error})"
        ) from error
    return await stack.enter_async_context(open_redis(settings.redis_url.get_secret_value(), telemetry))


def _circuits(
    settings: Settings, clock: Clock, telemetry: Telemetry, store: CircuitStore | None = None
) -> ProviderCircuits:
    return ProviderCircuits(
        clock, telemetry, failures=settings.circuit_failures, lasts=settings.circuit_seconds, store=store
    )
