"""Any Ledger: sums by any groups, days in any time zone."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from roadworthy.domain.ids import TenantId, UserId
from roadworthy.domain.usage import ModelCall, Tokens, Usage
from roadworthy.ports.ledger import Ledger, UsageGroup, UsageQuery, UsageRow
from roadworthy.ports.queue import RunQueue
from tests.conformance.storage.factories import ALICE, BOB, START, STRANGER, new_run
from tests.conformance.storage.spending import NOON, call, claimed

DAY, TENANT, USER = UsageGroup.DAY, UsageGroup.TENANT, UsageGroup.USER
KEY, AGENT, MODEL = UsageGroup.KEY, UsageGroup.AGENT, UsageGroup.MODEL
YEAR = UsageQuery(by=(), since=START, until=START + timedelta(days=365))


def by(*groups: UsageGroup) -> UsageQuery:
    return replace(YEAR, by=groups)


def short(rows: Sequence[UsageRow]) -> list[tuple[object, ...]]:
    """Group, runs, calls and cost."""
    return [(*row.group, row.runs, row.usage.model_calls, row.usage.cost_nanos) for row in rows]


def of_model(one: ModelCall, provider: str, model: str) -> ModelCall:
    return replace(one, provider=provider, model=model)


@pytest.fixture(autouse=True)
async def spent(queue: RunQueue, ledger: Ledger) -> None:
    """Two runs of alice (one with a key), one of bob, one of another tenant's alice."""
    run = await claimed(queue, new_run(thread="one"), key="key")
    await ledger.append(
        run,
        [
            call("a", 1),
            call("b", 2, at=NOON + timedelta(seconds=1)),
            of_model(call("c", 4, at=NOON + timedelta(days=1)), "openai", "other-model"),
        ],
        {},
    )
    run = await claimed(queue, new_run(thread="two", agent="research"))
    await ledger.append(run, [replace(call("a", 8), estimated=True)], {})
    run = await claimed(queue, new_run(BOB, "one"))
    await ledger.append(run, [call("a", 16), call("b", None)], {})
    run = await claimed(queue, new_run(STRANGER, "one"))
    await ledger.append(run, [call("a", 32)], {})


FIRST, SECOND = date(2030, 1, 1), date(2030, 1, 2)


@pytest.mark.parametrize(
    ("groups", "rows"),
    [
        ((), [(3, 6, 31)]),
        ((DAY,), [(FIRST, 3, 5, 27), (SECOND, 1, 1, 4)]),
        ((TENANT,), [("acme", 3, 6, 31)]),
        ((USER,), [("alice", 2, 4, 15), ("bob", 1, 2, 16)]),
        ((KEY,), [(None, 2, 3, 24), ("key", 1, 3, 7)]),
        ((AGENT,), [("demo", 2, 5, 23), ("research", 1, 1, 8)]),
        ((MODEL,), [("anthropic:some-model", 3, 5, 27), ("openai:other-model", 1, 1, 4)]),
        (
            (MODEL, DAY, USER),
            [
                ("anthropic:some-model", FIRST, "alice", 2, 3, 11),
                ("anthropic:some-model", FIRST, "bob", 1, 2, 16),
                ("openai:other-model", SECOND, "alice", 1, 1, 4),
            ],
        ),
        (
            (AGENT, KEY, TENANT),
            [
                ("demo", None, "acme", 1, 2, 16),
                ("demo", "key", "acme", 1, 3, 7),
                ("research", None, "acme", 1, 1, 8),
            ],
        ),
    ],
)
async def test_usage_is_summed_up_by_any_groups(
    ledger: Ledger, groups: tuple[UsageGroup, ...], rows: list[tuple[object, ...]]
) -> None:
    assert short(await ledger.usage(ALICE.tenant, by(*groups))) == rows


