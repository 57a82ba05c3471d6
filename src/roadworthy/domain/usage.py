"""Counted units of one model call and of a whole run. Money arrives with the priced ledger.

``runtimes`` report a ModelCall, ``engine/metering.py`` records it, responses carry the run's sum.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens by kind, as LangChain counts them: ``input`` includes the cached, ``output`` the reasoning ones."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
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

    ``outcome`` is ``complete``, ``failed``, ``cut`` (stream without its end) or ``cancelled``.
    ``provider`` and ``model`` are what the model object claims (``anthropic``, ``claude-…``), empty when unknown.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The sum over a run's model calls, of all attempts."""

    model_calls: int = 0
    tokens: Tokens = Tokens()
    estimated: bool = False

    def plus(self, calls: Iterable[ModelCall]) -> "Usage":
        """The usage with more calls counted in."""
        usage = self
        for call in calls:
            usage = Usage(
                model_calls=usage.model_calls + 1,
                tokens=usage.tokens + call.tokens,
                estimated=usage.estimated or call.estimated,
            )
        return usage
