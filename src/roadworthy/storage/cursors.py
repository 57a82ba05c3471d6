"""Positions in lists, opaque to clients. Used by the repositories that return pages."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.page import Page

Item = TypeVar("Item")

# Behind every number that a list is sorted by.
END = 2**62


def page_of(items: Sequence[Item], limit: int, cursor_of: Callable[[Item], str]) -> Page[Item]:
    """A page from up to ``limit + 1`` items: the one too many only says that there is more."""
    if len(items) <= limit:
        return Page(items=items)
    return Page(items=items[:limit], cursor=cursor_of(items[limit - 1]))


def number(cursor: str | None) -> int:
    """The number in a cursor, or the end for none.

    Raises:
        InvalidRequest: it is not a cursor of ours.
    """
    if cursor is None:
        return END
    if not cursor.isascii() or not cursor.isdecimal() or len(cursor) > len(str(END)):
        raise InvalidRequest("the cursor is not one that this list gave out", field="cursor")
    return min(int(cursor), END)
