"""Times as people write them: a day, or a moment as in RFC 3339. For ``http/usage_report.py``, ``cli/moments.py``."""

import re
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from roadworthy.domain.errors import InvalidRequest

# Also a JSON schema's pattern. Years of four digits that begin with a 2: sums of days stay within what a date can be.
PATTERN = r"^2[0-9]{3}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2}))?$"


def require_moment(text: str, *, field: str | None = None) -> str:
    """The text, when it looks like a day or a moment.

    Raises:
        InvalidRequest: it does not.
    """
    if not re.fullmatch(PATTERN, text):
        raise _no_moment(text, field)
    return text


def parse_moment(text: str, zone: ZoneInfo, *, days: int = 0, field: str | None = None) -> datetime:
    """A moment as it is; of a day its midnight in ``zone``, or the one ``days`` later.

    Raises:
        InvalidRequest: it is neither.
    """
    require_moment(text, field=field)
    try:
        if "T" in text:
            return datetime.fromisoformat(text).astimezone(UTC)
        return midnight(date.fromisoformat(text) + timedelta(days=days), zone)
    except ValueError:
        raise _no_moment(text, field) from None


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """When a day begins."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _no_moment(text: str, field: str | None) -> InvalidRequest:
    return InvalidRequest(f"{text[:64]!r} is no day or moment: write 2026-01-31 or 2026-01-31T12:00:00Z", field=field)