async def test_a_sum_has_tokens_by_kind_and_says_what_is_not_known(ledger: Ledger) -> None:
    alice, bob = [row.usage for row in await ledger.usage(ALICE.tenant, by(USER))]
    assert alice == Usage(
        model_calls=4,
        tokens=Tokens(input=40, output=20, cache_read=12, cache_write=8, cache_write_1h=4, reasoning=4),
        estimated=True,
        cost_nanos=15,
        unpriced=0,
    )
    assert (bob.estimated, bob.unpriced, bob.known_cost_nanos) == (False, 1, None)


async def test_an_operator_sees_every_tenant(ledger: Ledger) -> None:
    assert short(await ledger.usage(None, by(TENANT))) == [("acme", 3, 6, 31), ("other", 1, 1, 32)]
    # Two tenants' users of one name are one group when nobody asks for the tenant.
    assert short(await ledger.usage(None, by(USER))) == [("alice", 3, 5, 47), ("bob", 1, 2, 16)]
    assert short(await ledger.usage(None, by(DAY))) == [(FIRST, 4, 6, 59), (SECOND, 1, 1, 4)]


async def test_one_users_usage_can_be_asked_for(ledger: Ledger) -> None:
    query = replace(by(DAY, AGENT), user=UserId("alice"))
    rows = [(FIRST, "demo", 1, 2, 3), (FIRST, "research", 1, 1, 8), (SECOND, "demo", 1, 1, 4)]
    assert short(await ledger.usage(ALICE.tenant, query)) == rows
    assert await ledger.usage(ALICE.tenant, replace(query, user=UserId("nobody"))) == []


async def test_the_beginning_counts_and_the_end_does_not(ledger: Ledger) -> None:
    second = timedelta(seconds=1)
    query = replace(by(DAY), since=NOON, until=NOON + second)
    assert short(await ledger.usage(ALICE.tenant, query)) == [(FIRST, 3, 4, 25)]
    query = replace(by(DAY), since=NOON + second, until=NOON + timedelta(days=1))
    assert short(await ledger.usage(ALICE.tenant, query)) == [(FIRST, 1, 1, 2)]


async def test_who_spent_nothing_has_no_rows(ledger: Ledger) -> None:
    for groups in ((), (DAY,), (USER, MODEL)):
        assert await ledger.usage(TenantId("nobody"), by(*groups)) == []


async def test_days_without_calls_cost_nothing_however_long_the_time_asked_for(ledger: Ledger) -> None:
    query = replace(by(DAY), since=datetime(1970, 1, 1, tzinfo=UTC), until=datetime(9999, 1, 1, tzinfo=UTC))
    assert short(await ledger.usage(ALICE.tenant, query)) == [(FIRST, 3, 5, 27), (SECOND, 1, 1, 4)]


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", date(2030, 3, 31), 23),
        ("Europe/Berlin", date(2030, 10, 27), 25),
        ("Atlantic/Azores", date(2030, 10, 27), 25),  # midnight comes twice
        ("Asia/Kolkata", date(2030, 10, 27), 24),
        ("Australia/Lord_Howe", date(2030, 4, 7), 24.5),  # the clock changes by half an hour
        ("Africa/Cairo", date(2030, 4, 26), 23),  # there is no midnight: it is one o'clock at once
    ],
)
async def test_a_day_of_a_clock_change_is_as_long_as_it_is(
    queue: RunQueue, ledger: Ledger, zone: str, day: date, hours: float
) -> None:
    place = ZoneInfo(zone)
    begin = datetime.combine(day, datetime.min.time(), place).astimezone(UTC)
    quarters = int(hours * 4)
    run = await claimed(queue, new_run(BOB, "long"))
    # One call a quarter of an hour, from the quarter before the day to the one after it.
    moments = [begin + timedelta(minutes=15 * number) for number in range(-1, quarters + 1)]
    await ledger.append(run, [call(f"{number}", 1, at=at) for number, at in enumerate(moments)], {})
    query = replace(by(DAY), since=moments[0], until=moments[-1] + timedelta(minutes=1), time_zone=zone, user=BOB.user)
    one = timedelta(days=1)
    assert short(await ledger.usage(BOB.tenant, query)) == [
        (day - one, 1, 1, 1),
        (day, 1, quarters, quarters),
        (day + one, 1, 1, 1),
    ]
