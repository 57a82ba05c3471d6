"""Bearer tokens: what opens, and that everything else is refused in the same words."""

import base64
import hmac
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from roadworthy.domain.errors import Unauthenticated
from roadworthy.identity.claims import ClaimNames
from roadworthy.identity.jwks import IssuerKeys
from roadworthy.identity.jwt import JwtVerifier, TokenRules
from roadworthy.identity.key_set import KeySet, parse_key_set
from tests.support.identity_provider import AUDIENCE, ISSUER, MOMENT, ManualClock, SigningKey, claims_of, signing_key

RSA = signing_key("first")
EC = signing_key("curve", "ES256")
ED = signing_key("edwards", "EdDSA")
ACCEPTED = ("RS256", "ES256", "EdDSA")


def verifier(*algorithms: str, clock: ManualClock | None = None) -> JwtVerifier:
    async def fetch() -> KeySet:
        return parse_key_set({"keys": [key.jwk(alg=None) for key in (RSA, EC, ED)]}, algorithms or ACCEPTED)

    clock = clock or ManualClock()
    rules = TokenRules(
        issuer=ISSUER, audience=AUDIENCE, algorithms=frozenset(algorithms or ACCEPTED), names=ClaimNames()
    )
    return JwtVerifier(IssuerKeys(fetch, clock), rules, clock)


def part(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed_with_the_public_key() -> str:
    """HS256 with the public key as the secret: the confusion of RFC 8725, section 2.1."""
    public = RSA.private.public_key()
    secret = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    body = f"{part({'alg': 'HS256', 'kid': RSA.kid, 'typ': 'JWT'})}.{part(claims_of())}"
    return f"{body}.{part(hmac.digest(secret, body.encode(), 'sha256'))}"


def unsigned(alg: str) -> str:
    return f"{part({'alg': alg, 'kid': RSA.kid})}.{part(claims_of())}."


def with_another_payload() -> str:
    head, _, signature = RSA.sign(claims_of()).split(".")
    return f"{head}.{part(claims_of(sub='admin'))}.{signature}"


def with_its_own_key() -> str:
    """A token that brings the key it is signed with."""
    stranger = signing_key("stranger", "ES256")
    return stranger.sign(claims_of(), jwk=stranger.jwk(), jku="https://evil.example/keys")


BAD: dict[str, Callable[[], str]] = {
    "alg none": lambda: unsigned("none"),
    "alg None": lambda: unsigned("None"),
    "no signature": lambda: unsigned("RS256"),
    "signed with the public key": signed_with_the_public_key,
    "another payload": with_another_payload,
    "its own key": with_its_own_key,
    "an unknown key": lambda: signing_key("stranger", "ES256").sign(claims_of()),
    "a stranger under a known kid": lambda: signing_key("stranger").sign(claims_of(), kid="first"),
    "the key of another algorithm": lambda: RSA.sign(claims_of(), kid="curve"),
    "an algorithm that is not accepted": lambda: signing_key("first", "ES384").sign(claims_of()),
    "kid no text": lambda: f"{part({'alg': 'RS256', 'kid': 1})}.{part(claims_of())}.AAAA",
    "kid a path": lambda: RSA.sign(claims_of(), kid="../../dev/null"),
    "alg no text": lambda: f"{part({'alg': ['RS256']})}.{part(claims_of())}.AAAA",
    "no alg": lambda: f"{part({'kid': 'first'})}.{part(claims_of())}.AAAA",
    "another issuer": lambda: RSA.sign(claims_of(iss="https://login.example.org")),
    "a list of issuers": lambda: forged({"iss": [ISSUER]}),
    "no issuer": lambda: RSA.sign(claims_of(iss=None)),
    "another audience": lambda: RSA.sign(claims_of(aud="https://agents.example.org/")),
    "other audiences": lambda: RSA.sign(claims_of(aud=["a", "b"])),
    "an audience that is an object": lambda: RSA.sign(claims_of(aud={AUDIENCE: True})),
    "no audience": lambda: RSA.sign(claims_of(aud=None)),
    "no expiry": lambda: RSA.sign(claims_of(exp=None)),
    "expired": lambda: RSA.sign(claims_of(exp=claims_of()["iat"] - 31)),
    "not yet valid": lambda: RSA.sign(claims_of(nbf=claims_of()["iat"] + 31)),
    "from the future": lambda: RSA.sign(claims_of(iat=claims_of()["iat"] + 31)),
    "no subject": lambda: RSA.sign(claims_of(sub=None)),
    "a subject that is no name": lambda: RSA.sign(claims_of(sub="https://login.example.org/u/1")),
    "crit": lambda: RSA.sign(claims_of(), crit=["exp"], exp=1),
    "crit that is empty": lambda: RSA.sign(claims_of(), crit=[]),
    "crit with b64": lambda: f"{part({'alg': 'RS256', 'kid': 'first', 'b64': False, 'crit': ['b64']})}..AAAA",
    "a logout token": lambda: RSA.sign(claims_of(), typ="logout+jwt"),
    "a typ that is no text": lambda: RSA.sign(claims_of(), typ=["JWT"]),
    "too long": lambda: RSA.sign(claims_of(padding="x" * 8192)),
    "padded": lambda: RSA.sign(claims_of()) + "!",
    "four parts": lambda: RSA.sign(claims_of()) + ".AAAA",
    "two parts": lambda: RSA.sign(claims_of()).rpartition(".")[0],
    "encrypted": lambda: f"{part({'alg': 'RSA-OAEP', 'enc': 'A128GCM'})}.AAAA.AAAA.AAAA.AAAA",
    "a payload that is a list": lambda: raw([1]),
    "a payload that is no JSON": lambda: raw(b"\xff"),
    "a header that is a list": lambda: f"{part(['RS256'])}.{part({})}.AAAA",
    "a header without end": lambda: f"{part(b'[' * 4000)}.{part({})}.AAAA",
    "a payload without end": lambda: raw(b"[" * 4000),
    "nothing": lambda: "",
    "dots": lambda: "..",
    "no ASCII": lambda: "é.é.é",
    "half a pair": lambda: "\ud800.a.b",
}


def forged(changes: dict[str, Any]) -> str:
    return raw(claims_of() | changes)


def raw(payload: object) -> str:
    """Signed rightly, whatever it is that is signed."""
    body = f"{part({'alg': 'RS256', 'kid': RSA.kid})}.{part(payload)}".encode()
    return f"{body.decode()}.{part(jwt.get_algorithm_by_name('RS256').sign(body, RSA.private))}"


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=["RS256", "ES256", "EdDSA"])
async def test_a_token_of_the_issuer_for_us_opens(key: SigningKey) -> None:
    principal = await verifier().verify(key.sign(claims_of(scope="openid roadworthy:runs:read")))
    assert (principal.owner.tenant, principal.owner.user) == ("default", "alice")
    assert principal.scopes == {"runs:read"}
    assert principal.key_id is None
    assert principal.expires_at == MOMENT + timedelta(hours=1)


