"""The documented examples: each loads as `roadworthy serve` loads it, answers, and shows its lever in the bill."""

import ast
import re
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from roadworthy.domain.event import ToolCallStarted
from roadworthy.domain.usage import ModelCall
from roadworthy.runtimes.langgraph.factories import build_agents
from roadworthy.runtimes.langgraph.project import read_target
from tests.architecture.repository import ROOT
from tests.conformance.runtime.playing import AGENT, Bench, Played, a_run, play
from tests.support.capturing import capturing
from tests.support.provider.fake import FakeProvider
from tests.support.provider.script import Fault, Rule, ToolUse, Turn

EXAMPLES = ROOT / "examples"
DOC = ROOT / "docs" / "cost-levers.md"
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


@pytest.mark.parametrize("example", NAMES)
def test_an_example_imports_nothing_of_the_server(example: str) -> None:
    tree = ast.parse((EXAMPLES / f"{example}.py").read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert not [module for module in modules if module is None or module.startswith("roadworthy")]


def test_the_docs_show_the_examples_as_they_are() -> None:
    shown = re.findall(r"`examples/(\w+)\.py`[^\n]*\n\n```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    files = [(name, (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")) for name in NAMES]
    assert sorted(shown) == files
    assert DOC.read_text(encoding="utf-8").count("```python") == len(files)
