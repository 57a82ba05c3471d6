"""Decides where an attempt starts: with the run's input, from a checkpoint, with an answer, or not at all.

The rule: if the latest root checkpoint carries this run's id, the input was taken; then finish from its state when
nothing is left to do, ask again what waits for an answer, else go on. Otherwise start with what was asked.
``run`` follows the plan; checkpoints come from ``checkpoints``.

An answer is always given to the question it was meant for, by id: LangGraph keeps a plain resume value with the
checkpoint and would answer the next question of the same node with it after a crash.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.types import Command, StateSnapshot
from langgraph.types import Interrupt as GraphInterrupt

from roadworthy.domain.errors import AgentFailed
from roadworthy.domain.json import JsonValue
from roadworthy.domain.run import InputKind, Run
from roadworthy.runtimes.langgraph.graphs import ServedGraph
from roadworthy.runtimes.langgraph.savers import FencedSaver

OpenQuestions: TypeAlias = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Run the graph with ``input``: a state (``takes_input``), a command, or None to go on from the checkpoint."""

    input: "JsonValue | Mapping[str, object] | Command[str]"
    takes_input: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An earlier attempt had reached the end, or a question; only the run's row did not hear of it."""

    values: object
    waiting: bool
    interrupts: tuple[GraphInterrupt, ...] = field(default=())


Plan: TypeAlias = Start | Ended


async def make_plan(
    run: Run, served: ServedGraph, saver: FencedSaver, config: RunnableConfig, latest: CheckpointTuple | None
) -> Plan:
    """Where attempt ``run.attempt`` starts. ``latest``: the thread's latest root checkpoint.

    Raises:
        AgentFailed: the answers of a RESUME run do not fit the open questions.
    """
    if latest is not None and latest.metadata.get("run_id") == run.run_id:
        return await _continued(served, saver, config, latest)
    match run.request.kind:
        case InputKind.INPUT:
            return Start(input=run.request.payload, takes_input=True)
        case InputKind.CONTINUE:
            return Start(input=None)
        case InputKind.RESUME:
            return Start(input=await _answer(run, saver, config))


async def note_questions(saver: FencedSaver, key: str) -> str:
    """The mark that tells later attempts of a RESUME run which questions were open before its first one."""
    asked = await saver.open_interrupts(key)
    return json.dumps({namespace: sorted(ids) for namespace, ids in sorted(asked.items())})


async def _continued(served: ServedGraph, saver: FencedSaver, config: RunnableConfig, latest: CheckpointTuple) -> Plan:
    stopped_after = await _breakpoint_after(served, saver, latest)
    state = await served.graph.aget_state(config)
    # ``next`` is empty too when all tasks of a step are done and only its checkpoint is missing.
    waiting = stopped_after or _waits(served, state)
    if waiting or not state.tasks:
        return Ended(values=state.values, waiting=waiting, interrupts=state.interrupts)
    return Start(input=None)


def _waits(served: ServedGraph, state: StateSnapshot) -> bool:
    """Whether going on would only repeat the pause, or worse, pass it: everything unfinished waits for a human."""
    unfinished = [task for task in state.tasks if task.name in state.next]
    asking = [task for task in unfinished if task.interrupts]
    if not unfinished or asking:
        return bool(asking) and len(asking) == len(unfinished)
    return any(_stops(served.graph.interrupt_before_nodes, task.name) for task in unfinished)


async def _breakpoint_after(served: ServedGraph, saver: FencedSaver, latest: CheckpointTuple) -> bool:
    """Whether a node behind which the graph stops was among those whose step made this checkpoint."""
    nodes = served.graph.interrupt_after_nodes
    if not nodes or latest.parent_config is None:
        return False
    parent = await saver.aget_tuple(latest.parent_config)
    before = {} if parent is None else parent.checkpoint["versions_seen"]
    now = latest.checkpoint["versions_seen"]
    return any(_stops(nodes, name) and seen != before.get(name) for name, seen in now.items())


def _stops(nodes: "Sequence[str] | str", name: str) -> bool:
    return name in nodes or (nodes == "*" and not name.startswith("__"))


async def _answer(run: Run, saver: FencedSaver, config: RunnableConfig) -> "Command[str] | None":
    now = await saver.open_interrupts(str(config.get("configurable", {})["thread_id"]))
    noted = _read_mark(run.resume_mark) or now
    answers = _answers(run.request.payload, noted.get("", frozenset()))
    # A question that was open somewhere before this run and is not any more has had its answer.
    open_still = {
        id_: value
        for id_, value in answers.items()
        if all(id_ in now.get(ns, ()) for ns, ids in noted.items() if id_ in ids)
    }
    return Command(resume=open_still) if open_still else None


def _answers(payload: JsonValue, asked: frozenset[str]) -> Mapping[str, JsonValue]:
    """The answer to each question, by its id. One value answers one question; several need an object of ids."""
    if isinstance(payload, Mapping) and payload and all(id_ in asked for id_ in payload):
        return payload
    if len(asked) > 1:
        raise AgentFailed(
            "the thread waits for several answers: send an object with the ids of the interrupts as its keys"
        )
    # Nothing is asked at a static breakpoint: there the value only says "go on".
    return dict.fromkeys(asked, payload)


def _read_mark(mark: str | None) -> OpenQuestions | None:
    if mark is None:
        return None
    noted: Any = json.loads(mark)
    return {str(namespace): frozenset(map(str, ids)) for namespace, ids in noted.items()}
