"""Which published keys check signatures."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.identity.documents import Unusable
from roadworthy.identity.key_set import KeySet, parse_key_set
from tests.support.identity_provider import signing_key

ALL = ("RS256", "RS384", "PS256", "ES256", "ES384", "ES512", "EdDSA")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


def found(*jwks: Any, algorithms: tuple[str, ...] = ALL) -> KeySet:
    return parse_key_set({"keys": list(jwks)}, algorithms)


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA"])
def test_a_key_checks_what_it_is_for(algorithm: str) -> None:
    keys = found(signing_key("k", algorithm).jwk())
    assert keys.algorithms == [algorithm]
    assert keys.find("k", algorithm) is not None
    assert keys.find("other", algorithm) is None


def test_a_key_without_an_algorithm_fits_all_of_its_type_that_are_accepted() -> None:
    published = signing_key().jwk(alg=None)
    assert found(published).algorithms == ["PS256", "RS256", "RS384"]
    assert found(published, algorithms=("PS256", "ES256")).algorithms == ["PS256"]


@pytest.mark.parametrize(
    "changes",
    [
        {"alg": "RS512"},
        {"alg": "HS256"},
        {"alg": "none"},
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"key_ops": "verify"},
        {"kty": "EC"},
        {"kty": None},
        {"kty": []},
        {"kid": 1},
        {"n": "?"},
        {"n": None},
        {"e": ""},
        {"d": "AQAB"},
    ],
)
def test_a_key_that_is_for_something_else_or_broken_is_left_out(changes: dict[str, Any]) -> None:
    good = signing_key("good", "ES256").jwk()
    assert found(signing_key().jwk(**changes), good).algorithms == ["ES256"]


def test_a_shared_secret_is_no_key() -> None:
    assert found({"kty": "oct", "k": "c2VjcmV0", "kid": "k", "alg": "HS256"}, algorithms=(*ALL, "HS256")).keys == []
    assert found({"kty": "oct", "k": "c2VjcmV0", "kid": "k"}).keys == []


def test_a_curve_fits_its_own_algorithm_only() -> None:
    assert found(signing_key("k", "ES256").jwk(alg=None)).algorithms == ["ES256"]
    assert found(signing_key("k", "ES256").jwk(alg=None, crv="P-384")).keys == []
    assert found(signing_key("k", "EdDSA").jwk(alg=None, crv="X25519")).keys == []


def test_a_weak_key_is_left_out() -> None:
    assert found(signing_key("weak", "RS256", 1024).jwk()).keys == []


def test_a_token_without_a_kid_is_understood_when_one_key_can_be_meant() -> None:
    one, two, other = signing_key("a"), signing_key("b"), signing_key("c", "ES256")
    assert found(one.jwk(), other.jwk()).find(None, "RS256") is not None
    assert found(one.jwk(), two.jwk()).find(None, "RS256") is None


def test_a_key_without_a_kid_is_not_meant_by_a_token_with_one() -> None:
    assert found(signing_key().jwk(kid=None)).find("first", "RS256") is None
    assert found(signing_key().jwk(kid=None)).find(None, "RS256") is not None


@pytest.mark.parametrize("document", [{}, {"keys": None}, {"keys": {}}, {"keys": "x"}])
def test_what_is_no_key_set_is_unusable(document: dict[str, Any]) -> None:
    with pytest.raises(Unusable):
        parse_key_set(document, ALL)


@given(st.sampled_from(["RSA", "EC", "OKP"]), st.sampled_from(["P-256", "Ed25519", ""]), st.data())
def test_no_published_nonsense_raises(kind: str, curve: str, data: st.DataObject) -> None:
    names = ["n", "e", "x", "y", "p", "oth", "kid", "alg", "use", "key_ops"]
    part = JSON | st.sampled_from(["AQAB", "AA", "", "A" * 400])
    jwk = data.draw(st.dictionaries(st.sampled_from(names), part))
    parse_key_set({"keys": [jwk | {"kty": kind, "crv": curve}, data.draw(JSON)]}, ALL)
