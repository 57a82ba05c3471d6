"""One attempt's money: what its calls cost, which budgets they count towards, and whether the next one may be made.

``engine/execution.py`` makes one per attempt; ``engine/metering.py`` prices and charges with it; a runtime asks it
before each model call when a budget fits (``ports.runtime.Spending``). Below: prices, policies and the ledger.
``bootstrap`` keeps ``sweep_reservations`` going, for calls of which nobody hears again.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from roadworthy.domain.budget import (
    Budget,
    BudgetPeriod,
    Exhausted,
    Held,
    Occupied,
    Reservation,
    Spender,
    exceeded,
)
from roadworthy.domain.errors import BudgetExceeded, PriceUnknown, StorageUnavailable
from roadworthy.domain.rate_limit import AppliedLimit, RateCaller, RateKind, applied
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.engine.settlements import Settlements, Standing
from roadworthy.ports.clock import Clock
from roadworthy.ports.ledger import Ledger
from roadworthy.ports.policies import PolicyStore
from roadworthy.ports.prices import PriceBook
from roadworthy.ports.runtime import PlannedCall
from roadworthy.ports.telemetry import Telemetry

__all__ = ["AttemptSpending", "Purse", "Settlements", "open_spending", "sweep_reservations"]

_NOTHING = Tokens()
_SWEEP_EVERY = timedelta(seconds=30)
_SWEEP_AFTER = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Purse:
    """What the spending of every attempt uses. ``reserved_output_tokens``: held for an answer at most."""

    ledger: Ledger
    prices: PriceBook
    policies: PolicyStore
    clock: Clock
    settlements: Settlements
    reserved_output_tokens: int


class AttemptSpending:
    """See the module. ``budgets``: those that fit the run; ``token_limits``: of its caller, per minute."""

    def __init__(
        self,
        run: Run,
        purse: Purse,
        *,
        budgets: Sequence[Budget] = (),
        token_limits: Sequence[AppliedLimit] = (),
        note_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.token_limits = token_limits
        self._run = run
        self._purse = purse
        self._budgets = budgets
        self._limited = any(budget.limit_nanos is not None for budget in budgets)
        self._spender = _spender(run)
        self._note_progress = note_progress
        self._held: set[str] = set()
        self._standings: dict[tuple[str, datetime], Standing] = {}
        self._unknown: PriceUnknown | None = None
        # Calls that ended and are not on record yet, with their price: the catalogue is slow.
        self._told: dict[str, ModelCall] = {}

    @property
    def applies(self) -> bool:
        """Whether the runtime has to ask before each call."""
        return bool(self._budgets)

    @property
    def holding(self) -> bool:
        """Whether something was reserved for calls that are not settled."""
        return bool(self._held)

    async def learn(self) -> None:
        """Read how the budgets stand, for calls that cannot wait for an answer.

        Raises:
            StorageUnavailable: they cannot be read.
        """
        periods = self._periods(self._purse.clock.now())
        for balance in await self._purse.ledger.balances(self._run.owner.tenant, periods):
            self._standing(balance.period).learn(balance)

    async def reserve(self, call: PlannedCall, *, patient: bool = True) -> None:
        """See ``ports.runtime.Spending``."""
        planned = self._planned(call)
        if planned is None:
            return
        # Ahead of the answer: a cancelled request may have been heard.
        self._held.add(call.call_id)
        while True:
            coming = self._purse.settlements.coming()
            now = self._purse.clock.now()
            reservation = replace(planned, started_at=now)
            match await self._purse.ledger.reserve(self._run, reservation, self._periods(now)):
                case Held():
                    return
                case Exhausted(balance=balance):
                    self._held.discard(call.call_id)
                    self._standing(balance.period).learn(balance)
                    raise exceeded(balance)
                case Occupied():
                    if not patient:
                        self._held.discard(call.call_id)
                        return
                    await coming.wait()
                    # Waiting for others is not idleness; the run's deadline still bounds it.
                    self._note_progress()

    def refusal(self) -> BudgetExceeded | None:
        """See ``ports.runtime.Spending``."""
        if self._unknown is not None:
            return self._unknown
        for period in self._periods(self._purse.clock.now()):
            if (balance := self._standing(period).exhausted()) is not None:
                return exceeded(balance)
        return None

    def ended(self, call: ModelCall) -> None:
        """See ``ports.runtime.Spending``."""
        priced = self._told[call.call_id] = self._price(call)
        cost = priced.cost_nanos
        if cost is None:
            self._unknown = self._price_unknown(call.model) if self._limited else None
            return
        for period in self._periods(call.started_at):
            self._standing(period).add(cost)

    def priced(self, call: ModelCall) -> ModelCall:
        """The call with its cost, None when nobody knows it. What counted nothing costs nothing."""
        told = self._told.pop(call.call_id, None)
        if told is not None and (told.tokens, told.outcome) == (call.tokens, call.outcome):
            return told
        return self._price(call)

    def _price(self, call: ModelCall) -> ModelCall:
        if call.tokens == _NOTHING and not call.estimated:
            return replace(call, cost_nanos=0)
        price = self._purse.prices.price(call.provider, call.model, call.tokens, call.started_at)
        if price is None:
            return call
        return replace(call, cost_nanos=price.cost_nanos, price_version=price.version)

    def charges(self, calls: Collection[ModelCall]) -> Mapping[str, Sequence[BudgetPeriod]]:
        """The periods that each call counts towards, by its id."""
        if not self._budgets:
            return {}
        return {call.call_id: self._periods(call.started_at) for call in calls}

    def settled(self, calls: Collection[ModelCall]) -> None:
        """The calls are on the ledger: what was held for them is free."""
        self._held.difference_update(call.call_id for call in calls)
        if self._budgets:
            self._purse.settlements.announce()

    def released(self) -> None:
        """Everything that was held is free."""
        self._held.clear()
        self._purse.settlements.announce()

    def _planned(self, call: PlannedCall) -> Reservation | None:
        """What to hold for a call; None when its price is not known and no budget has a limit."""
        purse = self._purse
        most = purse.reserved_output_tokens
        output = most if call.max_output_tokens is None else min(most, call.max_output_tokens)
        now = purse.clock.now()
        price = purse.prices.price(call.provider, call.model, Tokens(input=call.input_tokens, output=output), now)
        if price is None and self._limited:
            raise self._price_unknown(call.model)
        return price and Reservation(
            call_id=call.call_id,
            node=call.node,
            provider=call.provider,
            model=call.model,
            input_tokens=call.input_tokens,
            nanos=price.cost_nanos,
            started_at=now,
        )

    def _price_unknown(self, model: str) -> PriceUnknown:
        name = f"the model {model}" if model else "a model without a name"
        return PriceUnknown(f"a budget applies, and nobody knows what {name} costs: the server's price file may say it")

    def _periods(self, moment: datetime) -> Sequence[BudgetPeriod]:
        """In the order in which the ledger locks them."""
        found = [period for budget in self._budgets if (period := budget.period_for(self._spender, moment)) is not None]
        return sorted(found, key=lambda period: (period.budget.budget_id, period.subject, period.starts_at))

    def _standing(self, period: BudgetPeriod) -> Standing:
        place = (period.budget.budget_id, period.starts_at)
        standing = self._standings.get(place)
        if standing is None:
            standing = self._standings.setdefault(place, self._purse.settlements.standing(period))
        return standing


async def open_spending(run: Run, purse: Purse, note_progress: Callable[[], None]) -> AttemptSpending:
    """The spending of an attempt, under the policies as they are now.

    Raises:
        StorageUnavailable: policies or budgets cannot be read; the attempt must not go on without them.
    """
    owner = run.owner
    policies = await purse.policies.of(owner.tenant)
    caller = RateCaller(tenant=owner.tenant, user=owner.user, key_id=run.key_id)
    limits = [one for one in applied(policies.rates, caller) if one.limit.kind is RateKind.TOKENS]
    spender, now = _spender(run), purse.clock.now()
    budgets = [budget for budget in policies.budgets if budget.period_for(spender, now) is not None]
    spending = AttemptSpending(run, purse, budgets=budgets, token_limits=limits, note_progress=note_progress)
    if budgets:
        await spending.learn()
    return spending


async def sweep_reservations(
    ledger: Ledger, clock: Clock, telemetry: Telemetry, *, every: timedelta = _SWEEP_EVERY
) -> None:
    """Settle, for ever, what was reserved for runs that nobody executes any more."""
    while True:
        swept = 0
        with suppress(StorageUnavailable):  # the next round tries again
            swept = await ledger.sweep(clock.now() - _SWEEP_AFTER)
        if swept:
            telemetry.worker_note("reservations_swept", count=swept)
        else:
            await asyncio.sleep(every.total_seconds())


def _spender(run: Run) -> Spender:
    return Spender(owner=run.owner, key_id=run.key_id, agent=run.agent, run_id=run.run_id)
