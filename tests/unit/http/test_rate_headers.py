import re
from datetime import timedelta

from roadworthy.domain.ids import TenantId
from roadworthy.domain.rate_limit import WINDOW, RateKind, RateLimit, RateScope
from roadworthy.domain.rate_status import RateStatus
from roadworthy.http.rate_headers import rate_headers

# A list of strings with parameters that are integers or strings (RFC 9651, sections 3.1 and 3.1.2).
ITEM = r'"[ !#-\[\]-~]*"(;[a-z]+=([0-9]+|"[a-z-]*"))*'
LIST = re.compile(rf"{ITEM}(, {ITEM})*")


def status(policy: str = "requests-per-key", **changes: object) -> RateStatus:
    known: dict[str, object] = {"limit": 60, "window": WINDOW, "remaining": 59, "resets_in": timedelta(seconds=12)}
    return RateStatus(policy=policy, **(known | changes))  # type: ignore[arg-type]


def test_without_limits_there_are_no_headers() -> None:
    assert rate_headers(()) == {}


def test_policies_and_what_is_left_of_them_are_told() -> None:
    rates = [status(), status("tokens-per-user", limit=10_000, remaining=0, resets_in=timedelta(seconds=3.2))]
    assert rate_headers(rates) == {
        "RateLimit-Policy": '"requests-per-key";q=60;w=60, "tokens-per-user";q=10000;qu="tokens";w=60',
        "RateLimit": '"requests-per-key";r=59;t=12, "tokens-per-user";r=0;t=4',
    }


def test_a_limit_at_once_has_no_window() -> None:
    rates = [status("runs-per-tenant", limit=3, window=timedelta(0), remaining=-1)]
    assert rate_headers(rates) == {
        "RateLimit-Policy": '"runs-per-tenant";q=3;qu="concurrent-requests"',
        "RateLimit": '"runs-per-tenant";r=0',
    }


def test_every_limit_is_a_structured_field_and_names_nobody() -> None:
    for scope in RateScope:
        for kind in RateKind:
            limit = RateLimit(tenant=TenantId("acme"), scope=scope, kind=kind, limit=5, subject="ann@example.org")
            headers = rate_headers([status(limit.policy), status(limit.policy)])
            assert all(LIST.fullmatch(value) for value in headers.values())
            assert not re.search("acme|ann", str(headers))
