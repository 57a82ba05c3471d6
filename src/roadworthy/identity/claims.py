"""What the claims of a checked token mean here: until when it counts, whose it is, what it may do.

Called by ``identity/jwt.py`` with claims whose signature, issuer and audience fit; no I/O.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.ids import TenantId, parse_tenant_id, parse_user_id
from roadworthy.domain.json import JsonValue
from roadworthy.domain.principal import USER_SCOPES, Owner, Principal, Scope

LEEWAY = timedelta(seconds=30)
_TENANT = TenantId("default")
_LAST_SECOND = 253_402_300_799  # of the year 9999
_SCOPES = {scope.value: scope for scope in Scope}


class Refused(Exception):
    """The token opens nothing. The text names the rule, for the log; it holds nothing of the token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimNames:
    """Which claims are read; a dot in a name leads nowhere. ``tenant`` None: every token belongs to ``default``."""

    user: str = "sub"
    tenant: str | None = None
    scope: str = "scope"
    scope_prefix: str = "roadworthy:"


def check_times(claims: Mapping[str, JsonValue], now: datetime) -> datetime:
    """When the token expires (RFC 7519, section 4.1.4 to 4.1.6). Clocks may differ by ``LEEWAY``.

    Raises:
        Refused: it has no ``exp``, has expired, or is not valid yet.
    """
    moment, leeway = now.timestamp(), LEEWAY.total_seconds()
    expires = _seconds(claims, "exp")
    if expires is None:
        raise Refused("exp is missing")
    if moment >= expires + leeway:
        raise Refused("exp has passed")
    for name in ("nbf", "iat"):
        begins = _seconds(claims, name)
        if begins is not None and begins > moment + leeway:
            raise Refused(f"{name} is in the future")
    return datetime.fromtimestamp(expires, UTC)


def principal_of(claims: Mapping[str, JsonValue], names: ClaimNames) -> Principal:
    """The caller that the claims name.

    Raises:
        Refused: a claim that is needed is missing or cannot be used.
    """
    try:
        user = parse_user_id(_text(claims, names.user))
        tenant = _TENANT if names.tenant is None else parse_tenant_id(_text(claims, names.tenant))
    except InvalidRequest:
        raise Refused("the user or the tenant has characters that names cannot have") from None
    return Principal(owner=Owner(tenant=tenant, user=user), scopes=_scopes(claims, names))


def _scopes(claims: Mapping[str, JsonValue], names: ClaimNames) -> frozenset[Scope]:
    """Ours are those with the prefix; with none of them the token has a user's rights."""
    ours = [word for word in _words(claims.get(names.scope)) if word.startswith(names.scope_prefix)]
    if not ours:
        return USER_SCOPES
    known = (_SCOPES.get(word.removeprefix(names.scope_prefix)) for word in ours)
    return frozenset(scope for scope in known if scope is not None)


def _words(value: JsonValue) -> Iterable[str]:
    match value:
        case None:
            return []
        case str():
            return value.split(" ")
        case list() if all(isinstance(part, str) for part in value):
            return cast("list[str]", value)
        case _:
            raise Refused("the scope claim is neither words nor a list of them")


def _text(claims: Mapping[str, JsonValue], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str):
        raise Refused(f"the claim {name} is missing or no text")
    return value


def _seconds(claims: Mapping[str, JsonValue], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    # Compared, not converted: JSON may hold integers without end, NaN and Infinity.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LAST_SECOND:
        raise Refused(f"{name} is no moment")
    return float(value)
