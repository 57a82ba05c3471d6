"""An attempt's spending for tests of it: a run, a clock, and a ledger that answers what it is told."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from roadworthy.domain.budget import (
    Budget,
    BudgetBalance,
    BudgetPeriod,
    Exhausted,
    Held,
    Occupied,
    Reservation,
)
from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.ids import AgentName, KeyId, RunId, TenantId, ThreadId, UserId
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import InputKind, Run, RunRequest, RunStatus
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.engine.settlements import Settlements
from roadworthy.engine.spending import AttemptSpending, Purse, open_spending
from roadworthy.ports.runtime import PlannedCall
from tests.support.money import ACME, FixedPolicies, FlatPrices, SilentLedger

NOW = datetime(2026, 1, 1, 23, 59, tzinfo=UTC)
BOUND = 10
RUN = Run(
    run_id=RunId("r"),
    owner=Owner(tenant=ACME, user=UserId("ann")),
    thread_id=ThreadId("t"),
    ord=1,
    agent=AgentName("a"),
    request=RunRequest(kind=InputKind.INPUT, payload=None),
    request_id="q",
    key_id=KeyId("key"),
    status=RunStatus.RUNNING,
    attempt=1,
    created_at=NOW,
    deadline_at=NOW + timedelta(seconds=60),
)


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.moment = NOW

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return (self.moment - NOW).total_seconds()


class TellingLedger(SilentLedger):
    """Answers reservations with ``answers``, then with Held; balances as ``balance`` says. ``on_answer``: meanwhile."""

    def __init__(self, *answers: Held | Occupied | Exhausted) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Reservation, Sequence[BudgetPeriod]]] = []
        self.spent = 0
        self.topped_up = 0
        self.unreadable = 0
        self.on_answer: Callable[[], None] = lambda: None
        self.occupied = asyncio.Event()

    async def reserve(
        self, run: Run, reservation: Reservation, periods: Sequence[BudgetPeriod]
    ) -> Held | Occupied | Exhausted:
        self.asked.append((reservation, periods))
        answer = self.answers.pop(0) if self.answers else Held()
        if isinstance(answer, Occupied):
            self.occupied.set()
        self.on_answer()
        return answer

    async def balances(self, tenant: TenantId, periods: Sequence[BudgetPeriod]) -> Sequence[BudgetBalance]:
        if self.unreadable:
            self.unreadable -= 1
            raise StorageUnavailable("locked")
        return [
            BudgetBalance(period=period, spent_nanos=self.spent, topped_up_nanos=self.topped_up) for period in periods
        ]


def a_purse(
    ledger: TellingLedger,
    *budgets: Budget,
    settlements: Settlements | None = None,
    policies: FixedPolicies | None = None,
    clock: Clock | None = None,
) -> Purse:
    return Purse(
        ledger=ledger,
        prices=FlatPrices(),
        policies=(policies or FixedPolicies(*budgets)).store,
        clock=clock or Clock(),
        settlements=settlements or Settlements(),
        reserved_output_tokens=100,
    )


async def opened(ledger: TellingLedger, *budgets: Budget, settlements: Settlements | None = None) -> AttemptSpending:
    return await open_spending(RUN, a_purse(ledger, *budgets, settlements=settlements), lambda: None)


def planned(name: str = "c", *, model: str = "m", most: int | None = None) -> PlannedCall:
    return PlannedCall(call_id=name, node="n", provider="p", model=model, input_tokens=7, max_output_tokens=most)


def ended(cost: int, *, name: str = "c", model: str = "m", at: datetime = NOW) -> ModelCall:
    return ModelCall(
        call_id=name,
        node="n",
        provider="p",
        model=model,
        tokens=Tokens(input=cost),
        estimated=False,
        outcome="complete",
        started_at=at,
        finished_at=at,
    )
