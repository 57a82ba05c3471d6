from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from roadworthy.domain.budget import Budget, BudgetBalance, BudgetPeriod, BudgetScope, BudgetWindow
from roadworthy.domain.errors import (
    BudgetExceeded,
    IdempotencyMismatch,
    LimitExceeded,
    QueueFull,
    RateLimited,
    StorageUnavailable,
)
from roadworthy.domain.ids import BudgetId, KeyId, TenantId
from roadworthy.domain.principal import Owner
from roadworthy.domain.rate_limit import WINDOW, AppliedLimit, RateKind, RateLimit, RateScope
from roadworthy.domain.rate_status import RateStatus
from roadworthy.domain.run import Run
from roadworthy.ports.clock import Clock
from roadworthy.ports.dispatch import Dispatcher
from roadworthy.ports.ledger import Ledger
from roadworthy.ports.policies import Policies, PolicyStore
from roadworthy.ports.queue import Accepted, IdempotencyRecord
from roadworthy.ports.rate_limit import RateCounters
from roadworthy.services.admission import Admission
from tests.support.telemetry import Deaf
from tests.support.web.fakes import ALICE, MOMENT, make_run

USD = 1_000_000_000
KEY = KeyId("k1")
RUN = make_run(key_id=KEY)
RECORD = IdempotencyRecord(key="k", body_hash="h")


class StillClock(Clock):
    def now(self) -> datetime:
        return MOMENT

    def monotonic(self) -> float:
        return 0.0


@dataclass
class Dispatched(Dispatcher):
    """Takes every run. ``known``: what was stored under an idempotency key before."""

    known: Mapping[str, tuple[str, Run]] = field(default_factory=dict[str, tuple[str, Run]])
    refusal: Exception | None = None
    runs: list[Run] = field(default_factory=list[Run])
    at_once: Sequence[AppliedLimit] = ()

    async def submit(
        self, run: Run, *, idempotency: IdempotencyRecord | None, at_once: Sequence[AppliedLimit] = ()
    ) -> Accepted:
        if self.refusal is not None:
            raise self.refusal
        self.at_once = at_once
        replay = None if idempotency is None else await self.find_replay(run.owner, idempotency)
        if replay is not None:
            return Accepted(run=replay, replayed=True)
        self.runs.append(run)
        return Accepted(run=run)

    async def find_replay(self, owner: Owner, record: IdempotencyRecord) -> Run | None:
        assert owner == ALICE
        body, run = self.known.get(record.key, ("", None))
        if run is not None and body != record.body_hash:
            raise IdempotencyMismatch("another body")
        return run


@dataclass
class Governed(PolicyStore):
    """Policies of one tenant."""

    policies: Policies = Policies()
    broken: bool = False

    async def of(self, tenant: TenantId) -> Policies:
        if self.broken:
            raise StorageUnavailable("the database does not answer")
        return self.policies if tenant == ALICE.tenant else Policies()


@dataclass
class Balances(Ledger):
    """A ledger where each budget has spent what the test says."""

    spent: Mapping[str, int] = field(default_factory=dict[str, int])
    broken: bool = False
    asked: list[BudgetPeriod] = field(default_factory=list[BudgetPeriod])

    async def balances(self, tenant: TenantId, periods: Sequence[BudgetPeriod]) -> Sequence[BudgetBalance]:
        if self.broken:
            raise StorageUnavailable("the database does not answer")
        assert tenant == ALICE.tenant
        self.asked.extend(periods)
        return [BudgetBalance(period=one, spent_nanos=self.spent.get(one.budget.budget_id, 0)) for one in periods]


@dataclass
class Counted(RateCounters):
    """Counters that never run out by time. ``gone``: taken by others between a look and the hit."""

    used: dict[str, int] = field(default_factory=dict[str, int])
    gone: set[str] = field(default_factory=set[str])

    async def hit(self, limit: AppliedLimit) -> tuple[bool, RateStatus]:
        policy = limit.limit.policy
        had_room = policy not in self.gone and self.used.get(policy, 0) < limit.limit.limit
        if had_room:
            self.used[policy] = self.used.get(policy, 0) + 1
        return had_room, await self.look(limit)

    async def look(self, limit: AppliedLimit) -> RateStatus:
        policy = limit.limit.policy
        return RateStatus(
            policy=policy,
            limit=limit.limit.limit,
            window=WINDOW,
            remaining=max(0, limit.limit.limit - self.used.get(policy, 0)),
            resets_in=timedelta(seconds=len(policy)),
        )


class Refusals(Deaf):
    """A Telemetry that keeps the refusals."""

    def __init__(self) -> None:
        self.refusals: list[LimitExceeded] = []

    def refused(self, error: LimitExceeded) -> None:
        self.refusals.append(error)


@dataclass
class Stage:
    """Admission with all that it asks."""

    dispatcher: Dispatched = field(default_factory=Dispatched)
    policies: Governed = field(default_factory=Governed)
    ledger: Balances = field(default_factory=Balances)
    rates: Counted = field(default_factory=Counted)
    telemetry: Refusals = field(default_factory=Refusals)

    async def admit(self, run: Run = RUN, idempotency: IdempotencyRecord | None = None) -> Accepted:
        admission = Admission(
            self.dispatcher,
            policies=self.policies,
            ledger=self.ledger,
            rates=self.rates,
            clock=StillClock(),
            telemetry=self.telemetry,
        )
        return await admission.admit(run, idempotency=idempotency)


