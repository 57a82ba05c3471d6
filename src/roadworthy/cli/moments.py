"""Times as an operator writes them on the command line."""

from datetime import datetime
from zoneinfo import ZoneInfo

from roadworthy.domain.moments import parse_moment, require_moment


def checked(text: str | None) -> str | None:
    """The text, when it looks like a day or a moment.

    Raises:
        InvalidRequest: it does not.
    """
    return None if text is None else require_moment(text)


def moment_of(text: str, time_zone: str) -> datetime:
    """The moment, or the beginning of the day in a time zone.

    Raises:
        InvalidRequest: it is neither.
    """
    return parse_moment(text, ZoneInfo(time_zone))
