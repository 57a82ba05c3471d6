"""An identity provider: signing keys, tokens, and a server that publishes the keys and counts who asks for them."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.web.live import serving

DISCOVERY = "/.well-known/openid-configuration"
JWKS = "/keys"
AUDIENCE = "https://agents.example.org"
ISSUER = "https://login.example.org/"
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


@dataclass
class ManualClock:
    """Stands still until the test moves it."""

    moment: datetime = MOMENT

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()

    def advance(self, **span: float) -> None:
        self.moment += timedelta(**span)


@dataclass(frozen=True)
class SigningKey:
    """A key pair of the issuer's."""

    kid: str | None
    algorithm: str
    private: Any

    def jwk(self, **changes: object) -> dict[str, Any]:
        """What is published of it. ``changes``: fields to add; None takes one away."""
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        published = algorithm.to_jwk(self.private.public_key(), as_dict=True)
        published.pop("key_ops", None)
        published |= {"kid": self.kid, "use": "sig", "alg": self.algorithm, **changes}
        return {name: value for name, value in published.items() if value is not None}

    def sign(self, claims: Mapping[str, Any], **headers: Any) -> str:
        """A token."""
        named = {name: value for name, value in {"kid": self.kid, **headers}.items() if value is not None}
        return jwt.encode(dict(claims), self.private, algorithm=self.algorithm, headers=named)


@cache
def signing_key(kid: str | None = "first", algorithm: str = "RS256", size: int = 2048) -> SigningKey:
    """The same pair for the same arguments: RSA keys take a while to make."""
    if algorithm == "EdDSA":
        return SigningKey(kid, algorithm, ed25519.Ed25519PrivateKey.generate())
    if algorithm in _CURVES:
        return SigningKey(kid, algorithm, ec.generate_private_key(_CURVES[algorithm]()))
    return SigningKey(kid, algorithm, rsa.generate_private_key(65537, size))


def claims_of(now: datetime = MOMENT, **changes: Any) -> dict[str, Any]:
    """Good claims of alice's, for an hour. ``changes``: None takes a claim away."""
    seconds = int(now.timestamp())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": seconds,
        "nbf": seconds,
        "exp": seconds + 3600,
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


@dataclass
class IdentityProvider:
    """A running one. ``asked``: paths in order; ``answers``: what paths answer instead; it waits until ``open``."""

    url: str = ""
    keys: list[SigningKey] = field(default_factory=list[SigningKey])
    asked: list[str] = field(default_factory=list[str])
    answers: dict[str, Response] = field(default_factory=dict[str, Response])
    open: asyncio.Event = field(default_factory=asyncio.Event)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def looks(self) -> int:
        """How often its keys were asked for."""
        return self.asked.count(JWKS)

    def token(self, key: SigningKey | None = None, now: datetime = MOMENT, **changes: Any) -> str:
        """A token of this issuer."""
        return (key or self.keys[0]).sign(claims_of(now, **{"iss": self.url, **changes}))

    async def answer(self, request: Request) -> Response:
        path = request.url.path
        self.asked.append(path)
        self.came.set()
        await self.open.wait()
        if path in self.answers:
            return self.answers[path]
        if path == DISCOVERY:
            return json_response({"issuer": self.url, "jwks_uri": self.url + JWKS})
        return json_response({"keys": [key.jwk() for key in self.keys]})


def json_response(value: object, status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(json.dumps(value), status, media_type="application/json")


@asynccontextmanager
async def identity_provider(*keys: SigningKey) -> AsyncGenerator[IdentityProvider]:
    """A provider on a free port of 127.0.0.1; without ``keys`` it has one for RS256."""
    provider = IdentityProvider(keys=list(keys) or [signing_key()])
    provider.open.set()
    routes = [Route("/{path:path}", provider.answer)]
    async with serving(Starlette(routes=routes)) as port:
        provider.url = f"http://127.0.0.1:{port}"
        try:
            yield provider
        finally:
            provider.open.set()