@pytest.mark.parametrize(
    "token",
    [
        RSA.sign(claims_of(aud=["other", AUDIENCE])),
        RSA.sign(claims_of(), typ="at+jwt"),
        RSA.sign(claims_of(), typ="application/at+JWT"),
        EC.sign(claims_of(), kid=None),
        RSA.sign(claims_of(nbf=None, iat=None)),
        RSA.sign(claims_of(exp=claims_of()["iat"] - 29)),
    ],
)
async def test_forms_that_providers_use_open_too(token: str) -> None:
    assert (await verifier().verify(token)).owner.user == "alice"


@pytest.mark.parametrize("name", BAD)
async def test_everything_else_is_refused_in_the_same_words(name: str) -> None:
    token = BAD[name]()
    with capture_logs() as logs, pytest.raises(Unauthenticated) as caught:
        await verifier().verify(token)
    assert caught.value.message == "the bearer token is not valid"
    (entry,) = [entry for entry in logs if entry["event"] == "token_refused"]
    assert entry["log_level"] == "debug"
    assert set(entry) == {"event", "log_level", "reason"}
    assert entry["reason"]
    assert not token or token not in entry["reason"]


async def test_a_token_that_opened_is_refused_when_its_time_is_over() -> None:
    clock = ManualClock()
    checking = verifier(clock=clock)
    token = RSA.sign(claims_of())
    await checking.verify(token)
    clock.advance(hours=1, seconds=30)
    with pytest.raises(Unauthenticated):
        await checking.verify(token)


async def test_only_the_operators_algorithms_count_whatever_the_key_could() -> None:
    with pytest.raises(Unauthenticated):
        await verifier("PS256").verify(RSA.sign(claims_of()))


TEXT = st.text(max_size=40) | st.binary(max_size=60).map(part)
HEADERS = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]),
    st.sampled_from(["RS256", "ES256", "EdDSA", "first", "curve", "edwards", "JWT"])
    | st.none()
    | st.booleans()
    | st.integers()
    | st.lists(st.text(max_size=4), max_size=2),
)
GOOD = [key.sign(claims_of()) for key in (RSA, EC, ED)]


def unproven(headers: dict[str, Any]) -> str:
    return f"{part({'alg': 'RS256', 'kid': 'first'} | headers)}.{part(claims_of())}.{part(b'x')}"


def changed(token: str, place: int) -> str:
    """One character of the alphabet is another one."""
    places = [number for number, letter in enumerate(token) if letter != "."]
    place = places[place % len(places)]
    return token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]


TOKENS = (
    st.text()
    | st.binary().map(lambda data: data.decode("latin-1"))
    | st.tuples(TEXT, TEXT, TEXT).map(".".join)
    | st.tuples(HEADERS.map(part), TEXT, TEXT).map(".".join)
    | HEADERS.map(unproven)
    | st.builds(changed, st.sampled_from(GOOD), st.integers(0, 1000))
)


@settings(max_examples=300)
@given(TOKENS)
async def test_nothing_made_up_opens_or_breaks_anything(token: str) -> None:
    with pytest.raises(Unauthenticated):
        await verifier().verify(token)
