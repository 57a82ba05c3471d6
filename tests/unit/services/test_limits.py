"""What an operator may ask of rate limits, and what is answered."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from roadworthy.domain.errors import InvalidRequest, NotFound, PermissionDenied
from roadworthy.domain.principal import Scope
from roadworthy.domain.rate_limit import RateKind, RateLimit, RateScope
from tests.support.office import ACME, ACTOR, OTHER, Office, caller, open_office


@pytest.fixture
async def office(tmp_path: Path) -> AsyncGenerator[Office]:
    async with open_office(tmp_path) as office:
        yield office


def rate(scope: RateScope, limit: int = 60, subject: str | None = None) -> RateLimit:
    return RateLimit(tenant=ACME, scope=scope, kind=RateKind.REQUESTS, limit=limit, subject=subject)


async def test_a_limit_is_set_changed_and_removed(office: Office) -> None:
    await office.limits.set(rate(RateScope.KEY), ACTOR)
    await office.limits.set(rate(RateScope.KEY, 30), ACTOR)
    await office.limits.set(rate(RateScope.KEY, 10, "ABCdef012345"), ACTOR)
    found = await office.limits.list(ACME)
    assert {(one.subject, one.limit) for one in found} == {(None, 30), ("ABCdef012345", 10)}
    await office.limits.remove(ACME, RateScope.KEY, RateKind.REQUESTS, ACTOR)
    assert [one.subject for one in await office.limits.list(ACME)] == ["ABCdef012345"]
    with pytest.raises(NotFound, match="each key"):
        await office.limits.remove(ACME, RateScope.KEY, RateKind.REQUESTS, ACTOR)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (rate(RateScope.KEY, 0), "from 1"),
        (rate(RateScope.KEY, -1), "from 1"),
        (rate(RateScope.KEY, 2**63), "from 1"),
        (rate(RateScope.TENANT, subject="acme"), "has no subject"),
        (rate(RateScope.USER, subject="a b"), "a user must be"),
        (rate(RateScope.KEY, subject="alice"), "a key's id is"),
    ],
)
async def test_what_does_not_fit_is_refused(office: Office, asked: RateLimit, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        await office.limits.set(asked, ACTOR)
    assert await office.limits.list(None) == []


async def test_callers_act_within_their_tenant_and_with_their_scopes(office: Office) -> None:
    writer, reader, stranger = caller(Scope.LIMITS_WRITE), caller(Scope.USAGE_READ), caller(Scope.ADMIN, tenant=OTHER)
    nobody = caller(Scope.RUNS_READ, Scope.RUNS_WRITE, Scope.RUNS_ON_BEHALF, Scope.KEYS_WRITE, Scope.AUDIT_READ)
    made = await office.limits.set_as(writer, RateScope.TENANT, RateKind.RUNS, 2, ACTOR)
    assert (made.tenant, made.policy) == (ACME, "runs-per-tenant")
    assert await office.limits.list_as(reader) == [made]
    assert await office.limits.list_as(stranger) == []
    with pytest.raises(PermissionDenied):
        await office.limits.list_as(nobody)
    for denied in (nobody, reader):
        with pytest.raises(PermissionDenied):
            await office.limits.set_as(denied, RateScope.TENANT, RateKind.RUNS, 3, ACTOR)
        with pytest.raises(PermissionDenied):
            await office.limits.remove_as(denied, RateScope.TENANT, RateKind.RUNS, ACTOR)
    with pytest.raises(NotFound):
        await office.limits.remove_as(stranger, RateScope.TENANT, RateKind.RUNS, ACTOR)
    await office.limits.remove_as(writer, RateScope.TENANT, RateKind.RUNS, ACTOR)
    assert await office.limits.list_as(writer) == []
