"""An agent as clients pick it: a name and what it accepts. The code behind it stays with the runtime."""

from dataclasses import dataclass

from roadworthy.domain.ids import AgentName
from roadworthy.domain.json import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """``accepts_message``: its state has a message channel, so ``message`` works; else only ``input`` does."""

    name: AgentName
    description: str
    accepts_message: bool
    input_schema: JsonObject
    context_schema: JsonObject | None = None
