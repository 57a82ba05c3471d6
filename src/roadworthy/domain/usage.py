"""Counted units of one model call and of a whole run, and what they cost in nano-USD.

``runtimes`` report a ModelCall, ``engine/metering.py`` prices and records it, responses carry the run's sum.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime

# What estimates go by; ``docs/prices.md`` says how near that is.
CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens by kind, as LangChain counts them: ``input`` includes the cached, ``output`` the reasoning ones.

    ``cache_write`` includes ``cache_write_1h``: those written for an hour, which cost more than the usual five minutes.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def total(self) -> int:
        """Input and output together."""
        return self.input + self.output


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """One call of a model as the runtime saw it end. ``estimated``: the provider never said how much it was.

    ``outcome`` is ``complete``, ``failed``, ``cut`` (stream without its end), ``cancelled``, or ``lost``: its worker
    died in the middle of it. ``provider`` and ``model`` are what the model object claims (``anthropic``, ``claude-…``),
    empty when unknown. ``cost_nanos``: nano-USD, None while it is not priced or when nobody knows its price;
    ``price_version`` names the price list. ``journalled``: after a crash its response is there, so that it is not
    bought again; only meant for calls that are complete. ``message_id``: of the message that its answer was shown as,
    empty when unknown; in events only, not on the ledger.
    """

    call_id: str
    node: str
    provider: str
    model: str
    tokens: Tokens
    estimated: bool
    outcome: str
    started_at: datetime
    finished_at: datetime
    cost_nanos: int | None = None
    price_version: str = ""
    journalled: bool = True
    message_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The sum over a run's model calls, of all attempts.

    ``unpriced``: calls whose price nobody knows; ``unjournalled``: complete ones that a crash would have lost.
    """

    model_calls: int = 0
    tokens: Tokens = Tokens()
    estimated: bool = False
    cost_nanos: int = 0
    unpriced: int = 0
    unjournalled: int = 0

    @property
    def known_cost_nanos(self) -> int | None:
        """What all of it cost, None when a part is not known."""
        return None if self.unpriced else self.cost_nanos

    def plus(self, calls: Iterable[ModelCall]) -> "Usage":
        """The usage with more calls counted in."""
        usage = self
        for call in calls:
            usage = Usage(
                model_calls=usage.model_calls + 1,
                tokens=usage.tokens + call.tokens,
                estimated=usage.estimated or call.estimated,
                cost_nanos=usage.cost_nanos + (call.cost_nanos or 0),
                unpriced=usage.unpriced + (call.cost_nanos is None),
                unjournalled=usage.unjournalled + (not call.journalled),
            )
        return usage


def tokens_of(chars: int) -> int:
    """About how many tokens that many characters are."""
    return -(-chars // CHARS_PER_TOKEN)
