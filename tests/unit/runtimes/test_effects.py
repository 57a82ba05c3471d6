"""How a tool's declared effect is found, wherever its author wrote it down."""

from typing import Any

import pytest
from langchain_core.tools import BaseTool, StructuredTool, tool
from langgraph.prebuilt import ToolNode
from pydantic import Field

from roadworthy import effect
from roadworthy.domain.tool_effect import ToolEffect
from roadworthy.runtimes.langgraph.effects import declared_effects


def pay() -> str:
    """Pay."""
    return ""


async def pay_later() -> str:
    """Pay."""
    return ""


@effect("once")
class Pay(BaseTool):
    name: str = "pay"
    description: str = "Pay."

    def _run(self) -> str:
        return ""


class Fields(BaseTool):
    name: str = "pay"
    description: str = "Pay."
    metadata: dict[str, Any] | None = Field(default={"effect": "once"})

    def _run(self) -> str:
        return ""


def marked(function: Any) -> Any:
    """A copy of the function, declared."""

    def same() -> str:
        """Pay."""
        return function()

    same.__name__ = "pay"
    return effect("once")(same)


def by_metadata() -> BaseTool:
    made = tool(pay)
    made.metadata = {"effect": "once"}
    return made


@pytest.mark.parametrize(
    "declared",
    [
        effect("once")(tool(pay)),
        tool(marked(pay)),
        marked(pay),
        by_metadata(),
        Pay(),
        Fields(),
        effect("once")(StructuredTool.from_function(coroutine=pay_later, name="pay")),
    ],
    ids=["above", "below", "plain", "metadata", "class", "field", "async"],
)
def test_a_declared_effect_is_found(declared: Any) -> None:
    assert declared_effects(ToolNode([declared])) == {"pay": ToolEffect.ONCE}


def test_a_tool_that_declares_nothing_has_no_effect() -> None:
    assert declared_effects(ToolNode([pay])) == {}


def test_a_declaration_keeps_other_metadata() -> None:
    made = tool(pay)
    made.metadata = {"team": "billing"}
    assert effect("pure")(made).metadata == {"team": "billing", "effect": "pure"}
