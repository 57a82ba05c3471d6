from functools import partial
from typing import Any

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from roadworthy.runtimes.langgraph.journal_question import question_of

CLIENT = {"lc": 1, "type": "not_implemented", "id": ["x"], "repr": "<Client object at 0x7f0>"}


def asked(*messages: Any, params: Any = None, **kwargs: Any) -> str | None:
    return question_of(
        messages or [HumanMessage("Hi.")], {"id": ["Model"], "kwargs": kwargs}, params or {}, {"ls_model_name": "m"}
    )


def named() -> None:
    """Has a name of its own."""


class Odd:
    """Shown by its address."""

    def method(self) -> None:
        """Shares its name with those of other objects."""


def test_ids_and_usage_are_not_seen_by_a_model() -> None:
    bare = AIMessage("Yes.", tool_calls=[{"id": "c", "name": "look", "args": {"q": "x"}}])
    usage: Any = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    full = bare.model_copy(update={"id": "m-1", "usage_metadata": usage, "response_metadata": {"model_name": "m"}})
    assert asked(bare) == asked(full) is not None


@pytest.mark.parametrize(
    "other",
    [
        asked(HumanMessage("Hello.")),
        asked(HumanMessage("Hi."), HumanMessage("Hi.")),
        asked(AIMessage("Hi.")),
        asked(HumanMessage("Hi.", name="ann")),
        asked(HumanMessage([{"type": "text", "text": "Hi."}])),
        asked(ToolMessage("Hi.", tool_call_id="c")),
        asked(temperature=1),
        asked(params={"stop": ["x"]}),
        asked(params={"tools": [named]}),
        asked(params={"tools": [Odd]}),
    ],
)
def test_whatever_a_model_is_asked_differently_is_another_question(other: str | None) -> None:
    assert other is not None
    assert other != asked()


def test_the_same_is_asked_with_another_client_and_in_another_order_of_making() -> None:
    assert asked(client=CLIENT) == asked(client=CLIENT | {"repr": "<Client object at 0x8e1>"}) is not None


@pytest.mark.parametrize(
    "made",
    [lambda: 1, partial(named), Odd(), Odd().method, HumanMessage],
    ids=["unnamed", "partial", "object", "method", "class"],
)
def test_what_another_process_would_name_differently_is_no_question(made: object) -> None:
    named_by_class = isinstance(made, type)
    assert (asked(params={"tools": [made]}) is not None) == named_by_class


def test_a_real_model_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain_anthropic import ChatAnthropic

    monkeypatch.setenv("ANTHROPIC_API_KEY", "not-a-key")
    models = [ChatAnthropic(model_name=name, timeout=None, stop=None) for name in ("claude-a", "claude-b", "claude-a")]
    first, second, third = (question_of([HumanMessage("Hi.")], dumpd(model), {}, {}) for model in models)
    assert first == third != second
    assert None not in (first, second)
