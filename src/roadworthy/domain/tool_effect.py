"""What it means when a tool runs twice, as its author declares it: by ``@effect("once")`` or by the tool's metadata.

Exported by the package for agents; ``runtimes/langgraph/effects.py`` reads it when an agent is loaded.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Literal, TypeAlias, TypeVar

Tool = TypeVar("Tool")
EffectName: TypeAlias = Literal["pure", "idempotent", "once"]

METADATA_KEY = "effect"
# On functions, which become tools later, and on classes of tools.
ATTRIBUTE = "__roadworthy_effect__"


class ToolEffect(StrEnum):
    """``pure``: it changes nothing. ``idempotent``: twice with one idempotency key is once. ``once``: it must never
    run twice. A call of the first two that a crash cut off is run again, as is one of a tool that declares nothing.
    """

    PURE = "pure"
    IDEMPOTENT = "idempotent"
    ONCE = "once"


def effect(name: EffectName) -> Callable[[Tool], Tool]:
    """Declare a tool's effect, above or below ``@tool``, or on a plain function that is used as a tool.

    ``tool.metadata = {"effect": name}`` says the same without importing anything.
    """

    def declare(tool: Tool) -> Tool:
        metadata: object = getattr(tool, "metadata", tool)
        if metadata is None or isinstance(metadata, dict):
            setattr(tool, "metadata", {**(metadata or {}), METADATA_KEY: name})  # noqa: B010 -- whatever has metadata
        else:
            setattr(tool, ATTRIBUTE, name)
        return tool

    return declare
