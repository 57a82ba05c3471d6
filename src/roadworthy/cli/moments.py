"""Times as an operator writes them on the command line: a day, or a moment as in RFC 3339."""

import re
from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

from roadworthy.domain.errors import InvalidRequest

_GIVEN = re.compile(r"2\d{3}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d))?", re.ASCII)


def checked(text: str | None) -> str | None:
    """The text, when it looks like a day or a moment.

    Raises:
        InvalidRequest: it does not.
    """
    if text is not None and not _GIVEN.fullmatch(text):
        raise _no_moment(text)
    return text


def moment_of(text: str, time_zone: str) -> datetime:
    """The moment, or the beginning of the day in a time zone.

    Raises:
        InvalidRequest: it is neither.
    """
    checked(text)
    try:
        if "T" in text:
            return datetime.fromisoformat(text).astimezone(UTC)
        return datetime.combine(date.fromisoformat(text), time(), ZoneInfo(time_zone)).astimezone(UTC)
    except ValueError:
        raise _no_moment(text) from None


def _no_moment(text: str) -> InvalidRequest:
    return InvalidRequest(f"{text!r} is no day or moment: write 2026-01-31 or 2026-01-31T12:00:00Z")
