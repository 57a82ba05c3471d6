"""Patterns of values on the wire, each with what a person is told who sends another: nobody reads regular expressions.

Used by the routes' parameters and the bodies of every dialect; ``http/problems.py`` asks ``readable``.
"""

from collections.abc import Mapping
from typing import Final

from roadworthy.domain import moments

USER: Final = r"^[A-Za-z0-9._:@|+-]{1,128}$"
AGENT: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
THREAD: Final = r"^[A-Za-z0-9._:-]{1,128}$"
EVENT: Final = "^[0-9]{1,9}-[0-9]{1,9}-[0-9]{1,9}$"
EVENT_OR_NOTHING: Final = "^([0-9]{1,9}-[0-9]{1,9}-[0-9]{1,9})?$"
IDEMPOTENCY_KEY: Final = "^[!-~]+$"
GROUPS: Final = "^[a-z]+(,[a-z]+)*$"
MOMENT: Final = moments.PATTERN

_EVENT_TEXT: Final = "must be the id of an event, as in 1-1-3"
TEXTS: Final[Mapping[str, str]] = {
    USER: "must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ | + -",
    AGENT: "must be 1 to 64 characters of A-Z a-z 0-9 . _ - and begin with a letter or digit",
    THREAD: "must be 1 to 128 characters of A-Z a-z 0-9 . _ : -",
    EVENT: _EVENT_TEXT,
    EVENT_OR_NOTHING: _EVENT_TEXT,
    IDEMPOTENCY_KEY: "must be of printable ASCII characters without spaces",
    GROUPS: "must be names with commas between them, as in day,model",
    MOMENT: "must be a day or a moment, as in 2026-01-31 or 2026-01-31T12:00:00Z (a + in it is written %2B)",
}
_PREFIX: Final = "String should match pattern "


def readable(message: str) -> str:
    """What validation said; of a pattern that was not met, what it means."""
    return TEXTS.get(message.removeprefix(_PREFIX)[1:-1], message) if message.startswith(_PREFIX) else message
