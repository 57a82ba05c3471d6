"""How a caller's rate limits stand → the headers ``RateLimit-Policy`` and ``RateLimit``.

Called by the dialects for runs that were accepted, by ``problems.py`` for those refused with 429. Names say what is
limited and for whom, never who it is. Format: draft-ietf-httpapi-ratelimit-headers-10, lists of structured fields.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import ceil

from roadworthy.domain.rate_limit import RateKind
from roadworthy.domain.rate_status import RateStatus

POLICY = "RateLimit-Policy"
STATUS = "RateLimit"

# Without a unit, a quota is one of requests.
_UNITS = {RateKind.TOKENS.value: ';qu="tokens"', RateKind.RUNS.value: ';qu="concurrent-requests"'}


def rate_headers(rates: Sequence[RateStatus]) -> Mapping[str, str]:
    """Both headers, or none when no limit applies. Times are whole seconds, rounded up: who waits has waited enough."""
    if not rates:
        return {}
    return {POLICY: ", ".join(map(_policy, rates)), STATUS: ", ".join(map(_status, rates))}


def _policy(rate: RateStatus) -> str:
    unit = _UNITS.get(rate.policy.partition("-")[0], "")
    window = f";w={_seconds(rate.window)}" if rate.window else ""  # a limit at once has none, and 0 is not allowed
    return f'"{rate.policy}";q={rate.limit}{unit}{window}'


def _status(rate: RateStatus) -> str:
    resets = f";t={_seconds(rate.resets_in)}" if rate.window else ""
    return f'"{rate.policy}";r={max(0, rate.remaining)}{resets}'


def _seconds(delay: timedelta) -> int:
    return max(0, ceil(delay.total_seconds()))
