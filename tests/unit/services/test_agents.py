"""Which agent a caller means, and which ones a key may use."""

import pytest

from roadworthy.domain.agent import Agent
from roadworthy.domain.errors import NotFound, PermissionDenied
from roadworthy.domain.ids import AgentName, TenantId, UserId
from roadworthy.domain.principal import USER_SCOPES, Owner, Principal
from roadworthy.runtimes.scripted import ScriptedRuntime
from roadworthy.services.agents import Agents

ANN = Owner(tenant=TenantId("acme"), user=UserId("ann"))


def agent(name: str) -> Agent:
    return Agent(name=AgentName(name), description="", accepts_message=True, input_schema={})


def key(*agents: str) -> Principal:
    bound = frozenset(AgentName(name) for name in agents) if agents else None
    return Principal(owner=ANN, scopes=USER_SCOPES, agents=bound)


@pytest.fixture
def agents() -> Agents:
    return Agents(ScriptedRuntime(agents=(agent("first"), agent("second"), agent("third"))))


def test_without_a_name_the_first_agent_that_the_key_may_use_is_meant(agents: Agents) -> None:
    assert agents.pick(key(), None).name == "first"
    assert agents.pick(key("third", "second"), None).name == "second"


def test_a_name_picks_its_agent(agents: Agents) -> None:
    assert agents.pick(key(), "second").name == "second"
    assert agents.pick(key("second"), "second").name == "second"


def test_an_unknown_name_is_answered_with_those_that_the_key_may_use(agents: Agents) -> None:
    with pytest.raises(NotFound, match=r"second$") as refusal:
        agents.pick(key("second"), "nobody")
    assert "first" not in refusal.value.message


def test_an_agent_of_others_is_denied(agents: Agents) -> None:
    with pytest.raises(PermissionDenied):
        agents.pick(key("second"), "first")


def test_a_key_whose_agents_are_gone_has_no_default(agents: Agents) -> None:
    with pytest.raises(NotFound):
        agents.pick(key("retired"), None)
    assert list(agents.list(key("retired"))) == []


@pytest.mark.parametrize("name", ["", "no such name", "a" * 65, "first\n", "\udcff", "../first"])
def test_what_cannot_be_a_name_is_an_unknown_one(agents: Agents, name: str) -> None:
    with pytest.raises(NotFound, match="there is no agent of that name"):
        agents.pick(key(), name)
