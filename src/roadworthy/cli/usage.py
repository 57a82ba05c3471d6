"""``roadworthy usage``: who spent what, as a table, JSON or CSV, beside a running server."""

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from roadworthy.cli.data import open_data
from roadworthy.cli.environment import load_settings
from roadworthy.cli.moments import checked
from roadworthy.cli.output import hint, moment, say, say_json, say_table
from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.ids import parse_tenant_id, parse_user_id
from roadworthy.domain.money import usd_text
from roadworthy.domain.usage import Usage
from roadworthy.ports.ledger import UsageGroup, UsageQuery, UsageRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roadworthy.domain.ids import TenantId
    from roadworthy.services.usage import UsageReports


def usage(
    by: Annotated[
        str, typer.Option(help="What to list by, with commas: day, tenant, user, key, agent, model.")
    ] = "day",
    since: Annotated[str | None, typer.Option(metavar="DAY", help="From this day or moment. Default: 30 days.")] = None,
    until: Annotated[str | None, typer.Option(metavar="DAY", help="To this day, counted in, or moment.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    user: Annotated[str | None, typer.Option(help="Only this user's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Show what model calls used and cost: by day, user, key, agent or model."""
    if as_json and as_csv:
        raise InvalidRequest("choose one of --json and --csv")
    groups = _groups(by)
    rows, query = asyncio.run(_rows(groups, checked(since), checked(until), tenant, user))
    if as_json or as_csv:
        _say_document(rows, query, as_csv=as_csv)
        return
    names = ("RUNS", "CALLS", "INPUT", "CACHED", "OUTPUT", "REASONING", "COST", "UNPRICED")
    table = [(*(_cell(value) for value in row.group), *_sums(row.runs, row.usage)) for row in rows]
    say_table((*(group.value.upper() for group in groups), *names), table)
    hint(_summary(rows, query))


async def _rows(
    groups: "Sequence[UsageGroup]", since: str | None, until: str | None, tenant: str | None, user: str | None
) -> "tuple[Sequence[UsageRow], UsageQuery]":
    boundary: TenantId | None = None if tenant is None else parse_tenant_id(tenant)
    async with open_data(load_settings()) as data:
        query = _query(data.usage, groups, since, until, user)
        return await data.usage.of(boundary, query), query


def _query(
    reports: "UsageReports", groups: "Sequence[UsageGroup]", since: str | None, until: str | None, user: str | None
) -> UsageQuery:
    """As the admin API understands it; only here may tenants be told apart."""
    from roadworthy.http.usage_report import parse_usage_query

    query = parse_usage_query(
        by="day",
        since=since,
        until=until,
        time_zone=reports.time_zone,
        now=reports.now(),
        user=None if user is None else parse_user_id(user),
    )
    return replace(query, by=groups)


def _groups(text: str) -> "Sequence[UsageGroup]":
    known = {group.value: group for group in UsageGroup}
    names = [name.strip() for name in text.split(",")]
    strange = [name for name in names if name not in known]
    if strange:
        raise InvalidRequest(f"{strange[0]!r} is nothing to list by: it is {', '.join(known)}, with commas")
    return [known[name] for name in names]


def _say_document(rows: "Sequence[UsageRow]", query: UsageQuery, *, as_csv: bool) -> None:
    from roadworthy.http.encoding import to_json
    from roadworthy.http.usage_report import usage_csv, usage_json

    if as_csv:
        say(usage_csv(rows, query).replace("\r\n", "\n").removesuffix("\n"))
    else:
        say_json(json.loads(to_json(usage_json(rows, query))))


def _cell(value: object) -> str:
    return "-" if value is None else str(value)


def _sums(runs: int, usage: Usage) -> tuple[str, ...]:
    tokens = usage.tokens
    counts = (runs, usage.model_calls, tokens.input, tokens.cache_read, tokens.output, tokens.reasoning)
    cost = ("~" if usage.estimated else "") + usd_text(usage.cost_nanos)
    return (*(f"{count:,}" for count in counts), cost, str(usage.unpriced) if usage.unpriced else "")


def _summary(rows: "Sequence[UsageRow]", query: UsageQuery) -> str:
    cost = sum(row.usage.cost_nanos for row in rows)
    unpriced = sum(row.usage.unpriced for row in rows)
    notes = [
        f"{usd_text(cost)} from {moment(query.since)} to {moment(query.until)}; days are those of {query.time_zone}"
    ]
    if any(row.usage.estimated for row in rows):
        notes.append("~: some of it is estimated, because the provider never said how much it was")
    if unpriced:
        calls = "1 call has no known price and is" if unpriced == 1 else f"{unpriced} calls have no known price and are"
        notes.append(f"{calls} not in it: see ROADWORTHY_PRICE_FILE")
    return "\n".join(notes)
