"""Makes runs whose one model call is journalled, is not, or goes through LangChain's own cache; prints as JSON what one
took. ``journal.py`` starts it.

Everything is real but the engine: the runtime, its checkpoints on a file, a model that answers at once. The node makes
its prompt itself, so that the length of the prompt does not make the checkpoints longer.
"""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Literal, TypeAlias, TypedDict, get_args

import uvloop
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.graph import START, StateGraph

from benchmarks.graphs.answer import ANSWER_TOKENS
from benchmarks.graphs.scripted import Graph
from roadworthy.domain.ids import AgentName, RunId, TenantId, ThreadId, UserId, new_id
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import InputKind, Run, RunRequest, RunStatus
from roadworthy.ports.runtime import Caps, Completed
from roadworthy.runtimes.langgraph.journal import attempt_journal
from roadworthy.runtimes.langgraph.registry import LoadedAgent
from roadworthy.runtimes.langgraph.runtime import LangGraphRuntime, open_runtime
from roadworthy.runtimes.langgraph.state_places import SqliteFolder
from roadworthy.telemetry.clock import SystemClock
from tests.support.scripted_model import ScriptedChatModel, ScriptedTurn, text_of

Mode: TypeAlias = Literal["without", "journal", "cache"]

_MODES: tuple[Mode, ...] = get_args(Mode)
_TEXT = "As long as it takes, and then some more. " * 5
_AGENT = AgentName("asking")
_OWNER = Owner(tenant=TenantId("default"), user=UserId("benchmark"))
_CAPS = Caps(steps=10, model_calls=10, tool_calls=10)
_WARM_ROUNDS = 5


class _State(TypedDict, total=False):
    messages: int
    mode: Mode
    answer: str


def _asking() -> Graph:
    model = ScriptedChatModel(turns=(ScriptedTurn(text=text_of(ANSWER_TOKENS)),))

    async def ask(state: _State) -> _State:
        if state.get("mode") != "journal":
            attempt_journal.set(None)
        answer = await model.ainvoke(_prompt(state.get("messages", 1)))
        return {"answer": answer.text}

    return StateGraph(_State).add_node("ask", ask).add_edge(START, "ask").compile()


def _prompt(messages: int) -> list[BaseMessage]:
    """Ends with what nobody has asked before: no cache knows the answer."""
    said = [AIMessage(f"{n}. {_TEXT}") if n % 2 else HumanMessage(f"{n}. {_TEXT}") for n in range(messages - 1)]
    return [*said, HumanMessage(f"{new_id()} {_TEXT}")]


async def _main(folder: Path, rounds: int, prompts: Sequence[int]) -> None:
    folder.mkdir()
    async with open_runtime(
        [LoadedAgent(name=_AGENT, graph=_asking())],
        state=SqliteFolder(path=folder),
        tool_timeout=timedelta(seconds=10),
        tool_output_max=1_000,
        store_scope="user",
        extra_types=(),
        store_index=None,
        clock=SystemClock(),
    ) as runtime:
        print(json.dumps([await _compare(runtime, messages, rounds) for messages in prompts]))


async def _compare(runtime: LangGraphRuntime, messages: int, rounds: int) -> dict[str, float]:
    """Milliseconds of a run without either, and what each adds: the median of the rounds' differences."""
    taken = [await _round(runtime, messages, turn) for turn in range(_WARM_ROUNDS + rounds)][_WARM_ROUNDS:]
    return {
        "without": 1000 * median(one["without"] for one in taken),
        "journal": 1000 * median(one["journal"] - one["without"] for one in taken),
        "cache": 1000 * median(one["cache"] - one["without"] for one in taken),
    }


async def _round(runtime: LangGraphRuntime, messages: int, turn: int) -> dict[Mode, float]:
    """A run in each mode; every round begins with another one."""
    first = turn % len(_MODES)
    order: Sequence[Mode] = (*_MODES[first:], *_MODES[:first])
    return {mode: await _run(runtime, messages, mode) for mode in order}


async def _run(runtime: LangGraphRuntime, messages: int, mode: Mode) -> float:
    set_llm_cache(InMemoryCache(maxsize=1) if mode == "cache" else None)
    began_at = perf_counter()
    async with runtime.execution(_new(messages, mode), caps=_CAPS, first_on_thread=True) as execution:
        events = [event async for event in execution.events()]
        await execution.settled()
    seconds = perf_counter() - began_at
    if not isinstance(events[-1], Completed):
        raise TypeError(f"the run did not end: {events[-1]}")
    return seconds


def _new(messages: int, mode: Mode) -> Run:
    now = datetime.now(UTC)
    return Run(
        run_id=RunId(new_id()),
        owner=_OWNER,
        thread_id=ThreadId(new_id()),
        ord=1,
        agent=_AGENT,
        request=RunRequest(kind=InputKind.INPUT, payload={"messages": messages, "mode": mode}),
        request_id=new_id(),
        key_id=None,
        status=RunStatus.RUNNING,
        attempt=1,
        created_at=now,
        deadline_at=now + timedelta(minutes=2),
    )


if __name__ == "__main__":
    uvloop.run(_main(Path(sys.argv[1]), int(sys.argv[2]), [int(one) for one in sys.argv[3:]]))
