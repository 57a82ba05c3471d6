"""Bearer tokens: a JWT of the issuer → who calls. Adapter of ``ports/identity.py``; asked by ``services/identity.py``.

The rules are those of RFC 8725: algorithms are the operator's, never the token's; keys are the issuer's, never the
token's (``jku``, ``jwk`` and ``x5u`` are not looked at). All refusals read the same; the log says why at level debug.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import jwt
import structlog

from roadworthy.domain.errors import Unauthenticated
from roadworthy.domain.json import JsonValue
from roadworthy.domain.principal import Principal
from roadworthy.identity.claims import ClaimNames, Refused, check_times, principal_of
from roadworthy.identity.jwks import IssuerKeys
from roadworthy.ports.clock import Clock

TOKEN_MAX = 8 * 1024
_REFUSED = "the bearer token is not valid"
# RFC 8725, section 3.11: an issuer signs other things too, such as logout tokens.
_TYPES = frozenset({"jwt", "at+jwt"})

_log = structlog.get_logger("roadworthy.identity")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What a token must be. ``algorithms``: the only ones that are accepted."""

    issuer: str
    audience: str
    algorithms: frozenset[str]
    names: ClaimNames


class JwtVerifier:
    """See ``ports.identity``."""

    def __init__(self, keys: IssuerKeys, rules: TokenRules, clock: Clock) -> None:
        self._keys = keys
        self._rules = rules
        self._clock = clock

    async def verify(self, token: str) -> Principal:
        """The caller that a token names.

        Raises:
            Unauthenticated: the token is not one of the issuer's for us, now; the message does not say why.
            Unavailable: the issuer's keys cannot be had now.
        """
        try:
            claims = await self._claims_of(token)
            expires_at = check_times(claims, self._clock.now())
            return replace(principal_of(claims, self._rules.names), expires_at=expires_at)
        except Refused as reason:
            _log.debug("token_refused", reason=str(reason))
            raise Unauthenticated(_REFUSED) from None

    async def _claims_of(self, token: str) -> Mapping[str, JsonValue]:
        kid, algorithm = self._key_named_by(token)
        key = await self._keys.find(kid, algorithm)
        if key is None:
            raise Refused("the issuer has no such key")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                # Times are judged by our own clock, in ``claims``.
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "require": ["iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise Refused(type(error).__name__) from None
        return cast("Mapping[str, JsonValue]", claims)

    def _key_named_by(self, token: str) -> tuple[str | None, str]:
        """The ``kid`` and ``alg`` of a token, before anything of it is believed."""
        if len(token) > TOKEN_MAX or not token.isascii():
            raise Refused("it is too long or no ASCII")
        try:
            header = cast("Mapping[str, JsonValue]", jwt.get_unverified_header(token))
        except jwt.PyJWTError as error:
            raise Refused(type(error).__name__) from None
        kid, algorithm, kind = header.get("kid"), header.get("alg"), header.get("typ", "JWT")
        if not isinstance(algorithm, str) or algorithm not in self._rules.algorithms:
            raise Refused("its algorithm is not accepted")
        if "crit" in header:
            raise Refused("it has critical headers, of which none is known here")
        if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
            raise Refused("its type is not that of a bearer token")
        if not isinstance(kid, str | None):
            raise Refused("its kid is no text")
        return kid, algorithm
