"""``docs/http-api.md`` against the code: nothing missing, nothing invented."""

import re
from pathlib import Path
from typing import get_args

from roadworthy.app import build_app
from roadworthy.http.deps import HttpLimits
from roadworthy.http.usage_report import UsageReport, UsageReportRow
from roadworthy.protocols.plain import wire
from roadworthy.protocols.plain.wire_events import StreamEvent
from roadworthy.telemetry.metrics import Metrics
from tests.support.web.fakes import Fakes
from tests.unit.http.test_problems import EXPECTED

PAGE = (Path(__file__).parents[4] / "docs" / "http-api.md").read_text()
# Roots of families, and what never leaves the server.
NEVER_SENT = {"agent_error", "config", "invalid_transition", "lease_lost", "limit_exceeded"}


def section(heading: str) -> str:
    """The text below a heading; of its table, the rows alone."""
    return re.sub(r"^\|.*\n\| ---.*$", "", PAGE.split(f"## {heading}\n")[1].split("\n## ")[0], flags=re.MULTILINE)


def test_every_route_is_listed_and_no_other() -> None:
    app = build_app(Fakes().services, HttpLimits(), auth=True, version="0", api_version="v1", exposition=Metrics("0"))
    paths = app.openapi()["paths"]
    served = {
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        for method in methods
        if not path.startswith("/admin/")
    }
    assert set(re.findall(r"`((?:GET|POST|DELETE) [^`]+)`", section("Which routes are there?"))) == served


def test_every_event_and_its_fields_are_listed_and_no_other() -> None:
    events = get_args(get_args(StreamEvent)[0])
    coded = {
        get_args(event.model_fields["type"].annotation)[0]: set(event.model_fields) - {"id", "type"} for event in events
    }
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section("Which events does a stream have?"), re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", fields)) for name, fields in rows} == coded


def test_every_error_code_is_listed_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (`[^|]+`) \|", section("Which error codes are there?"), re.MULTILINE)
    listed = {code: int(status) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    sent = {code: status for code, status in EXPECTED.items() if code not in NEVER_SENT}
    outcomes = {
        "disconnected": 409,
        "superseded": 409,
        "method_not_allowed": 405,
        "request_timeout": 408,
        "headers_too_large": 431,
    }
    assert listed == sent | outcomes


def test_every_field_of_a_body_and_of_a_run_is_told() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", section("What can the body of invoke and stream contain?"), re.MULTILINE)
    assert set(rows) == set(wire.RunBody.model_fields)
    assert set(wire.Run.model_fields) == set(
        re.findall(r'^  "(\w+)":', section("How do I run an agent?"), re.MULTILINE)
    )


def test_every_field_of_usage_and_of_a_report_is_told() -> None:
    told = set(
        re.findall(
            r"`(\w+)`",
            "".join(re.findall(r"^\|([^|]*)\|", section("What does a run cost?"), re.MULTILINE)),
        )
    )
    assert told == set(wire.Usage.model_fields)
    report = section("How do I see my usage and costs by day or model?")
    assert set(UsageReport.model_fields) == set(re.findall(r'^  "(\w+)":', report, re.MULTILINE))
    sums = {name for name, field in UsageReportRow.model_fields.items() if field.is_required()}
    assert sums <= set(re.findall(r'"(\w+)":', report))


def test_every_status_is_told() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", section("Which statuses can a run have?"), re.MULTILINE)
    assert set(rows) == set(get_args(wire.RunStatus))
