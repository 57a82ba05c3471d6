"""Usage reports on the wire: query parameters → ``UsageQuery``, rows → JSON or CSV.

Called by every dialect that reports usage; below it is ``services/usage.py``. Days are those of the server's time zone.
"""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo

from fastapi import Query
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.ids import UserId
from roadworthy.domain.moments import midnight, parse_moment
from roadworthy.domain.money import NANOS, usd
from roadworthy.http.encoding import to_json
from roadworthy.http.patterns import GROUPS as GROUPS_PATTERN
from roadworthy.http.patterns import MOMENT
from roadworthy.ports.ledger import UsageGroup, UsageQuery, UsageRow

CSV_TYPE: Final = "text/csv"
DEFAULT_DAYS: Final = 30
# Whoever asks sees one tenant.
GROUPS: Final = tuple(group for group in UsageGroup if group is not UsageGroup.TENANT)

# A spreadsheet takes a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")

By = Annotated[
    str,
    Query(
        pattern=GROUPS_PATTERN,
        max_length=64,
        description=f"What to list by, with commas: {', '.join(group.value for group in GROUPS)}.",
    ),
]
Since = Annotated[
    str | None,
    Query(
        pattern=MOMENT,
        description=f"A day, or a moment as in RFC 3339. Without it the report has {DEFAULT_DAYS} days.",
    ),
]
Until = Annotated[
    str | None, Query(pattern=MOMENT, description="A day, which is counted in, or a moment. Without it, now.")
]
Format = Annotated[Literal["json", "csv"], Query(alias="format", description="`csv` for a spreadsheet.")]


class UsageReportRow(BaseModel):
    """One group. Of its values those are there that were asked for with `by`; a key is null when there was none.

    `cost_usd` is the cost of all calls with a known price; `unpriced_calls` says how many are not in it.
    """

    model_config = ConfigDict(extra="forbid")

    day: date | None = None
    user: str | None = None
    key: str | None = None
    agent: str | None = None
    model: str | None = None
    runs: int
    model_calls: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    reasoning_tokens: int
    cost_usd: float
    unpriced_calls: int
    estimated: bool


_SUMS: Final = tuple(name for name, field in UsageReportRow.model_fields.items() if field.is_required())


class UsageReport(BaseModel):
    """Model calls begun from `since` to `until` (exclusive)."""

    model_config = ConfigDict(extra="forbid")

    since: datetime
    until: datetime
    by: list[str]
    rows: list[UsageReportRow]


def parse_usage_query(
    *, by: str, since: str | None, until: str | None, time_zone: str, now: datetime, user: UserId | None = None
) -> UsageQuery:
    """What to sum up. ``since`` and ``until``: days (both counted in) or RFC 3339 moments; by default 30 days up to
    ``now``, today being one of them.

    Raises:
        InvalidRequest: a group or a moment is none.
    """
    zone = ZoneInfo(time_zone)
    end = now if until is None else parse_moment(until, zone, days=1, field="until")
    if since is None:
        last_day = (end - timedelta(microseconds=1)).astimezone(zone).date()
        begin = midnight(last_day - timedelta(days=DEFAULT_DAYS - 1), zone)
    else:
        begin = parse_moment(since, zone, field="since")
    return UsageQuery(by=_groups(by), since=begin, until=end, user=user, time_zone=time_zone)


def usage_response(rows: Sequence[UsageRow], query: UsageQuery, form: Literal["json", "csv"]) -> Response:
    """A report in the form that was asked for."""
    if form == "json":
        return Response(to_json(usage_json(rows, query)), media_type="application/json")
    headers = {"Content-Disposition": 'attachment; filename="usage.csv"'}
    return Response(usage_csv(rows, query), media_type=CSV_TYPE, headers=headers)


def usage_json(rows: Sequence[UsageRow], query: UsageQuery) -> dict[str, object]:
    """As ``UsageReport`` describes it."""
    return {
        "since": query.since.astimezone(UTC),
        "until": query.until.astimezone(UTC),
        "by": [group.value for group in query.by],
        "rows": [_document(row, query) for row in rows],
    }


def usage_csv(rows: Sequence[UsageRow], query: UsageQuery) -> str:
    """A line of names, then one line for each row. Costs are exact decimals; no text can be taken for a formula."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\r\n")
    lines.writerow([*(group.value for group in query.by), *_SUMS])
    for row in rows:
        lines.writerow([*map(_harmless, row.group), *_sums(row, f"{Decimal(row.usage.cost_nanos) / NANOS:f}")])
    return out.getvalue()


def _document(row: UsageRow, query: UsageQuery) -> dict[str, object]:
    group = zip((group.value for group in query.by), row.group, strict=True)
    return {**dict(group), **dict(zip(_SUMS, _sums(row, usd(row.usage.cost_nanos)), strict=True))}


def _sums(row: UsageRow, cost_usd: float | str) -> Sequence[object]:
    """In the order of ``_SUMS``."""
    usage, tokens = row.usage, row.usage.tokens
    return (
        row.runs,
        usage.model_calls,
        tokens.input,
        tokens.output,
        tokens.cache_read,
        tokens.cache_write,
        tokens.cache_write_1h,
        tokens.reasoning,
        cost_usd,
        usage.unpriced,
        usage.estimated,
    )


def _harmless(value: str | date | None) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _groups(text: str) -> Sequence[UsageGroup]:
    known = {group.value: group for group in GROUPS}
    names = text.split(",")
    strange = [name for name in names if name not in known]
    if strange:
        raise InvalidRequest(f"must be of {', '.join(known)}, with commas between them", field="by")
    return [known[name] for name in names]
