import csv
import io
from datetime import UTC, date, datetime, timedelta

import pytest

from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.ids import UserId
from roadworthy.domain.usage import Tokens, Usage
from roadworthy.http.encoding import to_json
from roadworthy.http.usage_report import UsageReport, parse_usage_query, usage_csv, usage_json, usage_response
from roadworthy.ports.ledger import UsageGroup, UsageQuery, UsageRow

NOW = datetime(2026, 3, 30, 22, 30, tzinfo=UTC)
USAGE = Usage(
    model_calls=3,
    tokens=Tokens(input=100, output=20, cache_read=40, cache_write=30, cache_write_1h=10, reasoning=5),
    estimated=True,
    cost_nanos=1_234_000_001,
    unpriced=1,
)
NONE = Usage(model_calls=1)


def parsed(
    *, by: str = "day", since: str | None = None, until: str | None = None, zone: str = "Europe/Berlin"
) -> UsageQuery:
    return parse_usage_query(by=by, since=since, until=until, time_zone=zone, now=NOW, user=UserId("ann"))


def query(*by: UsageGroup) -> UsageQuery:
    return UsageQuery(by=by, since=NOW - timedelta(days=1), until=NOW)


def test_without_times_the_last_thirty_days_are_meant_today_being_one() -> None:
    found = parsed(by="day,model")
    assert found.by == [UsageGroup.DAY, UsageGroup.MODEL]
    assert found.until == NOW
    # It is half past midnight of the 31st in Berlin, in summer time; the 2nd had winter time.
    assert found.since == datetime(2026, 3, 1, 23, tzinfo=UTC)
    assert (found.user, found.time_zone) == ("ann", "Europe/Berlin")


def test_days_are_counted_in_and_begin_at_midnight_of_the_zone() -> None:
    found = parsed(since="2026-03-29", until="2026-03-29")
    assert (found.since, found.until) == (datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 3, 29, 22, tzinfo=UTC))


def test_moments_are_taken_as_they_are() -> None:
    found = parsed(since="2026-01-01T00:00:00.5Z", until="2026-01-01T02:00+01:00")
    assert found.since == datetime(2026, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)
    assert found.until == datetime(2026, 1, 1, 1, tzinfo=UTC)


def test_an_end_alone_has_thirty_days_before_it() -> None:
    found = parsed(until="2026-01-30", zone="UTC")
    assert (found.since, found.until) == (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC))


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"by": "day,tenant"}, "by"),
        ({"by": "week"}, "by"),
        ({"since": "2026-02-30"}, "since"),
        ({"until": "2026-01-01T25:00:00Z"}, "until"),
    ],
)
def test_what_is_no_group_and_no_moment_is_refused_by_name(asked: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(**asked)
    assert refused.value.field == field


def test_a_report_is_written_as_documented() -> None:
    rows = [
        UsageRow(group=(date(2026, 3, 1), "anthropic:claude"), runs=2, usage=USAGE),
        UsageRow(group=(date(2026, 3, 2), ""), runs=1, usage=NONE),
    ]
    document = usage_json(rows, query(UsageGroup.DAY, UsageGroup.MODEL))
    report = UsageReport.model_validate_json(to_json(document))
    assert (report.by, report.until) == (["day", "model"], NOW)
    first, second = report.rows
    assert (first.day, first.model, first.runs, first.model_calls) == (date(2026, 3, 1), "anthropic:claude", 2, 3)
    assert (first.cost_usd, first.unpriced_calls, first.estimated) == (1.234000001, 1, True)
    assert (first.cache_write_tokens, first.cache_write_1h_tokens, first.reasoning_tokens) == (30, 10, 5)
    assert (second.cost_usd, second.unpriced_calls) == (0, 0)
    assert "user" not in document["rows"][0]  # type: ignore[index]


def test_csv_has_the_same_columns_and_exact_costs() -> None:
    rows = [UsageRow(group=(None, "ann"), runs=2, usage=USAGE)]
    asked = query(UsageGroup.KEY, UsageGroup.USER)
    (line,) = csv.DictReader(io.StringIO(usage_csv(rows, asked)))
    (row,) = usage_json(rows, asked)["rows"]  # type: ignore[misc]
    assert list(line) == list(row)
    assert (line["key"], line["user"], line["cost_usd"], line["runs"]) == ("", "ann", "1.234000001", "2")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", '=HYPERLINK("x","y")'])
def test_no_cell_of_text_can_be_taken_for_a_formula(text: str) -> None:
    rows = [UsageRow(group=(text,), runs=1, usage=NONE)]
    (line,) = csv.DictReader(io.StringIO(usage_csv(rows, query(UsageGroup.USER))))
    assert line["user"] == f"'{text}"


def test_an_answer_is_of_the_type_that_was_asked_for() -> None:
    asked = query(UsageGroup.USER)
    assert usage_response([], asked, "json").headers["content-type"] == "application/json"
    table = usage_response([], asked, "csv")
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    assert table.headers["content-disposition"] == 'attachment; filename="usage.csv"'
    assert bytes(table.body).startswith(b"user,runs,model_calls,")
