"""The price book that the server asks: the operator's file first, then the catalogue.

``bootstrap`` opens it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from roadworthy.domain.usage import Tokens
from roadworthy.ports.prices import Price, PriceBook
from roadworthy.pricing.catalogue import Catalogue
from roadworthy.pricing.price_file import read_price_file


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedBooks:
    """See ``ports.prices.PriceBook``. The first of ``books`` that knows a price tells it."""

    books: Sequence[PriceBook]

    def price(self, provider: str, model: str, tokens: Tokens, at: datetime) -> Price | None:
        """See ``ports.prices.PriceBook.price``."""
        prices = (book.price(provider, model, tokens, at) for book in self.books)
        return next((price for price in prices if price is not None), None)


def open_price_book(path: Path | None) -> PriceBook:
    """The prices of the file at ``path``, if there is one, and of the catalogue.

    Raises:
        ConfigError: the file cannot be read, or an entry is wrong.
    """
    catalogue = Catalogue()
    return catalogue if path is None else OrderedBooks(books=(read_price_file(path), catalogue))
