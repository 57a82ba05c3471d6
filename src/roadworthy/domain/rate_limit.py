"""Limits per minute and at once: how much of the server a key, a user or a tenant may take up.

Operators set them (``services/limits.py``); ``services/admission.py`` checks them before a run is accepted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from roadworthy.domain.ids import KeyId, TenantId, UserId

WINDOW = timedelta(minutes=1)


class RateScope(StrEnum):
    """Whose limit it is. A backend's key that speaks for users counts as one key, each of its users as one user."""

    KEY = "key"
    USER = "user"
    TENANT = "tenant"


class RateKind(StrEnum):
    """What is limited: runs asked for in a minute, tokens used in a minute, unfinished runs at once."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    RUNS = "runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """One limit of a tenant. ``subject``: a key's id or a user; None means each of them has this limit of its own.

    Of two that fit, the one with a subject counts. For the scope TENANT it is None.
    """

    tenant: TenantId
    scope: RateScope
    kind: RateKind
    limit: int
    subject: str | None = None

    @property
    def policy(self) -> str:
        """Its name in headers: what is limited and for whom, without saying who."""
        return f"{self.kind.value}-per-{self.scope.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateCaller:
    """Who is measured. ``key_id`` None: the caller came without a key of ours."""

    tenant: TenantId
    user: UserId
    key_id: KeyId | None

    def subject(self, scope: RateScope) -> str | None:
        """The caller under a scope; None when there is none."""
        match scope:
            case RateScope.KEY:
                return self.key_id
            case RateScope.USER:
                return self.user
            case RateScope.TENANT:
                return self.tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedLimit:
    """A limit as it applies to one caller: ``subject`` is never None."""

    limit: RateLimit
    subject: str


def applied(limits: Iterable[RateLimit], caller: RateCaller) -> Sequence[AppliedLimit]:
    """The limits that hold for a caller: for each scope and kind the one that names it, else the one for each."""
    found: dict[tuple[RateScope, RateKind], AppliedLimit] = {}
    for limit in limits:
        subject = caller.subject(limit.scope)
        if limit.tenant != caller.tenant or subject is None or limit.subject not in (None, subject):
            continue
        place = (limit.scope, limit.kind)
        if limit.subject is not None or place not in found:
            found[place] = AppliedLimit(limit=limit, subject=subject)
    return tuple(found.values())
