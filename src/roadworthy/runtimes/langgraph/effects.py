"""Reads what the tools of a ToolNode declare about being run twice.

``guards`` asks when an agent is loaded, so that a typing error does not wait for a crash to be noticed.
"""

from collections.abc import Iterator, Mapping

from langchain_core.tools import BaseTool
from langgraph.prebuilt.tool_node import ToolNode

from roadworthy.domain.errors import ConfigError
from roadworthy.domain.tool_effect import ATTRIBUTE, METADATA_KEY, ToolEffect

# Where a tool keeps the function it was made from.
_FUNCTIONS = ("func", "coroutine", "_run", "_arun")


def declared_effects(node: ToolNode) -> Mapping[str, ToolEffect]:
    """The effects of those tools that declare one, by name.

    Raises:
        ConfigError: a tool declares one that does not exist.
    """
    return {
        name: _parsed(name, word)
        for name, tool in node.tools_by_name.items()
        if (word := next(_words(tool), None)) is not None
    }


def _words(tool: BaseTool) -> Iterator[object]:
    said: object = (tool.metadata or {}).get(METADATA_KEY)
    if said is not None:
        yield said
    for place in (tool, *(getattr(tool, name, None) for name in _FUNCTIONS)):
        if (said := getattr(place, ATTRIBUTE, None)) is not None:
            yield said


def _parsed(name: str, word: object) -> ToolEffect:
    if word not in list(ToolEffect):
        known = ", ".join(ToolEffect)
        raise ConfigError(f"the tool {name} declares the effect {word!r}; it must be one of: {known}")
    return ToolEffect(str(word))
