"""Which agents there are, and which one a caller means."""

from collections.abc import Sequence

from roadworthy.domain.agent import Agent
from roadworthy.domain.errors import InvalidRequest, NotFound
from roadworthy.domain.ids import parse_agent_name
from roadworthy.domain.principal import Principal
from roadworthy.ports.runtime import AgentRuntime


class Agents:
    """The agents of the process, as one caller may see them."""

    def __init__(self, runtime: AgentRuntime) -> None:
        self._runtime = runtime

    def list(self, principal: Principal) -> Sequence[Agent]:
        """Agents that the caller's key may use; the server's default comes first when it is among them."""
        agents = self._runtime.agents()
        return [agent for agent in agents if principal.agents is None or agent.name in principal.agents]

    def pick(self, principal: Principal, name: str | None) -> Agent:
        """The agent called ``name``; without a name the first one that the key may use.

        Raises:
            NotFound: there is none of that name.
            PermissionDenied: the key may not use it.
        """
        if name is None:
            return self._default(principal)
        agent = self._find(name)
        if agent is None:
            known = ", ".join(one.name for one in self.list(principal))
            raise NotFound(f"there is no agent of that name; this key may use: {known}")
        principal.require_agent(agent.name)
        return agent

    def _find(self, name: str) -> Agent | None:
        try:
            return self._runtime.find_agent(parse_agent_name(name))
        except InvalidRequest:
            return None  # nothing can be served under such a name

    def _default(self, principal: Principal) -> Agent:
        allowed = self.list(principal)
        if not allowed:
            raise NotFound("none of the agents that this key may use is served here")
        return allowed[0]