def rate(scope: RateScope, kind: RateKind, limit: int, subject: str | None = None) -> RateLimit:
    return RateLimit(tenant=ALICE.tenant, scope=scope, kind=kind, limit=limit, subject=subject)


def budget(name: str, scope: BudgetScope, window: BudgetWindow = BudgetWindow.DAY, **changes: object) -> Budget:
    made = Budget(
        budget_id=BudgetId(name),
        tenant=ALICE.tenant,
        scope=scope,
        subject=None,
        window=window,
        limit_nanos=5 * USD,
        soft_nanos=None,
        time_zone="Europe/Berlin",
        created_at=MOMENT,
        updated_at=MOMENT,
    )
    return replace(made, **changes)


def governed(*, rates: Sequence[RateLimit] = (), budgets: Sequence[Budget] = ()) -> Stage:
    stage = Stage()
    stage.policies.policies = Policies(rates=tuple(rates), budgets=tuple(budgets))
    return stage


async def test_without_policies_a_run_goes_straight_to_the_engine() -> None:
    stage = Stage()
    accepted = await stage.admit()
    assert (accepted.run, accepted.rates) == (RUN, ())
    assert (stage.rates.used, stage.ledger.asked, stage.dispatcher.at_once) == ({}, [], [])


async def test_policies_that_cannot_be_read_refuse() -> None:
    stage = Stage()
    stage.policies.broken = True
    with pytest.raises(StorageUnavailable):
        await stage.admit()
    assert stage.dispatcher.runs == []


async def test_balances_that_cannot_be_read_refuse() -> None:
    stage = governed(budgets=[budget("b", BudgetScope.TENANT)])
    stage.ledger.broken = True
    with pytest.raises(StorageUnavailable):
        await stage.admit()
    assert stage.dispatcher.runs == []


async def test_an_accepted_run_tells_how_all_limits_stand() -> None:
    stage = governed(
        rates=[
            rate(RateScope.KEY, RateKind.REQUESTS, 3),
            rate(RateScope.USER, RateKind.REQUESTS, 9),
            rate(RateScope.USER, RateKind.TOKENS, 1000),
            rate(RateScope.USER, RateKind.RUNS, 2),
        ]
    )
    await stage.admit()
    accepted = await stage.admit()
    assert [(one.policy, one.remaining) for one in accepted.rates] == [
        ("requests-per-key", 1),
        ("requests-per-user", 7),
        ("tokens-per-user", 1000),
    ]
    assert [one.limit.policy for one in stage.dispatcher.at_once] == ["runs-per-user"]


async def test_a_request_over_its_limit_is_refused_and_told_how_long_to_wait() -> None:
    stage = governed(rates=[rate(RateScope.KEY, RateKind.REQUESTS, 2)])
    await stage.admit()
    await stage.admit()
    with pytest.raises(RateLimited, match="the limit of 2 requests a minute for this key is reached") as refused:
        await stage.admit()
    assert refused.value.retry_after == timedelta(seconds=len("requests-per-key"))
    assert [(one.policy, one.remaining) for one in refused.value.rates] == [("requests-per-key", 0)]
    assert len(stage.dispatcher.runs) == 2


async def test_a_limit_that_refuses_leaves_the_others_uncounted() -> None:
    stage = governed(rates=[rate(RateScope.USER, RateKind.REQUESTS, 9), rate(RateScope.TENANT, RateKind.REQUESTS, 1)])
    await stage.admit()
    with pytest.raises(RateLimited, match="this tenant"):
        await stage.admit()
    assert stage.rates.used == {"requests-per-user": 1, "requests-per-tenant": 1}


async def test_of_two_full_limits_the_longer_wait_is_told() -> None:
    stage = governed(rates=[rate(RateScope.KEY, RateKind.REQUESTS, 0), rate(RateScope.TENANT, RateKind.REQUESTS, 0)])
    with pytest.raises(RateLimited, match="this tenant") as refused:
        await stage.admit()
    assert refused.value.retry_after == timedelta(seconds=len("requests-per-tenant"))


async def test_the_last_request_of_a_minute_is_given_once() -> None:
    stage = governed(rates=[rate(RateScope.KEY, RateKind.REQUESTS, 1)])
    stage.rates.gone.add("requests-per-key")
    with pytest.raises(RateLimited, match="this key"):
        await stage.admit()
    assert stage.dispatcher.runs == []


async def test_used_up_tokens_refuse_and_count_no_request() -> None:
    stage = governed(rates=[rate(RateScope.USER, RateKind.TOKENS, 100), rate(RateScope.USER, RateKind.REQUESTS, 9)])
    stage.rates.used["tokens-per-user"] = 140
    with pytest.raises(RateLimited, match="the limit of 100 tokens a minute for this user is reached") as refused:
        await stage.admit()
    assert {one.policy: one.remaining for one in refused.value.rates} == {"tokens-per-user": 0, "requests-per-user": 9}
    assert "requests-per-user" not in stage.rates.used


