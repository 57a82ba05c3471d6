"""How a rate limit stands for a caller: what headers say about it (IETF draft ``ratelimit-headers``)."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class RateStatus:
    """``policy`` names the limit without saying whose it is. ``resets_in``: until something is free again."""

    policy: str
    limit: int
    window: timedelta
    remaining: int
    resets_in: timedelta
