"""Time zones by their names, wherever somebody may choose one: for budgets and for reports of usage."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from roadworthy.domain.errors import InvalidRequest


def parse_time_zone(text: str) -> str:
    """Check the name of a time zone.

    Raises:
        InvalidRequest: no zone of the IANA database is called so.
    """
    try:
        datetime(2000, 1, 1, tzinfo=UTC).astimezone(ZoneInfo(text))
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder of zones, or a name no file can have
        raise InvalidRequest(f"{text[:64]!r} is no IANA time zone, as Europe/Berlin is", field="time_zone") from None
    return text
