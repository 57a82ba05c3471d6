"""Lets many runs in, and prints as JSON what one took. ``admission.py`` starts it.

Everything is real but the engine, which takes each run without storing it.
"""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter

import uvloop

from benchmarks.counting import Silence
from benchmarks.graphs.scripted import instant
from benchmarks.samples import percentile
from roadworthy.bootstrap import Container, Project, bootstrap
from roadworthy.domain.audit import Actor
from roadworthy.domain.budget import BudgetScope, BudgetWindow
from roadworthy.domain.ids import AgentName, RunId, ThreadId, new_id
from roadworthy.domain.load import Load
from roadworthy.domain.money import NANOS
from roadworthy.domain.principal import Owner, Principal
from roadworthy.domain.rate_limit import AppliedLimit, RateKind, RateScope
from roadworthy.domain.run import CancelReason, InputKind, Run, RunRequest, RunStatus
from roadworthy.ports.queue import Accepted, IdempotencyRecord
from roadworthy.runtimes.langgraph.registry import LoadedAgent
from roadworthy.services.admission import Admission
from roadworthy.services.budget_rules import BudgetAsked
from roadworthy.settings import Settings
from roadworthy.storage.ledger import SqlLedger
from roadworthy.storage.policies import SqlPolicyStore
from roadworthy.storage.rates import MemoryRateCounters
from roadworthy.telemetry.clock import SystemClock

_RATES = (
    (RateScope.KEY, RateKind.REQUESTS),
    (RateScope.USER, RateKind.REQUESTS),
    (RateScope.USER, RateKind.TOKENS),
    (RateScope.TENANT, RateKind.RUNS),
)
_BUDGETS = (
    (BudgetScope.KEY, BudgetWindow.TOTAL),
    (BudgetScope.USER, BudgetWindow.DAY),
    (BudgetScope.TENANT, BudgetWindow.MONTH),
)
_PLENTY = 1_000_000
_ACTOR = Actor(name="cli:benchmark")


class _Taking:
    """``ports.dispatch`` that takes every run and forgets it."""

    draining = False

    async def submit(
        self,
        run: Run,
        *,
        idempotency: IdempotencyRecord | None,  # noqa: ARG002 -- the port's
        at_once: Sequence[AppliedLimit] = (),  # noqa: ARG002 -- the port's
    ) -> Accepted:
        return Accepted(run=run)

    async def find_replay(self, owner: Owner, record: IdempotencyRecord) -> Run | None:  # noqa: ARG002 -- the port's
        return None

    async def stop(self, run: Run, reason: CancelReason) -> Run:  # noqa: ARG002 -- the port's
        return run

    def provider_trouble(self) -> str | None:
        return None

    def load(self) -> Load:
        raise AssertionError("not used")

    def stuck(self) -> bool:
        return False


async def _main(folder: Path, count: int) -> None:
    agents = [LoadedAgent(name=AgentName("instant"), graph=instant())]
    async with bootstrap(Settings(data_dir=folder), Project(agents=agents), Silence()) as container:
        key = container.first_key
        if key is None:
            raise ValueError("the data folder is not new")
        free = await _let_in(container, key.text, count)
        await _limit(container, await container.identity.authenticate(key.text))
        limited = await _let_in(container, key.text, count)
    print(
        json.dumps(
            {
                "free_p50_ms": 1000 * percentile(free, 50),
                "p50_ms": 1000 * percentile(limited, 50),
                "p99_ms": 1000 * percentile(limited, 99),
            }
        )
    )


async def _limit(container: Container, operator: Principal) -> None:
    for scope, kind in _RATES:
        await container.limits.set_as(operator, scope, kind, _PLENTY, _ACTOR)
    for scope, window in _BUDGETS:
        await container.budgets.set_as(
            operator, BudgetAsked(scope=scope, window=window, limit_nanos=_PLENTY * NANOS), _ACTOR
        )


async def _let_in(container: Container, key: str, count: int) -> Sequence[float]:
    clock = SystemClock()
    admission = Admission(
        _Taking(),
        policies=SqlPolicyStore(container.database, clock),
        ledger=SqlLedger(container.database),
        rates=MemoryRateCounters(),
        clock=clock,
        telemetry=Silence(),
    )
    seconds: list[float] = []
    for _ in range(count):
        began_at = perf_counter()
        principal = await container.identity.authenticate(key)
        admission.check(principal)
        await admission.admit(_run(principal), idempotency=None)
        seconds.append(perf_counter() - began_at)
    return seconds


def _run(principal: Principal) -> Run:
    now = datetime.now(UTC)
    return Run(
        run_id=RunId(new_id()),
        owner=principal.owner,
        thread_id=ThreadId(new_id()),
        ord=0,
        agent=AgentName("instant"),
        request=RunRequest(kind=InputKind.INPUT, payload=None),
        request_id=new_id(),
        key_id=principal.key_id,
        status=RunStatus.PENDING,
        created_at=now,
        deadline_at=now + timedelta(minutes=2),
    )


if __name__ == "__main__":
    uvloop.run(_main(Path(sys.argv[1]), int(sys.argv[2])))
