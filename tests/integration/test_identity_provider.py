"""Tokens of a provider over real HTTP: where keys are found, and what a provider may not do."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from starlette.responses import Response
from structlog.testing import capture_logs

from roadworthy.domain.errors import ConfigError, Unauthenticated, Unavailable
from roadworthy.identity.documents import Unusable
from roadworthy.identity.key_source import KeySource
from roadworthy.identity.tokens import open_tokens, published_algorithms
from roadworthy.ports.identity import TokenVerifier
from tests.support.identity_provider import (
    AUDIENCE,
    DISCOVERY,
    JWKS,
    IdentityProvider,
    ManualClock,
    identity_provider,
    json_response,
    signing_key,
)


@asynccontextmanager
async def tokens_of(
    provider: IdentityProvider, clock: ManualClock | None = None, **changes: Any
) -> AsyncGenerator[TokenVerifier]:
    options: dict[str, Any] = {
        "issuer": provider.url,
        "audience": AUDIENCE,
        "jwks_url": None,
        "algorithms": ("RS256", "ES256", "EdDSA"),
        "user_claim": "sub",
        "tenant_claim": None,
        "scope_claim": "scope",
        "scope_prefix": "roadworthy:",
        "clock": clock or ManualClock(),
    }
    async with open_tokens(**options | changes) as tokens:
        yield tokens


@asynccontextmanager
async def asking(provider: IdentityProvider, **changes: Any) -> AsyncGenerator[KeySource]:
    """A look at a provider's keys by itself, which says what is wrong."""
    options: dict[str, Any] = {"issuer": provider.url, "jwks_url": None, "algorithms": ("RS256",)}
    async with httpx.AsyncClient() as client:
        yield KeySource(client=client, **options | changes)


async def test_keys_are_found_by_discovery_once() -> None:
    keys = [signing_key("first"), signing_key("curve", "ES256"), signing_key("edwards", "EdDSA")]
    async with identity_provider(*keys) as provider, tokens_of(provider) as tokens:
        assert provider.asked == [], "a provider that is away keeps no server from starting"
        for key in keys:
            assert (await tokens.verify(provider.token(key))).owner.user == "alice"
    assert provider.asked == [DISCOVERY, JWKS]


async def test_keys_are_taken_from_a_given_address() -> None:
    async with (
        identity_provider() as provider,
        tokens_of(provider, issuer="anything", jwks_url=provider.url + JWKS) as tokens,
    ):
        await tokens.verify(provider.token(iss="anything"))
        with pytest.raises(Unauthenticated):
            await tokens.verify(provider.token())
    assert provider.asked == [JWKS]


async def test_claims_are_read_as_configured() -> None:
    options: dict[str, Any] = {"user_claim": "email", "tenant_claim": "org"}
    options |= {"scope_claim": "scp", "scope_prefix": "rw/"}
    async with identity_provider() as provider, tokens_of(provider, **options) as tokens:
        principal = await tokens.verify(provider.token(email="a@b.example", org="acme", scp=["rw/usage:read", "x"]))
    assert (principal.owner.tenant, principal.owner.user) == ("acme", "a@b.example")
    assert principal.scopes == {"usage:read"}


async def test_a_rotated_key_is_picked_up_and_a_storm_asks_once() -> None:
    clock = ManualClock()
    old, new = signing_key("old", "ES256"), signing_key("new", "ES256")
    async with identity_provider(old) as provider, tokens_of(provider, clock) as tokens:
        await tokens.verify(provider.token(old))
        provider.keys = [new, old]
        clock.advance(seconds=30)
        await tokens.verify(provider.token(new))
        assert provider.looks == 2
        clock.advance(seconds=30)
        made_up = [signing_key(f"made-up-{number}", "ES256") for number in range(20)]
        answers = await asyncio.gather(*(tokens.verify(provider.token(key)) for key in made_up), return_exceptions=True)
        assert all(isinstance(answer, Unauthenticated) for answer in answers)
        assert provider.looks == 3


async def test_known_keys_are_used_while_the_provider_is_away() -> None:
    clock = ManualClock()
    async with AsyncExitStack() as stack:
        async with identity_provider() as provider:
            tokens = await stack.enter_async_context(tokens_of(provider, clock))
            await tokens.verify(provider.token())
        clock.advance(minutes=59)
        await tokens.verify(provider.token(now=clock.now()))
        clock.advance(hours=5)
        with capture_logs() as logs:
            await tokens.verify(provider.token(now=clock.now()))
    assert [entry["event"] for entry in logs] == ["issuer_keys_unavailable"]


