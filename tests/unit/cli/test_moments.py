"""Times as they are written on the command line."""

from datetime import UTC, datetime

import pytest

from roadworthy.cli.moments import checked, moment_of
from roadworthy.domain.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 30, 23, tzinfo=UTC)),
        ("2026-07-31", datetime(2026, 7, 30, 22, tzinfo=UTC)),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_a_day_begins_at_midnight_in_its_zone_and_a_moment_is_what_it_says(text: str, moment: datetime) -> None:
    assert checked(text) == text
    assert moment_of(text, "Europe/Berlin") == moment


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026", "2026-13-01", "2026-02-30", "2026-01-31T12:00:00", "9999-12-31", "\uff12026-01-01", "1e400"],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no day or moment"):
        moment_of(text, "Europe/Berlin")


def test_nothing_stays_nothing() -> None:
    assert checked(None) is None
