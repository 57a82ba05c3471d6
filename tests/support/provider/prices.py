"""What the fake provider charges: the price list of the model that served agents use, written down by hand.

Nothing of the product is asked, so that a wrong price shows as a difference between the two ledgers. Source:
https://platform.claude.com/docs/en/about-claude/pricing (USD per million tokens: 3 in, 15 out, 0.30 read from the
cache, 3.75 written to it for five minutes).
"""

from dataclasses import dataclass

from tests.support.provider.ledger import LedgerEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrices:
    """Nano-USD for one token of each kind."""

    input: int
    output: int
    cache_read: int
    cache_creation: int


PRICES = {"claude-sonnet-4-5": TokenPrices(input=3_000, output=15_000, cache_read=300, cache_creation=3_750)}


def charged_nanos(entry: LedgerEntry) -> int:
    """What a call is billed, in nano-USD, whatever became of it. Input and cache are counted apart, as the API does."""
    if not (entry.input_tokens or entry.output_tokens or entry.cache_read_tokens or entry.cache_creation_tokens):
        return 0
    prices = PRICES[entry.model]
    return (
        entry.input_tokens * prices.input
        + entry.output_tokens * prices.output
        + entry.cache_read_tokens * prices.cache_read
        + entry.cache_creation_tokens * prices.cache_creation
    )
