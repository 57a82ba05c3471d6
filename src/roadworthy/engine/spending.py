"""One attempt's money: what its calls cost, which budgets they count towards, and whether the next one may be made.

``engine/execution.py`` makes one per attempt; ``engine/metering.py`` prices and charges with it; a runtime asks it
before each model call (``ports.runtime.Spending``). Below: prices, policies and the ledger. ``bootstrap`` keeps
``sweep_reservations`` going, for calls of which nobody hears again.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from roadworthy.domain.budget import BudgetBalance, BudgetPeriod, Exhausted, Held, Occupied, Reservation, exceeded
from roadworthy.domain.errors import BudgetExceeded, PriceUnknown, StorageUnavailable
from roadworthy.domain.rate_limit import AppliedLimit
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.engine.fitting import FittingPolicies
from roadworthy.engine.settlements import Settlements, Standing
from roadworthy.ports.clock import Clock
from roadworthy.ports.ledger import Ledger
from roadworthy.ports.policies import PolicyStore
from roadworthy.ports.prices import PriceBook
from roadworthy.ports.runtime import PATIENCE, PlannedCall
from roadworthy.ports.telemetry import Telemetry

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


@dataclass(frozen=True, slots=True)
class _Lifted:
    """Money that this process knows to be held for a call."""

    nanos: int
    standings: Sequence[Standing]

    def drop(self) -> None:
        """Free it."""
        for standing in self.standings:
            standing.drop(self.nanos)


class AttemptSpending:
    """See the module. ``note_progress``: told when the attempt has waited for others."""

    def __init__(self, run: Run, purse: Purse, note_progress: Callable[[], None] = lambda: None) -> None:
        self._run = run
        self._purse = purse
        self._fitting = FittingPolicies(run, purse.policies)
        self._note_progress = note_progress
        # Whether the budgets that fit have yet to be read.
        self._unread = False
        self._held: set[str] = set()
        self._lifted: dict[str, _Lifted] = {}
        self._standings: dict[tuple[str, datetime], Standing] = {}
        # Calls that ended and are not on record yet, with their price: the catalogue is slow.
        self._told: dict[str, ModelCall] = {}

    @property
    def applies(self) -> bool:
        """See ``ports.runtime.Spending``."""
        return bool(self._fitting.budgets)

    @property
    def token_limits(self) -> Sequence[AppliedLimit]:
        """What the caller's calls count towards, beside budgets."""
        return self._fitting.token_limits

    @property
    def holding(self) -> bool:
        """Whether something was reserved for calls that are not settled."""
        return bool(self._held)

    async def look(self) -> None:
        """Take over the policies as they are now.

        Raises:
            StorageUnavailable: policies or budgets cannot be read.
        """
        self._unread = await self._fitting.look() or self._unread
        if self._unread:
            await self.learn()
            self._unread = False

    async def learn(self) -> None:
        """Read how the budgets stand, for calls that cannot wait for an answer.

        Raises:
            StorageUnavailable: they cannot be read.
        """
        if periods := self._fitting.periods(self._purse.clock.now()):
            for balance in await self._purse.ledger.balances(self._run.owner.tenant, periods):
                self._standing(balance.period).learn(balance)

    async def budgets_fit(self) -> bool:
        """See ``ports.runtime.Spending``."""
        # What is known holds while nothing can be read: an attempt without budgets needs no ledger for its calls, and
        # one with budgets is stopped by the reservation.
        with suppress(StorageUnavailable):
            await self.look()
        return self.applies

    async def reserve(self, call: PlannedCall, *, patience: timedelta | None = PATIENCE) -> None:
        """See ``ports.runtime.Spending``."""
        purse, planned = self._purse, None
        asked_at = purse.clock.monotonic()
        # Anew each time: budgets may come and go while the call waits.
        while await self.budgets_fit():
            planned = planned or self._planned(call)
            if planned is None:
                break
            # Ahead of the answer: a cancelled request may have been heard.
            self._held.add(call.call_id)
            now = purse.clock.now()
            periods = self._fitting.periods(now)
            coming = purse.settlements.coming(periods)
            match await purse.ledger.reserve(self._run, replace(planned, started_at=now), periods):
                case Held():
                    self._carry(call.call_id, planned.nanos, periods)
                    return
                case Exhausted(balance=balance):
                    self._held.discard(call.call_id)
                    self._standing(balance.period).learn(balance)
                    raise exceeded(balance)
                case Occupied(balance=balance):
                    self._held.discard(call.call_id)
                    if patience is None:
                        return
                    if purse.clock.monotonic() - asked_at >= patience.total_seconds():
                        raise _held_by_others(balance)
                    await coming.wait(balance.period)
                    # Waiting for others is not idleness; the run's deadline still bounds it.
                    self._note_progress()

    def admit(self, call: PlannedCall) -> bool:
        """See ``ports.runtime.Spending``."""
        planned = self._planned(call)
        nanos = 0 if planned is None else planned.nanos
        lifted: list[Standing] = []
        for period in self._fitting.periods(self._purse.clock.now()):
            standing = self._standing(period)
            if (balance := standing.balance(period)).exhausted:
                _Lifted(nanos, lifted).drop()
                raise exceeded(balance)
            if not standing.lift(period, nanos):
                _Lifted(nanos, lifted).drop()
                return False
            lifted.append(standing)
        self._drop(call.call_id)
        self._lifted[call.call_id] = _Lifted(nanos, lifted)
        return True

    def ended(self, call: ModelCall) -> None:
        """See ``ports.runtime.Spending``."""
        if self.applies:
            priced = self._told[call.call_id] = self._price(call)
            for period in self._fitting.periods(call.started_at):
                self._standing(period).add(priced.cost_nanos or 0)
        self._drop(call.call_id)

    def priced(self, call: ModelCall) -> ModelCall:
        """The call with its cost, None when nobody knows it. What counted nothing costs nothing."""
        self._drop(call.call_id)
        told = self._told.pop(call.call_id, None)
        if told is not None and (told.tokens, told.outcome) == (call.tokens, call.outcome):
            return told
        return self._price(call)

    def take_over(self, lost: Iterable[ModelCall]) -> None:
        """Calls of earlier attempts, for which the ledger still holds money: they are settled as this one's own."""
        for call in lost:
            self._held.add(call.call_id)
            self.ended(call)

    async def charges(self, calls: Collection[ModelCall]) -> Mapping[str, Sequence[BudgetPeriod]]:
        """The periods that each call counts towards now, by its id. Calls that count towards none and for which
        nothing was reserved are not in it.
        """
        fit = await self.budgets_fit()
        return {
            call.call_id: self._fitting.periods(call.started_at) for call in calls if fit or call.call_id in self._held
        }

    def settled(self, charges: Mapping[str, Sequence[BudgetPeriod]]) -> None:
        """The calls with these ``charges`` are on the ledger: what was held for them is free."""
        self._held.difference_update(charges)
        for periods in charges.values():
            self._purse.settlements.announce(periods)

    def released(self) -> None:
        """Everything that was reserved is free."""
        self._held.clear()
        self._purse.settlements.announce(self._fitting.periods(self._purse.clock.now()))

    def close(self) -> None:
        """No call of the attempt is under way any more: forget those that were admitted and never told."""
        for call_id in tuple(self._lifted):
            self._drop(call_id)

    def _carry(self, call_id: str, nanos: int, periods: Sequence[BudgetPeriod]) -> None:
        """For ``admit``, which cannot ask the ledger what it holds."""
        standings = [self._standing(period) for period in periods]
        for standing in standings:
            standing.carry(nanos)
        self._drop(call_id)
        self._lifted[call_id] = _Lifted(nanos, standings)

    def _drop(self, call_id: str) -> None:
        if (lifted := self._lifted.pop(call_id, None)) is not None:
            lifted.drop()

    def _price(self, call: ModelCall) -> ModelCall:
        if call.tokens == _NOTHING and not call.estimated:
            return replace(call, cost_nanos=0)
        price = self._purse.prices.price(call.provider, call.model, call.tokens, call.started_at)
        if price is None:
            return call
        return replace(call, cost_nanos=price.cost_nanos, price_version=price.version)

    def _planned(self, call: PlannedCall) -> Reservation | None:
        """What to hold for a call; None when its price is not known and no budget has a limit.

        Raises:
            PriceUnknown: it is not known, and one has.
        """
        purse = self._purse
        most = purse.reserved_output_tokens
        output = most if call.max_output_tokens is None else min(most, call.max_output_tokens)
        now = purse.clock.now()
        price = purse.prices.price(call.provider, call.model, Tokens(input=call.input_tokens, output=output), now)
        if price is None and self._fitting.limited:
            raise _price_unknown(call)
        return price and Reservation(
            call_id=call.call_id,
            node=call.node,
            provider=call.provider,
            model=call.model,
            input_tokens=call.input_tokens,
            output_tokens=output,
            nanos=price.cost_nanos,
            started_at=now,
        )

    def _standing(self, period: BudgetPeriod) -> Standing:
        place = (period.budget.budget_id, period.starts_at)
        standing = self._standings.get(place)
        if standing is None:
            standing = self._standings.setdefault(place, self._purse.settlements.standing(period))
        return standing


async def open_spending(run: Run, purse: Purse, note_progress: Callable[[], None] = lambda: None) -> AttemptSpending:
    """The spending of an attempt, under the policies as they are now.

    Raises:
        StorageUnavailable: policies or budgets cannot be read; the attempt must not go on without them.
    """
    spending = AttemptSpending(run, purse, note_progress)
    await spending.look()
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


def _held_by_others(balance: BudgetBalance) -> BudgetExceeded:
    return BudgetExceeded(
        f"what is left in a budget of this {balance.period.budget.scope.value} is held by calls in flight: "
        "continue the run when they have ended",
        spent=exceeded(balance).spent,
    )


def _price_unknown(call: PlannedCall) -> PriceUnknown:
    if not call.model:
        return PriceUnknown("a budget with a limit applies, and a model without a name has no price that is known")
    name = f"{call.provider}:{call.model}"
    return PriceUnknown(
        f'a budget with a limit applies, and the price of {name} is not known: give it a table ["{name}"] in the file '
        "that ROADWORTHY_PRICE_FILE names"
    )
