"""What claims mean: time, user, tenant, scopes."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roadworthy.domain.principal import USER_SCOPES, Scope
from roadworthy.identity.claims import ClaimNames, Refused, check_times, principal_of
from tests.support.identity_provider import MOMENT, claims_of

NOW = int(MOMENT.timestamp())


def test_a_token_counts_from_nbf_to_exp_with_half_a_minute_of_leeway() -> None:
    assert check_times({"exp": NOW - 29}, MOMENT).timestamp() == NOW - 29
    check_times({"exp": NOW + 1.5, "nbf": NOW + 30, "iat": NOW + 30}, MOMENT)


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"exp": None},
        {"exp": NOW - 30},
        {"exp": NOW + 60, "nbf": NOW + 31},
        {"exp": NOW + 60, "iat": NOW + 31},
        {"exp": str(NOW + 60)},
        {"exp": True},
        {"exp": [NOW + 60]},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": -1},
        {"exp": 10**400},
        {"exp": NOW + 60, "nbf": "soon"},
        {"exp": NOW + 60, "iat": False},
    ],
)
def test_a_token_at_another_time_or_without_an_end_is_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        check_times(claims, MOMENT)


@pytest.mark.parametrize("user", ["alice", "auth0|64f1", "carol@example.org", "a" * 128])
def test_the_user_is_what_the_claim_says(user: str) -> None:
    principal = principal_of({"sub": user}, ClaimNames())
    assert (principal.owner.tenant, principal.owner.user) == ("default", user)
    assert (principal.key_id, principal.agents, principal.scopes) == (None, None, USER_SCOPES)


def test_other_claims_can_name_user_and_tenant() -> None:
    names = ClaimNames(user="email", tenant="https://example.org/team")
    principal = principal_of({"sub": "1", "email": "a@b", "https://example.org/team": "acme"}, names)
    assert (principal.owner.tenant, principal.owner.user) == ("acme", "a@b")


@pytest.mark.parametrize(
    "value", [None, "", 7, True, ["alice"], {"name": "alice"}, "a b", "a/b", "x" * 129, "é", "a\n"]
)
def test_a_user_or_tenant_that_is_no_name_is_refused(value: Any) -> None:
    with pytest.raises(Refused):
        principal_of({"sub": value}, ClaimNames())
    with pytest.raises(Refused):
        principal_of({"sub": "alice", "org": value}, ClaimNames(tenant="org"))


def test_a_missing_tenant_is_not_the_default_one() -> None:
    with pytest.raises(Refused):
        principal_of({"sub": "alice"}, ClaimNames(tenant="org"))


@pytest.mark.parametrize(
    ("value", "scopes"),
    [
        (None, USER_SCOPES),
        ("", USER_SCOPES),
        ([], USER_SCOPES),
        ("openid profile", USER_SCOPES),
        ("runs:read admin", USER_SCOPES),
        ("openid roadworthy:runs:read", {Scope.RUNS_READ}),
        ("roadworthy:admin", {Scope.ADMIN}),
        ("roadworthy:runs:read  roadworthy:usage:read", {Scope.RUNS_READ, Scope.USAGE_READ}),
        (["openid", "roadworthy:runs:on_behalf"], {Scope.RUNS_ON_BEHALF}),
        (["roadworthy:runs:read roadworthy:admin"], set[Scope]()),
        ("roadworthy:runs:write roadworthy:fly", {Scope.RUNS_WRITE}),
        ("roadworthy:fly", set[Scope]()),
        ("roadworthy:ADMIN", set[Scope]()),
    ],
)
def test_scopes_with_our_prefix_are_taken(value: Any, scopes: set[Scope]) -> None:
    assert principal_of({"sub": "alice", "scope": value}, ClaimNames()).scopes == scopes


def test_without_a_prefix_every_scope_is_ours() -> None:
    names = ClaimNames(scope="scp", scope_prefix="")
    assert principal_of({"sub": "a", "scp": ["runs:read", "openid"]}, names).scopes == {Scope.RUNS_READ}
    assert principal_of({"sub": "a", "scp": ["openid"]}, names).scopes == frozenset()


@pytest.mark.parametrize("value", [1, True, {"roadworthy:admin": 1}, ["roadworthy:admin", 1], [["roadworthy:admin"]]])
def test_scopes_that_are_no_words_are_refused(value: Any) -> None:
    with pytest.raises(Refused):
        principal_of({"sub": "alice", "scope": value}, ClaimNames())


# The first input of a process takes a second: the tables of characters are made for it.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(sorted(claims_of() | {"scope": ""})),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text() | st.integers()),
    )
)
def test_whatever_claims_hold_only_refusals_are_raised(claims: dict[str, Any]) -> None:
    try:
        check_times(claims, MOMENT)
        principal_of(claims, ClaimNames())
    except Refused:
        pass
