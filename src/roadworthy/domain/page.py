"""One page of a list, and where the next begins. Returned by every ``list`` of a repository or service."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Item]):
    """``cursor`` is opaque; None on the last page."""

    items: Sequence[Item]
    cursor: str | None = None