async def test_without_any_key_the_server_is_unavailable_not_the_token_bad() -> None:
    async with identity_provider() as provider, tokens_of(provider) as tokens:
        provider.answers[JWKS] = Response(status_code=503)
        with pytest.raises(Unavailable) as caught:
            await tokens.verify(provider.token())
        assert provider.url not in caught.value.message
        with pytest.raises(Unauthenticated):
            await tokens.verify("not.a.token")


async def test_a_provider_that_does_not_answer_is_given_up() -> None:
    async with identity_provider() as provider, asking(provider, patience=timedelta(milliseconds=50)) as source:
        provider.open.clear()
        with pytest.raises(Unusable, match=r"took longer than 0\.05 s"):
            await source.fetch()


BIG = b'{"keys": [' + b" " * 300_000 + b"]}"


@pytest.mark.parametrize(
    ("path", "answer", "problem"),
    [
        (DISCOVERY, json_response({"issuer": "https://evil.example", "jwks_uri": "/keys"}), "names another issuer"),
        (DISCOVERY, json_response({"jwks_uri": "https://x.example"}), "names another issuer"),
        (DISCOVERY, json_response([]), "JSON object"),
        (DISCOVERY, Response(status_code=404), "status 404"),
        (DISCOVERY, Response(status_code=302, headers={"location": JWKS}), "status 302"),
        (JWKS, Response(status_code=302, headers={"location": "/other"}), "status 302"),
        (JWKS, Response(status_code=204), "status 204"),
        (JWKS, Response(BIG), "more than 262144 bytes"),
        (JWKS, Response(b"[" * 200_000), "did not answer with JSON"),
        (JWKS, Response(b"\xff\xfe\x00"), "did not answer with JSON"),
        (JWKS, Response(b"x", headers={"content-encoding": "gzip"}), "packed"),
        (JWKS, json_response({}), "no list `keys`"),
    ],
)
async def test_what_a_provider_may_not_do(path: str, answer: Response, problem: str) -> None:
    async with identity_provider() as provider, asking(provider) as source:
        provider.answers[path] = answer
        with pytest.raises(Unusable, match=problem):
            await source.fetch()


@pytest.mark.parametrize("where", ["http://login.example.org/keys", "ftp://127.0.0.1/keys", "/keys", "", 7, None])
async def test_keys_are_not_taken_from_an_address_that_can_be_forged(where: object) -> None:
    async with identity_provider() as provider, asking(provider) as source:
        provider.answers[DISCOVERY] = json_response({"issuer": provider.url, "jwks_uri": where})
        with pytest.raises(Unusable, match=r"https address|jwks_uri"):
            await source.fetch()
    assert provider.asked == [DISCOVERY]


@pytest.mark.parametrize(
    "address", ["http://login.example.org", "http://127.0.0.1.example.org", "login.example.org", "http://[::1", ""]
)
async def test_a_server_does_not_start_with_such_an_address(address: str) -> None:
    with pytest.raises(ConfigError, match="ROADWORTHY_JWT_ISSUER"):
        async with tokens_of(IdentityProvider(url=address)):
            pass
    with pytest.raises(ConfigError, match=r"ROADWORTHY_JWT_JWKS_URL|ROADWORTHY_JWT_ISSUER"):
        async with tokens_of(IdentityProvider(url=address), jwks_url=address):
            pass


async def test_shared_secrets_among_the_keys_are_passed_over() -> None:
    async with identity_provider() as provider, tokens_of(provider) as tokens:
        secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "first", "alg": "RS256"}
        provider.answers[JWKS] = json_response({"keys": [secret, signing_key().jwk()]})
        await tokens.verify(provider.token())


async def test_an_operator_learns_what_the_issuer_signs_with() -> None:
    accepted = ("RS256", "ES256")
    async with identity_provider(signing_key("a"), signing_key("b", "EdDSA")) as provider:
        found = await published_algorithms(issuer=provider.url, jwks_url=None, algorithms=accepted)
        assert found == ["RS256"]
        provider.answers[DISCOVERY] = Response(status_code=500)
        with pytest.raises(Unavailable, match="status 500"):
            await published_algorithms(issuer=provider.url, jwks_url=None, algorithms=accepted)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await published_algorithms(issuer=provider.url, jwks_url=None, algorithms=accepted)
