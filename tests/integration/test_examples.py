"""The documented examples: each loads as `roadworthy serve` loads it, answers, and shows its lever in the bill."""

import ast
import re
import shutil
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from roadworthy.domain.event import ToolCallStarted
from roadworthy.domain.tool_effect import ToolEffect
from roadworthy.domain.usage import ModelCall
from roadworthy.runtimes.langgraph.effects import declared_effects
from roadworthy.runtimes.langgraph.factories import build_agents
from roadworthy.runtimes.langgraph.project import read_target
from tests.architecture.repository import ROOT
from tests.conformance.runtime.playing import AGENT, Bench, Played, a_run, play
from tests.support.capturing import capturing
from tests.support.provider.fake import FakeProvider
from tests.support.provider.script import Fault, Rule, ToolUse, Turn

EXAMPLES = ROOT / "examples"
DOCS = ROOT / "docs"
LEVERS = DOCS / "cost-levers.md"
SHOWN = re.compile(r"`examples/(\w+)\.py`[^\n]*\n\n```python\n(.*?)```", re.DOTALL)
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
MAIN, CHEAP = "claude-sonnet-5", "claude-haiku-4-5"
OVERLOADED = Turn(fault=Fault(kind="error", status=529))
SEARCH = Turn(tools=(ToolUse(name="search", args={"query": "bell"}),))


@pytest.fixture
async def provider(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as running:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "good")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", running.url)
        yield running


@asynccontextmanager
async def _graph(example: str, folder: Path) -> AsyncGenerator[Any]:
    """The graph of an example, from a copy: a file is imported once, and its model keeps the provider's address."""
    shutil.copy(EXAMPLES / f"{example}.py", folder)
    async with build_agents(read_target(f"{example}.py:graph", folder=folder)) as (agent,):
        yield agent.graph


async def _talk(example: str, folder: Path, *said: str) -> list[Played]:
    """Say it to an example, message by message, on one thread."""
    async with _graph(example, folder) as graph, Bench(folder=folder).serve(graph) as runtime:
        return [
            await play(runtime, a_run(runtime.message_input(AGENT, one), number=number))
            for number, one in enumerate(said, start=1)
        ]


def _models(provider: FakeProvider) -> Sequence[str]:
    return [entry.model for entry in provider.ledger]


@pytest.mark.parametrize("example", NAMES)
async def test_an_example_answers_and_its_usage_is_what_was_billed(
    example: str, tmp_path: Path, provider: FakeProvider
) -> None:
    (played,) = await _talk(example, tmp_path, "say: hello")
    assert played.completed.response == played.text == "hello"
    (call,), (billed,) = played.of(ModelCall), provider.ledger
    assert (call.model, call.estimated) == (billed.model, False)
    assert (call.tokens.input, call.tokens.output) == (billed.input_tokens, billed.output_tokens)


async def test_caching_marks_tools_system_prompt_and_conversation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "good")
    async with capturing() as provider:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", provider.url)
        await _talk("prompt_caching", tmp_path, "Are you open on Monday?")
    body = provider.bodies[0]
    mark = {"type": "ephemeral", "ttl": "5m"}
    assert [part["cache_control"] for part in (body["tools"][-1], body["system"][-1], body)] == [mark] * 3


async def test_what_the_cache_saved_is_in_the_usage(tmp_path: Path, provider: FakeProvider) -> None:
    provider.script(Turn(text="yes", cache_creation_tokens=900), Turn(text="yes", cache_read_tokens=900))
    first, second = await _talk("prompt_caching", tmp_path, "Open on Monday?", "And on Tuesday?")
    assert first.of(ModelCall)[0].tokens.cache_write == 900
    assert second.of(ModelCall)[0].tokens.cache_read == 900


async def test_the_fallback_answers_after_an_overload(tmp_path: Path, provider: FakeProvider) -> None:
    provider.script(OVERLOADED)
    (played,) = await _talk("fallback_model", tmp_path, "say: hello")
    assert played.completed.response == "hello"
    assert _models(provider) == [MAIN, CHEAP]


async def test_retry_asks_again_and_gives_up_with_an_error(tmp_path: Path, provider: FakeProvider) -> None:
    provider.script(OVERLOADED, rules=(Rule(when="never", turns=(OVERLOADED,), pick="for_ever"),))
    answered, failed = await _talk("retry", tmp_path, "say: hello", "never")
    assert answered.completed.response == "hello"
    assert failed.error is not None
    assert len(provider.ledger) == 2 + 3


