"""Tool calls of which nobody knows whether they happened, and what a human makes of them.

A tool that must run only once was under way when its worker died. Its run ends with the code ``needs_review``;
``services/runs.py`` takes the resolution, the runtime acts on it when the run is resumed.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from roadworthy.domain.ids import RunId
from roadworthy.domain.json import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReview:
    """A tool call of unknown outcome, at which the run ``run_id`` stopped. ``args`` as the model gave them."""

    run_id: RunId
    tool_call_id: str
    name: str
    args: JsonValue
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordResult:
    """It has happened: this is what the model is told."""

    result: JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAgain:
    """It has not: run the tool again."""


Resolution: TypeAlias = RecordResult | RunAgain
