"""Sums over the ledger by any groups. Run by ``ledger.py`` on a reader.

A run is counted once in each group, so days are summed up one by one, each between its two midnights in the zone asked
for: no sum of parts would say how many runs there were. Days without a call cost nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import TypeAlias
from zoneinfo import ZoneInfo

from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.ids import TenantId
from roadworthy.domain.usage import Tokens, Usage
from roadworthy.ports.ledger import UsageGroup, UsageQuery, UsageRow
from roadworthy.storage import ledger_statements as sql
from roadworthy.storage.rows import micros, moment
from roadworthy.storage.transaction import Param, Row, Transaction

_Value: TypeAlias = str | date | None


@dataclass(frozen=True, slots=True)
class _Span:
    """Microseconds since 1970, the end exclusive. ``day``: the one that it lies in, None when that is not asked."""

    day: date | None
    since: int
    until: int


class UsageSums:
    """The answer to one query, collected tenant by tenant. As large as the number of groups."""

    def __init__(self, query: UsageQuery) -> None:
        self._query = query
        self._zone = ZoneInfo(query.time_zone)
        self._groups: dict[tuple[_Value, ...], UsageRow] = {}

    def add(self, tx: Transaction, tenant: TenantId) -> None:
        """Add the calls of one tenant.

        Raises:
            InvalidRequest: there are more groups than the query allows.
        """
        by = self._query.by
        flags = {f"by_{group.value}": int(group in by) for group in _COLUMNS}
        statement = sql.USAGE_OF_TENANT if self._query.user is None else sql.USAGE_OF_USER
        for span in self._spans(tx, tenant):
            params = {**self._whose(tenant), **flags, "since": span.since, "until": span.until}
            for row in tx.all(statement, **params, limit=self._query.most_groups + 1):
                self._count(_group(by, tenant, span.day, row), row)
            self._check_size()

    def rows(self) -> Sequence[UsageRow]:
        """The groups in order; a missing value comes first."""
        return [self._groups[group] for group in sorted(self._groups, key=_order)]

    def _check_size(self) -> None:
        most = self._query.most_groups
        if len(self._groups) > most:
            raise InvalidRequest(
                f"these are more than {most} groups: ask for less time, one user, or fewer groups", field="by"
            )

    def _whose(self, tenant: TenantId) -> Mapping[str, Param]:
        user = self._query.user
        return {"tenant": tenant} if user is None else {"tenant": tenant, "owner": user}

    def _spans(self, tx: Transaction, tenant: TenantId) -> Iterator[_Span]:
        since, until = micros(self._query.since), micros(self._query.until)
        if UsageGroup.DAY not in self._query.by:
            yield _Span(None, since, until)
            return
        statement = sql.FIRST_OF_TENANT if self._query.user is None else sql.FIRST_OF_USER
        while (row := tx.one(statement, **self._whose(tenant), since=since, until=until)) and row[0] is not None:
            day = moment(row[0]).astimezone(self._zone).date()
            midnight = datetime.combine(day + timedelta(days=1), time(), self._zone)
            end = min(until, micros(midnight))
            yield _Span(day, since, end)
            since = end

    def _count(self, group: tuple[_Value, ...], row: Row) -> None:
        known = self._groups.get(group)
        added = UsageRow(group=group, runs=int(row[5]), usage=_usage(row))
        if known is not None:
            # Of another tenant, whose runs are others.
            added = UsageRow(group=group, runs=known.runs + added.runs, usage=_both(known.usage, added.usage))
        self._groups[group] = added


def next_tenant(tx: Transaction, after: TenantId) -> TenantId | None:
    """The first tenant in the ledger after another in the alphabet."""
    row = tx.one(sql.NEXT_TENANT, after=after)
    return None if row is None or row[0] is None else TenantId(row[0])


# Where the first columns of ``USAGE_OF_TENANT`` have a group's value; a model's is its provider's name with its own.
_COLUMNS: Mapping[UsageGroup, Sequence[int]] = {
    UsageGroup.USER: (0,),
    UsageGroup.KEY: (1,),
    UsageGroup.AGENT: (2,),
    UsageGroup.MODEL: (3, 4),
}


def _group(by: Sequence[UsageGroup], tenant: TenantId, day: date | None, row: Row) -> tuple[_Value, ...]:
    def value(group: UsageGroup) -> _Value:
        if group is UsageGroup.DAY:
            return day
        if group is UsageGroup.TENANT:
            return tenant
        parts = [row[column] for column in _COLUMNS[group]]
        return None if parts[0] is None else ":".join(parts)

    return tuple(value(group) for group in by)


def _usage(row: Row) -> Usage:
    calls, input_, output, cache_read, cache_write, cache_write_1h, reasoning, estimated, cost, unpriced = row[6:]
    # int: a database may answer a sum as a decimal.
    return Usage(
        model_calls=int(calls),
        tokens=Tokens(
            input=int(input_),
            output=int(output),
            cache_read=int(cache_read),
            cache_write=int(cache_write),
            cache_write_1h=int(cache_write_1h),
            reasoning=int(reasoning),
        ),
        estimated=bool(estimated),
        cost_nanos=int(cost),
        unpriced=int(unpriced),
    )


def _both(one: Usage, other: Usage) -> Usage:
    return Usage(
        model_calls=one.model_calls + other.model_calls,
        tokens=one.tokens + other.tokens,
        estimated=one.estimated or other.estimated,
        cost_nanos=one.cost_nanos + other.cost_nanos,
        unpriced=one.unpriced + other.unpriced,
    )


def _order(group: tuple[_Value, ...]) -> tuple[str, ...]:
    return tuple("" if value is None else str(value) for value in group)
