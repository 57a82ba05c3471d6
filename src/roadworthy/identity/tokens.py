"""Checking bearer tokens, wired: the HTTP client, the issuer's keys, the rules. Opened by ``bootstrap``.

``doctor`` asks here whether the keys can be had.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx

from roadworthy.domain.errors import ConfigError, Unavailable
from roadworthy.identity.claims import ClaimNames
from roadworthy.identity.documents import Unusable, address_problem
from roadworthy.identity.jwks import IssuerKeys
from roadworthy.identity.jwt import JwtVerifier, TokenRules
from roadworthy.identity.key_source import KeySource
from roadworthy.ports.clock import Clock
from roadworthy.ports.identity import TokenVerifier

_PATIENCE = timedelta(seconds=5)


@asynccontextmanager
async def open_tokens(
    *,
    issuer: str,
    audience: str,
    jwks_url: str | None,
    algorithms: Sequence[str],
    user_claim: str,
    tenant_claim: str | None,
    scope_claim: str,
    scope_prefix: str,
    clock: Clock,
) -> AsyncGenerator[TokenVerifier]:
    """A verifier for the tokens of one issuer. Its keys are fetched for the first token, so that a provider that is
    away keeps no server from starting.

    Raises:
        ConfigError: the keys would come from an address that is not https.
    """
    async with _key_source(issuer, jwks_url, algorithms) as source:
        names = ClaimNames(user=user_claim, tenant=tenant_claim, scope=scope_claim, scope_prefix=scope_prefix)
        rules = TokenRules(issuer=issuer, audience=audience, algorithms=frozenset(algorithms), names=names)
        yield JwtVerifier(IssuerKeys(source.fetch, clock), rules, clock)


async def published_algorithms(*, issuer: str, jwks_url: str | None, algorithms: Sequence[str]) -> Sequence[str]:
    """Those of ``algorithms`` for which the issuer publishes a key now.

    Raises:
        ConfigError: as for ``open_tokens``.
        Unavailable: the keys cannot be had; the message says why, to the operator.
    """
    async with _key_source(issuer, jwks_url, algorithms) as source:
        try:
            return (await source.fetch()).algorithms
        except Unusable as problem:
            raise Unavailable(str(problem)) from problem


@asynccontextmanager
async def _key_source(issuer: str, jwks_url: str | None, algorithms: Sequence[str]) -> AsyncGenerator[KeySource]:
    name = "ROADWORTHY_JWT_JWKS_URL" if jwks_url else "ROADWORTHY_JWT_ISSUER"
    problem = address_problem(jwks_url or issuer)
    if problem is not None:
        raise ConfigError(f"{name}: {problem}")
    async with httpx.AsyncClient(timeout=_PATIENCE.total_seconds()) as client:
        yield KeySource(
            client=client, issuer=issuer, jwks_url=jwks_url, algorithms=tuple(algorithms), patience=_PATIENCE
        )
