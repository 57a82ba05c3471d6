"""What is known about a model id: the default, ids that are retired or mistyped, and what the provider says of one.

``doctor`` asks before the first user does; ``assistant`` takes its default from here. The tables are those of the
installed Anthropic client, so that they age with it and not with us.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from difflib import get_close_matches
from typing import Literal, get_args

import anthropic
from anthropic.resources.messages import DEPRECATED_MODELS
from anthropic.types import Model, ModelInfo

DEFAULT_MODEL = "anthropic:claude-sonnet-5-5"

_ANTHROPIC = "anthropic"
_TIMEOUT_SECONDS = 10.0
_SIMILARITY = 0.75
# Retired too, but no longer in the client's table.
_RETIRED = {
    "claude-3-5-sonnet-20240620": date(2025, 10, 28),
    "claude-3-5-sonnet-20241022": date(2025, 10, 28),
    "claude-3-5-sonnet-latest": date(2025, 10, 28),
}

Verdict = Literal["ok", "deprecated", "retired", "unknown_model", "refused", "unreachable", "unchecked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCheck:
    """What asking the provider found. ``detail`` is one sentence for the operator, without secrets."""

    verdict: Verdict
    detail: str


def known_model_problem(provider: str, model_id: str, *, today: date | None = None) -> str | None:
    """Name what is wrong with ``model_id`` without asking anybody: retired, about to be, or unknown (mistyped?).

    None when it looks right, and for providers other than Anthropic, whose ids this version does not know.
    """
    if provider != _ANTHROPIC:
        return None
    retirements = _retirements()
    retired_on = retirements.get(model_id)
    if retired_on is not None:
        verb = "was" if retired_on <= (today or datetime.now(UTC).date()) else "will be"
        return f"{model_id} {verb} retired on {retired_on:%d %B %Y}; use {_successor(model_id, retirements)}"
    current = _current_ids(retirements)
    if model_id in current:
        return None
    close = get_close_matches(model_id, current, n=3, cutoff=_SIMILARITY)
    hint = f"did you mean {' or '.join(close)}?" if close else f"for instance {current[0]} is"
    return f"{model_id} is no model id that this version knows ({hint}); ignore this if the model is newer"


async def verify_model(model: str, api_key: str | None, base_url: str | None) -> ModelCheck:
    """Ask the provider whether ``model`` (``provider:id``) exists and ``api_key`` may use it; waits 10 s at most.

    Only Anthropic is asked, at ``base_url`` or where its client goes by itself; all others are ``unchecked``.
    """
    provider, _, model_id = model.rpartition(":")
    if (provider or _ANTHROPIC) != _ANTHROPIC:
        return ModelCheck(verdict="unchecked", detail=f"{provider} offers no check that this version knows")
    if not api_key:
        return ModelCheck(verdict="unchecked", detail="there is no API key to ask with")
    async with anthropic.AsyncAnthropic(
        api_key=api_key, base_url=base_url, max_retries=0, timeout=_TIMEOUT_SECONDS
    ) as client:
        return await _ask(client, model_id)


async def _ask(client: anthropic.AsyncAnthropic, model_id: str) -> ModelCheck:
    try:
        return _judge(await client.models.retrieve(model_id))
    except (anthropic.AuthenticationError, anthropic.PermissionDeniedError) as error:
        return ModelCheck(verdict="refused", detail=f"the provider refused the API key ({error.status_code})")
    except anthropic.NotFoundError:
        problem = known_model_problem(_ANTHROPIC, model_id)
        return ModelCheck(verdict="unknown_model", detail=problem or f"the provider does not know {model_id}")
    except anthropic.APIStatusError as error:
        return ModelCheck(verdict="unreachable", detail=f"the provider answered {error.status_code}")
    except anthropic.APIError as error:
        return ModelCheck(verdict="unreachable", detail=f"no usable answer from {client.base_url}: {error.message}")


def _judge(info: ModelInfo) -> ModelCheck:
    when = f" on {info.retires_at:%d %B %Y}" if info.retires_at else ""
    match info.lifecycle:
        case "retired":
            return ModelCheck(verdict="retired", detail=f"{info.id} was retired{when}")
        case "deprecated":
            return ModelCheck(verdict="deprecated", detail=f"{info.id} will be retired{when}")
        case _:  # `active`; older servers leave the field out
            return ModelCheck(verdict="ok", detail=f"{info.id} is available")


def _retirements() -> dict[str, date]:
    found = dict(_RETIRED)
    for model_id, text in DEPRECATED_MODELS.items():
        retired_on = _parse_date(text)
        if retired_on is not None:
            found[model_id] = retired_on
    return found


def _parse_date(text: str) -> date | None:
    """Read the client's ``June 15th, 2026``; None should a later client write it otherwise."""
    try:
        month, day, year = text.replace(",", "").split()
        return datetime.strptime(f"{month} {day.rstrip('stndrh')} {year}", "%B %d %Y").replace(tzinfo=UTC).date()
    except ValueError:
        return None


def _current_ids(retirements: dict[str, date]) -> list[str]:
    """List the ids that the client names in its type, newest first, less those that are going."""
    named: tuple[str, ...] = get_args(get_args(Model)[0])
    return [model_id for model_id in named if model_id not in retirements]


def _successor(model_id: str, retirements: dict[str, date]) -> str:
    family = next((name for name in ("opus", "haiku") if name in model_id), "sonnet")
    return next(current for current in _current_ids(retirements) if family in current)