async def test_retry_does_not_repeat_what_can_never_work(tmp_path: Path, provider: FakeProvider) -> None:
    provider.script(Turn(fault=Fault(kind="error", status=400)))
    (played,) = await _talk("retry", tmp_path, "say: hello")
    assert played.error is not None
    assert len(provider.ledger) == 1


async def test_limits_end_an_agent_that_goes_in_circles(tmp_path: Path, provider: FakeProvider) -> None:
    provider.script(rules=(Rule(when="circle", turns=(SEARCH,), pick="for_ever"),))
    stuck, after = await _talk("call_limits", tmp_path, "circle", "say: hello")
    assert len(provider.ledger) == 5 + 1
    assert len(stuck.of(ToolCallStarted)) == 3
    assert "limit" in stuck.completed.response
    assert after.completed.response == "hello"


async def test_a_tool_that_may_be_called_no_more_leaves_the_model_its_answer(
    tmp_path: Path, provider: FakeProvider
) -> None:
    provider.script(SEARCH, SEARCH, SEARCH, SEARCH, Turn(text="There is none."))
    (played,) = await _talk("call_limits", tmp_path, "Find a bell.")
    assert played.completed.response == "There is none."
    assert len(played.of(ToolCallStarted)) == 3


async def test_a_summary_replaces_what_was_long(tmp_path: Path, provider: FakeProvider) -> None:
    provider.script(rules=(Rule(when="Context Extraction", turns=(Turn(text="They spoke of oaks."),)),))
    long = "oak " * 12_000
    played = await _talk("summarization", tmp_path, f"{long}\nsay: 1", f"{long}\nsay: 2", "say: 3")
    assert [one.text for one in played] == ["1", "2", "3"]
    assert _models(provider).count(CHEAP) == 1
    assert [call.model for one in played for call in one.of(ModelCall)] == _models(provider)
    first, *_, last = [entry.input_tokens for entry in provider.ledger if entry.model == MAIN]
    assert last < first + 1_000, "in full it were more than twice as much"


async def test_small_talk_is_cheap_and_a_long_message_moves_the_thread_for_good(
    tmp_path: Path, provider: FakeProvider
) -> None:
    await _talk("cheap_model", tmp_path, "hi", "thanks", "why? " * 60, "thanks")
    assert _models(provider) == [CHEAP, CHEAP, MAIN, MAIN]


async def test_a_booking_goes_by_its_idempotency_key(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    provider.script(Turn(tools=(ToolUse(name="book", args={"table": 7}),)), Turn(text="It is yours."))
    async with _graph("tool_effects", tmp_path) as graph, Bench(folder=tmp_path).serve(graph) as runtime:
        await play(runtime, a_run(runtime.message_input(AGENT, "Table 7, please.")))
        book = graph.nodes["tools"].bound.tools_by_name["book"]
        with closing(sqlite3.connect("bookings.db")) as bookings:
            ((key, place),) = bookings.execute("SELECT * FROM bookings").fetchall()
            assert (key.startswith("acme/ann/thread:"), place) == (True, 7)
            # What a crash does: the same call once more.
            await book.ainvoke({"table": 7}, {"configurable": {"idempotency_key": key}})
            assert bookings.execute("SELECT count(*) FROM bookings").fetchone() == (1,)


async def test_an_example_declares_each_effect_that_there_is(tmp_path: Path, provider: FakeProvider) -> None:
    async with _graph("tool_effects", tmp_path) as graph:
        effects = declared_effects(graph.nodes["tools"].bound)
    assert effects == {
        "weekday": ToolEffect.PURE,
        "book": ToolEffect.IDEMPOTENT,
        "send_letter": ToolEffect.ONCE,
    }
    assert not provider.ledger


@pytest.mark.parametrize("example", NAMES)
def test_an_example_imports_nothing_of_the_server(example: str) -> None:
    tree = ast.parse((EXAMPLES / f"{example}.py").read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert not [module for module in modules if module is None or module.startswith("roadworthy")]


def test_the_docs_show_the_examples_as_they_are() -> None:
    pages = [page.read_text(encoding="utf-8") for page in DOCS.glob("*.md")]
    shown = [found for page in pages for found in SHOWN.findall(page)]
    files = [(name, (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")) for name in NAMES]
    assert sorted(shown) == files
    levers = LEVERS.read_text(encoding="utf-8")
    assert levers.count("```python") == len(SHOWN.findall(levers)), "all code there is an example"