async def test_a_limit_at_once_refuses_with_how_the_other_limits_stand() -> None:
    stage = governed(rates=[rate(RateScope.KEY, RateKind.REQUESTS, 5), rate(RateScope.KEY, RateKind.RUNS, 1)])
    stage.dispatcher.refusal = RateLimited("1 run at once", retry_after=timedelta(seconds=3))
    with pytest.raises(RateLimited, match="1 run at once") as refused:
        await stage.admit()
    assert [(one.policy, one.remaining) for one in refused.value.rates] == [("requests-per-key", 4)]


async def test_a_caller_without_a_key_has_no_limits_and_no_budgets_of_keys() -> None:
    stage = governed(
        rates=[rate(RateScope.KEY, RateKind.REQUESTS, 0)], budgets=[budget("b", BudgetScope.KEY, limit_nanos=0)]
    )
    assert (await stage.admit(replace(RUN, key_id=None))).rates == ()
    assert stage.ledger.asked == []


async def test_a_spent_budget_refuses_with_what_how_much_and_until_when() -> None:
    stage = governed(budgets=[budget("b", BudgetScope.USER)])
    stage.ledger.spent = {"b": 5 * USD + 20_000_000}
    with pytest.raises(BudgetExceeded) as refused:
        await stage.admit()
    assert refused.value.message == (
        "the daily budget of this user is used up: $5.02 of $5.00; it begins anew at 2026-01-02T23:00:00Z"
    )
    spent = refused.value.spent
    assert spent is not None
    assert (spent.scope, spent.window, spent.allowed_nanos, spent.spent_nanos) == (
        "user",
        "day",
        5 * USD,
        5_020_000_000,
    )
    assert stage.dispatcher.runs == []


async def test_a_budget_with_something_left_lets_the_run_begin() -> None:
    stage = governed(budgets=[budget("b", BudgetScope.TENANT)])
    stage.ledger.spent = {"b": 5 * USD - 1}
    assert (await stage.admit()).run is RUN


async def test_of_several_spent_budgets_the_one_that_lasts_longest_is_told() -> None:
    stage = governed(
        budgets=[
            budget("day", BudgetScope.USER),
            budget("total", BudgetScope.AGENT, BudgetWindow.TOTAL),
            budget("month", BudgetScope.TENANT, BudgetWindow.MONTH),
        ]
    )
    stage.ledger.spent = dict.fromkeys(("day", "total", "month"), 6 * USD)
    with pytest.raises(BudgetExceeded, match=r"^the total budget of this agent is used up: \$6.00 of \$5.00$"):
        await stage.admit()


async def test_budgets_that_only_warn_and_those_of_a_run_are_not_asked_before_it() -> None:
    stage = governed(
        budgets=[
            budget("warns", BudgetScope.USER, limit_nanos=None, soft_nanos=1),
            budget("run", BudgetScope.RUN, BudgetWindow.RUN),
            budget("other", BudgetScope.USER, subject="somebody else"),
            budget("agent", BudgetScope.AGENT, subject="demo"),
        ]
    )
    await stage.admit()
    assert [period.budget.budget_id for period in stage.ledger.asked] == ["agent"]


async def test_a_known_idempotency_key_finds_its_run_though_the_budget_is_spent_since() -> None:
    stage = governed(
        budgets=[budget("b", BudgetScope.USER, limit_nanos=0)], rates=[rate(RateScope.KEY, RateKind.REQUESTS, 5)]
    )
    earlier = make_run()
    stage.dispatcher.known = {"k": ("h", earlier)}
    accepted = await stage.admit(idempotency=RECORD)
    assert (accepted.run, accepted.replayed, len(accepted.rates)) == (earlier, True, 1)
    with pytest.raises(IdempotencyMismatch):
        await stage.admit(idempotency=replace(RECORD, body_hash="other"))
    with pytest.raises(BudgetExceeded):
        await stage.admit(idempotency=replace(RECORD, key="new"))


async def test_a_known_idempotency_key_is_counted_as_any_request() -> None:
    stage = governed(rates=[rate(RateScope.KEY, RateKind.REQUESTS, 1)])
    stage.dispatcher.known = {"k": ("h", make_run())}
    await stage.admit(idempotency=RECORD)
    with pytest.raises(RateLimited):
        await stage.admit(idempotency=RECORD)


async def test_the_operator_is_told_of_refusals_by_limits_and_of_no_others() -> None:
    stage = governed(budgets=[budget("b", BudgetScope.TENANT)])
    stage.ledger.spent = {"b": 6 * USD}
    with pytest.raises(BudgetExceeded):
        await stage.admit()
    stage.ledger.spent = {}
    for refusal in (QueueFull("full"), StorageUnavailable("away")):
        stage.dispatcher.refusal = refusal
        with pytest.raises(type(refusal)):
            await stage.admit()
    assert [type(refusal) for refusal in stage.telemetry.refusals] == [BudgetExceeded, QueueFull]
