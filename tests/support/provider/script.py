"""What a test tells the fake provider to answer: turns, and the faults in them.

Pure data that crosses the control API as JSON; `playbook` picks from it, `playing` acts it out.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from pydantic import JsonValue, TypeAdapter

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "model_context_window_exceeded"]

# An int n means: after n output tokens (one token is one delta); 0 is after `message_start`.
# `first_byte`: before any answer. `tool_json`: inside a tool's JSON. `end`: before `message_delta`.
# A point that the answer never reaches counts as `end`, so that no planned fault is silently skipped.
Point = int | Literal["first_byte", "tool_json", "end"]

# `error` is an HTTP status at `first_byte` and an in-stream error event later. `cut` ends the stream politely,
# `reset` by TCP RST, `garbage` with broken JSON. `silence` and `pings` last until the client leaves.
FaultKind = Literal["error", "cut", "reset", "silence", "pings", "garbage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """One tool call the model asks for."""

    name: str
    args: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """How and where the answer goes wrong; `status`, `message` and `retry_after` (seconds) only for `error`."""

    kind: FaultKind
    at: Point = "first_byte"
    status: int = 529
    message: str | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A pause that lasts until the test calls `release(gate)`; one release lets one call pass."""

    at: Point = "first_byte"
    gate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One answer of the model. Without `stop_reason`: `tool_use` if there are tools, else `end_turn`."""

    text: str = ""
    thinking: str = ""
    tools: tuple[ToolUse, ...] = ()
    stop_reason: StopReason | None = None
    ms_per_token: float = 0
    first_byte_ms: float = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    fault: Fault | None = None
    hold: Hold | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Answers for every conversation whose last user text contains `when`.

    `in_order` uses each turn once, then the rule no longer matches; `for_ever` repeats the last one.
    `by_position` takes the n-th turn for the n-th model call since the user spoke, however often it is asked.
    """

    when: str
    turns: tuple[Turn, ...]
    pick: Literal["in_order", "for_ever", "by_position"] = "in_order"


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Rules are looked at first, then the queue of turns, then the directives in the user's text."""

    turns: tuple[Turn, ...] = ()
    rules: tuple[Rule, ...] = ()


_SCRIPT = TypeAdapter(Script)


def parse_script(raw: bytes) -> Script:
    """The script in a JSON document.

    Raises:
        pydantic.ValidationError: not JSON, or not a script.
    """
    return _SCRIPT.validate_json(raw)


def dump_script(script: Script) -> bytes:
    """The JSON document that `parse_script` reads."""
    return json.dumps(asdict(script)).encode()
