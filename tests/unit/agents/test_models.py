"""Retired and mistyped model ids are named before the first user meets them."""

from datetime import date

import pytest

from roadworthy.agents.models import DEFAULT_MODEL, known_model_problem, verify_model

TODAY = date(2026, 1, 1)


def test_the_default_model_has_no_known_problem() -> None:
    assert known_model_problem(*DEFAULT_MODEL.split(":")) is None


@pytest.mark.parametrize("model", ["claude-3-opus-20240229", "claude-3-5-sonnet-20241022", "claude-2.1"])
def test_a_retired_model_is_named_with_its_date_and_a_successor(model: str) -> None:
    problem = known_model_problem("anthropic", model, today=date(2026, 1, 6))
    assert problem is not None
    assert f"{model} was retired on" in problem
    assert "use claude-" in problem


def test_a_model_to_be_retired_is_named_too() -> None:
    problem = known_model_problem("anthropic", "claude-opus-4-20250514", today=TODAY)
    assert problem is not None
    assert "will be retired on 15 June 2026; use claude-opus-" in problem


@pytest.mark.parametrize("typo", ["claude-sonet-5-5", "claude-sonnet5-5", "claude-sonnet-5.5"])
def test_a_mistyped_model_gets_a_suggestion(typo: str) -> None:
    problem = known_model_problem("anthropic", typo)
    assert problem is not None
    assert "did you mean" in problem
    assert "claude-sonnet-5-5" in problem


def test_an_id_like_no_other_is_named_with_an_example() -> None:
    problem = known_model_problem("anthropic", "gpt-5")
    assert problem is not None
    assert "for instance claude-" in problem


def test_other_providers_ids_are_not_judged() -> None:
    assert known_model_problem("ollama", "llama-anything") is None


async def test_without_a_key_or_for_another_provider_nothing_is_asked() -> None:
    assert (await verify_model("anthropic:claude-sonnet-5", None, None)).verdict == "unchecked"
    assert (await verify_model("ollama:llama", "key", None)).verdict == "unchecked"
