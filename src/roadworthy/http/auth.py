"""Authorization header → Principal. The first thing a route does, before a byte of the body is read.

Called by every route through ``Caller``, its first parameter; calls ``services/identity.py``. No credential is logged
or echoed.
"""

import ipaddress
from dataclasses import dataclass, replace
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends
from starlette.requests import Request

from roadworthy.domain.errors import InvalidRequest, PermissionDenied, Unauthenticated
from roadworthy.domain.ids import TenantId, UserId, parse_user_id
from roadworthy.domain.principal import USER_SCOPES, Owner, Principal, Scope
from roadworthy.http.deps import Services, web_of

ON_BEHALF_OF = "X-On-Behalf-Of"
LOCAL = Principal(owner=Owner(tenant=TenantId("default"), user=UserId("local")), scopes=frozenset(Scope))
_MAX_KEY = 512
_MAX_BEARER = 8 * 1024  # tokens of an identity provider carry claims


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One authenticated request: who asks, what may be asked, and the name of the request in logs."""

    principal: Principal
    services: Services
    request_id: str


async def authenticate(request: Request) -> Call:
    """Find out who is calling: the owner of the key or token, or the user for whom a backend speaks.

    Raises:
        Unauthenticated: no credential, several different ones, or one that opens nothing.
        PermissionDenied: ``X-On-Behalf-Of`` without the scope for it; a foreign host name on a server without auth.
        InvalidRequest: ``X-On-Behalf-Of`` is no user name.
    """
    web = web_of(request)
    await web.turnstile.enter()
    if web.auth:
        principal = await web.services.identity.authenticate(_credential_of(request))
    else:
        _require_local_host(request)
        principal = LOCAL
    user = request.headers.get(ON_BEHALF_OF)
    if user is not None:
        principal = _on_behalf_of(principal, user)
    request.state.call = call = Call(principal=principal, services=web.services, request_id=request.state.request_id)
    return call


def require_authenticated(request: Request) -> None:
    """Guard what must come after ``Caller`` among a route's parameters.

    Raises:
        RuntimeError: the route is wrong: nobody has asked who is calling.
    """
    if not isinstance(getattr(request.state, "call", None), Call):
        raise RuntimeError("a route must ask for its Caller first")  # noqa: TRY004 -- the route is wrong, not a type


Caller = Annotated[Call, Depends(authenticate)]


def _credential_of(request: Request) -> str:
    keys = {key.strip() for key in request.headers.getlist("x-api-key")}
    bearers: set[str] = set()
    for value in request.headers.getlist("authorization"):
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            bearers.add(token.strip())
    found = keys | bearers
    if not found:
        raise Unauthenticated("An API key is required: send it as `Authorization: Bearer …` or `x-api-key`.")
    if len(found) > 1:
        raise Unauthenticated("The request carries two different API keys.")
    text = found.pop()
    if not text or len(text) > (_MAX_KEY if keys else _MAX_BEARER) or not text.isascii():
        raise Unauthenticated("The API key is not valid.")
    return text


def _on_behalf_of(principal: Principal, user: str) -> Principal:
    """The named user, with what a user's own key may do: no more, no less, whatever else the backend may."""
    principal.require(Scope.RUNS_ON_BEHALF)
    try:
        owner = replace(principal.owner, user=parse_user_id(user))
    except InvalidRequest as exc:
        raise InvalidRequest(exc.message, field=ON_BEHALF_OF) from None
    return replace(principal, owner=owner, scopes=USER_SCOPES)


def _require_local_host(request: Request) -> None:
    """Refuse host names from elsewhere: a web page whose name was pointed at 127.0.0.1 must not reach the agents."""
    if not _is_loopback(request.headers.get("host", "")):
        raise PermissionDenied("Without auth the server answers only under a loopback name such as 127.0.0.1.")


def _is_loopback(host_header: str) -> bool:
    try:
        host = urlsplit(f"//{host_header}").hostname or ""
        return host == "localhost" or host.endswith(".localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
