"""The operator's services on a SQLite database of their own, and calls in the ledger to report about."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from roadworthy.domain.audit import Actor
from roadworthy.domain.budget import Spender
from roadworthy.domain.ids import AgentName, KeyId, TenantId, UserId, new_id
from roadworthy.domain.principal import Owner, Principal, Scope
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.services.audit import AuditTrail
from roadworthy.services.budgets import Budgets
from roadworthy.services.limits import Limits
from roadworthy.services.usage import UsageReports
from roadworthy.storage.audit import SqlAuditLog
from roadworthy.storage.ledger import SqlLedger
from roadworthy.storage.policies import SqlPolicyStore
from roadworthy.storage.schema import migrate
from roadworthy.storage.sqlite import open_sqlite
from tests.support.web.fakes import make_run

ACME = TenantId("acme")
OTHER = TenantId("other")
ACTOR = Actor(name="key:AAAAAAAAAAAA", request_id="r1")
USD = 1_000_000_000
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


class WallClock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.moment = NOON

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """See the module. Days of its budgets begin at midnight in Berlin."""

    policies: SqlPolicyStore
    ledger: SqlLedger
    clock: WallClock
    budgets: Budgets
    limits: Limits
    usage: UsageReports
    audit: AuditTrail

    async def spend(
        self, nanos: int, *, user: str = "alice", tenant: TenantId = ACME, key: str | None = None, at: datetime = NOON
    ) -> None:
        """One call of a run of its own, charged as the engine charges it."""
        owner = Owner(tenant=tenant, user=UserId(user))
        run = make_run(owner=owner, key_id=None if key is None else KeyId(key))
        spender = Spender(owner=owner, key_id=run.key_id, agent=AgentName("demo"), run_id=run.run_id)
        budgets = (await self.policies.of(tenant)).budgets
        periods = [period for one in budgets if (period := one.period_for(spender, at)) is not None]
        call = ModelCall(
            call_id="c",
            node="model",
            provider="anthropic",
            model="claude",
            tokens=Tokens(input=100, output=10),
            estimated=False,
            outcome="complete",
            started_at=at,
            finished_at=at + timedelta(seconds=1),
            cost_nanos=nanos,
            price_version="test",
        )
        await self.ledger.append(run, [call], {"c": periods})


@asynccontextmanager
async def open_office(folder: Path) -> AsyncGenerator[Office]:
    """On an empty database in ``folder``."""
    clock = WallClock()
    file = folder / "roadworthy.db"
    file.write_bytes(_empty_database())
    async with open_sqlite(file) as database:
        policies, ledger = SqlPolicyStore(database, clock), SqlLedger(database)
        yield Office(
            policies=policies,
            ledger=ledger,
            clock=clock,
            budgets=Budgets(policies, ledger, clock, new_id, "Europe/Berlin"),
            limits=Limits(policies),
            usage=UsageReports(ledger, clock, "Europe/Berlin"),
            audit=AuditTrail(SqlAuditLog(database)),
        )


def caller(*scopes: Scope, tenant: TenantId = ACME, user: str = "ops") -> Principal:
    """A caller with these scopes alone."""
    return Principal(owner=Owner(tenant=tenant, user=UserId(user)), scopes=frozenset(scopes))


@cache
def _empty_database() -> bytes:
    """A migrated database to copy: migrating takes long."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "template.db"
        migrate(file)
        return file.read_bytes()
