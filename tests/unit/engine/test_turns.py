"""Round robin between tenants, then between users, whatever the lengths of their lines."""

from hypothesis import given
from hypothesis import strategies as st

from roadworthy.domain.ids import RunId, TenantId, UserId
from roadworthy.engine.turns import Turns
from roadworthy.ports.queue import Waiting


def waiting(tenant: str, user: str) -> Waiting:
    return Waiting(tenant=TenantId(tenant), user=UserId(user), run_id=RunId(f"{tenant}/{user}"), isolated=False)


def serve(turns: Turns, line: list[Waiting], rounds: int) -> list[str]:
    served: list[str] = []
    for _ in range(rounds):
        one = turns.pick(line)
        turns.served(one)
        served.append(one.run_id)
    return served


def test_a_tenant_with_one_user_gets_as_much_as_one_with_many() -> None:
    line = [waiting("big", f"u{n}") for n in range(9)] + [waiting("small", "u")]
    served = serve(Turns(), line, 20)
    assert served.count("small/u") == 10
    assert len(set(served) - {"small/u"}) == 9


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1, max_size=9, unique=True))
def test_nobody_waits_longer_than_everyone_else_once(names: list[tuple[str, str]]) -> None:
    line = [waiting(*name) for name in names]
    tenants = {tenant for tenant, _ in names}
    most_users = max(sum(tenant == one for tenant, _ in names) for one in tenants)
    served = serve(Turns(), line, len(tenants) * most_users)
    assert set(served) == {one.run_id for one in line}
