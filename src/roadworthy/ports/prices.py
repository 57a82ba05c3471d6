"""What a model call costs. Adapter: ``pricing``; asked by ``engine/spending.py``."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from roadworthy.domain.usage import Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Nano-USD of one call, and the price list it is from."""

    cost_nanos: int
    version: str


class PriceBook(Protocol):
    """See the module."""

    def price(self, provider: str, model: str, tokens: Tokens, at: datetime) -> Price | None:
        """What ``tokens`` of a model cost at a moment; None when nobody knows. Cheap, safe from any thread."""
        ...
