"""A runtime without LangGraph: plays what a test wrote down, in memory, with gates that the test opens.

For tests of ``engine`` and ``services``; the conformance suite holds it to the
same rules as the real one. A thread's state is its messages; every Progress of a script is a checkpoint.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

from roadworthy.domain.agent import Agent
from roadworthy.domain.errors import AgentFailed, InvalidRequest, LeaseLost, RoadworthyError
from roadworthy.domain.event import ContentDelta, InterruptRaised
from roadworthy.domain.ids import AgentName, RunId, new_id
from roadworthy.domain.json import JsonObject, JsonValue
from roadworthy.domain.principal import Owner
from roadworthy.domain.review import Resolution, ToolReview
from roadworthy.domain.run import InputKind, Run, ToolCall
from roadworthy.domain.thread import Message, ThreadRef, ThreadState
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.runtime import (
    Caps,
    Completed,
    Drained,
    Execution,
    Paused,
    PlannedCall,
    Progress,
    RuntimeEvent,
    Spending,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Wait until the test opens the gate of this name."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """From here on a thread works that cannot be stopped, until the gate of this name opens."""

    gate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A model call is under way, once its money is reserved; it stays open until its ModelCall comes."""

    call: ModelCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """Raise."""

    error: Exception


Step: TypeAlias = RuntimeEvent | Gate | Stuck | Begun | Fail
Script: TypeAlias = Sequence[Step]

DEFAULT_AGENT = Agent(
    name=AgentName("scripted"), description="Says what a test wrote down.", accepts_message=True, input_schema={}
)


def says(text: str, *, message_id: str = "m1") -> Script:
    """A script that says one thing and ends."""
    return (
        ContentDelta(message_id=message_id, text=text),
        Progress(),
        Completed(response=text, output={"response": text}, structured_response=None),
    )


@dataclass(slots=True, kw_only=True)
class _Checkpoint:
    id: int
    run_id: RunId
    messages: tuple[Message, ...]


@dataclass(slots=True)
class _Thread:
    checkpoints: list[_Checkpoint] = field(default_factory=list[_Checkpoint])

    @property
    def messages(self) -> tuple[Message, ...]:
        return self.checkpoints[-1].messages if self.checkpoints else ()


class ScriptedRuntime:
    """``script`` says what the coming runs do, one script a run; runs without one answer ``default``."""

    def __init__(self, agents: Sequence[Agent] = (DEFAULT_AGENT,), default: Script | None = None) -> None:
        self.executions: list[ScriptedExecution] = []
        self.problem: str | None = None
        self.reviews: dict[ThreadRef, list[ToolReview]] = {}
        self.resolutions: dict[str, Resolution] = {}
        self.answered: dict[RunId, Sequence[ModelCall]] = {}
        self.finished: dict[RunId, Sequence[ToolCall]] = {}
        self.items: dict[Owner, Sequence[JsonObject]] = {}
        self._agents = {agent.name: agent for agent in agents}
        self._default = says("Hello.") if default is None else default
        self._coming: list[Script] = []
        self._scripts: dict[RunId, Script] = {}
        self._gates: dict[str, asyncio.Event] = {}
        self._threads: dict[ThreadRef, _Thread] = {}
        self._ids = count(1)

    def script(self, *scripts: Script) -> None:
        """What the next runs do, in the order of their first attempts."""
        self._coming.extend(scripts)

    def gate(self, name: str) -> asyncio.Event:
        """The gate of this name; set it to open it."""
        return self._gates.setdefault(name, asyncio.Event())

    def agents(self) -> Sequence[Agent]:
        """All agents; the first is the default."""
        return tuple(self._agents.values())

    def find_agent(self, name: AgentName) -> Agent | None:
        """One agent by name, or None."""
        return self._agents.get(name)

    def message_input(self, agent: AgentName, content: JsonValue) -> JsonObject:
        """See ``ports.runtime.AgentRuntime.message_input``."""
        if not self._agents[agent].accepts_message:
            raise InvalidRequest("the agent takes no message", field="message")
        blocks = [content] if isinstance(content, str) else content
        if not isinstance(blocks, Sequence) or not blocks:
            raise InvalidRequest("message must be text or content blocks", field="message")
        if not all(isinstance(block, str) or (isinstance(block, Mapping) and "type" in block) for block in blocks):
            raise InvalidRequest("a content block needs a type", field="message")
        return {"messages": [{"role": "user", "id": new_id(), "content": content}]}

    def check_input(self, agent: AgentName, payload: JsonValue, context: JsonObject | None) -> None:
        """See ``ports.runtime.AgentRuntime.check_input``: the input is an object, and there is no context."""
        if not isinstance(payload, Mapping):
            raise InvalidRequest("input must be an object", field="input")
        if context is not None and self._agents[agent].context_schema is None:
            raise InvalidRequest("the agent takes no context", field="context")

    @asynccontextmanager
    async def execution(
        self,
        run: Run,
        *,
        caps: Caps,  # noqa: ARG002 -- port
        first_on_thread: bool,  # noqa: ARG002 -- port
        spending: Spending | None = None,
        told: Collection[str] = (),  # noqa: ARG002 -- a script goes on behind the last event that was played
    ) -> AsyncGenerator[Execution]:
        """See ``ports.runtime.AgentRuntime.execution``."""
        if run.rollback_of is not None:
            self._erase_run(_ref(run), run.rollback_of)
        execution = ScriptedExecution(self, run, self._script_of(run), spending)
        self.executions.append(execution)
        try:
            yield execution
        finally:
            execution.fence()

    async def resume_mark(self, run: Run) -> str | None:
        """See ``ports.runtime.AgentRuntime.resume_mark``."""
        return await self.progress_mark(run) or "" if run.request.kind is InputKind.RESUME else None

    async def surviving(self, run: Run, shown: Mapping[str, str]) -> Collection[str]:  # noqa: ARG002 -- port
        """All of them: a script goes on behind the last event that was played."""
        return shown.keys()

    async def answered_calls(self, run: Run) -> Sequence[ModelCall]:
        """What the test has put into ``answered``."""
        return tuple(self.answered.get(run.run_id, ()))

    async def finished_tools(self, run: Run) -> Sequence[ToolCall]:
        """What the test has put into ``finished``."""
        return tuple(self.finished.get(run.run_id, ()))

    async def progress_mark(self, run: Run) -> str | None:
        """See ``ports.runtime.AgentRuntime.progress_mark``."""
        checkpoints = self._thread(_ref(run)).checkpoints
        return str(checkpoints[-1].id) if checkpoints else None

    async def thread_state(self, agent: AgentName, ref: ThreadRef) -> ThreadState:
        """See ``ports.runtime.AgentRuntime.thread_state``."""
        if agent not in self._agents:
            return ThreadState(messages=(), values=None)
        messages = self._thread(ref).messages
        return ThreadState(
            messages=messages, values={"messages": [{"id": m.id, "content": m.content} for m in messages]}
        )

    async def open_reviews(self, ref: ThreadRef) -> Sequence[ToolReview]:
        """What the test has put into ``reviews``, as far as nobody has resolved it."""
        return tuple(self.reviews.get(ref, ()))

    async def resolve(self, ref: ThreadRef, tool_call_id: str, resolution: Resolution) -> bool:
        """Take it out again, and note the resolution in ``resolutions``."""
        waiting = self.reviews.get(ref, [])
        found = [one for one in waiting if one.tool_call_id == tool_call_id]
        self.reviews[ref] = [one for one in waiting if one.tool_call_id != tool_call_id]
        self.resolutions.update({one.tool_call_id: resolution for one in found})
        return bool(found)

    async def prune_thread(self, ref: ThreadRef, *, keep: int) -> int:
        """Forget all but the latest ``keep`` checkpoints, and those of the latest run."""
        thread = self._thread(ref)
        latest = thread.checkpoints[-1].run_id if thread.checkpoints else None
        old = [one for one in thread.checkpoints[:-keep] if one.run_id != latest]
        thread.checkpoints = [one for one in thread.checkpoints if one not in old]
        return len(old)

    async def export_items(self, owner: Owner) -> Sequence[JsonObject]:
        """What the test has put into ``items``."""
        return list(self.items.get(owner, ()))

    async def erase_items(self, owner: Owner) -> int:
        """Take it out again."""
        return len(self.items.pop(owner, ()))

    async def erase_thread(self, ref: ThreadRef) -> None:
        """Forget a thread."""
        self._threads.pop(ref, None)

    async def ready(self) -> str | None:
        """The ``problem`` that the test has set."""
        return self.problem

    def done_by(self, run: Run) -> int:
        """How many checkpoints the run has on its thread."""
        return sum(one.run_id == run.run_id for one in self._thread(_ref(run)).checkpoints)

    def keep(self, run: Run, messages: Sequence[Message]) -> None:
        """Write a checkpoint: the thread's messages and these."""
        thread = self._thread(_ref(run))
        known = {message.id for message in thread.messages}
        merged = (*thread.messages, *(message for message in messages if message.id not in known))
        thread.checkpoints.append(_Checkpoint(id=next(self._ids), run_id=run.run_id, messages=merged))

    def _erase_run(self, ref: ThreadRef, run_id: RunId) -> None:
        thread = self._thread(ref)
        thread.checkpoints = [one for one in thread.checkpoints if one.run_id != run_id]

    def _script_of(self, run: Run) -> Script:
        if run.agent not in self._agents:
            return (Fail(error=AgentFailed(f"the agent {run.agent} is no longer served")),)
        if run.run_id not in self._scripts:
            self._scripts[run.run_id] = self._coming.pop(0) if self._coming else self._default
        return self._scripts[run.run_id]

    def _thread(self, ref: ThreadRef) -> _Thread:
        return self._threads.setdefault(ref, _Thread())


class ScriptedExecution:
    """See ``ports.runtime.Execution``. Tests read ``run``, ``drained``, ``fenced`` and ``cancelled``."""

    def __init__(self, runtime: ScriptedRuntime, run: Run, script: Script, spending: Spending | None = None) -> None:
        self.run = run
        self.drained = False
        self.fenced = False
        self.cancelled = False
        self._runtime = runtime
        self._script = script
        self._spending = spending
        self._open: dict[str, ModelCall] = {}
        self._stuck: list[asyncio.Event] = []
        self._texts: dict[str, str] = {}
        self._running = False

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        """Play the script from behind the run's last checkpoint."""
        self._running = True
        try:
            async for event in self._play():
                yield event
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self._running = False

    def drain(self) -> None:
        """Stop at the next Progress."""
        self.drained = True

    def fence(self) -> None:
        """Write no more checkpoints."""
        self.fenced = True

    def open_calls(self) -> Sequence[ModelCall]:
        """Calls that have begun and not ended."""
        return tuple(self._open.values())

    async def billed(self) -> None:
        """See ``ports.runtime.Execution.billed``."""
        self._runtime.answered.pop(self.run.run_id, None)

    async def settled(self) -> None:
        """Until every gate of a Stuck is open."""
        for gate in self._stuck:
            await gate.wait()

    @property
    def settled_now(self) -> bool:
        """Whether ``settled`` would return at once."""
        return not self._running and all(gate.is_set() for gate in self._stuck)

    async def _play(self) -> AsyncIterator[RuntimeEvent]:
        for step in self._left():
            match step:
                case Gate():
                    await self._runtime.gate(step.name).wait()
                case Stuck():
                    self._stuck.append(self._runtime.gate(step.gate))
                case Begun():
                    await self._begin(step.call)
                case Fail():
                    raise _named(step.error)
                case _:
                    if isinstance(step, ModelCall) and step.call_id not in self._open:
                        await self._begin(step)
                    self._note(step)
                    yield step
                    if isinstance(step, Progress) and self.drained:
                        yield Drained()
                        return

    def _left(self) -> Script:
        """What earlier attempts have not done."""
        skip, position = self._runtime.done_by(self.run), 0
        while skip and position < len(self._script):
            skip -= isinstance(self._script[position], Progress)
            position += 1
        return self._script[position:]

    async def _begin(self, call: ModelCall) -> None:
        if self._spending is not None and await self._spending.budgets_fit():
            await self._spending.reserve(
                PlannedCall(
                    call_id=call.call_id,
                    node=call.node,
                    provider=call.provider,
                    model=call.model,
                    input_tokens=call.tokens.input,
                    max_output_tokens=call.tokens.output,
                )
            )
        self._open[call.call_id] = call

    def _note(self, event: RuntimeEvent) -> None:
        match event:
            case ContentDelta():
                self._texts[event.message_id] = self._texts.get(event.message_id, "") + event.text
            case ModelCall():
                self._open.pop(event.call_id, None)
                if self._spending is not None:
                    self._spending.ended(event)
            case Progress() | InterruptRaised() | Completed() | Paused():
                if self.fenced:
                    raise LeaseLost("the attempt lost its lease and may not write any more")
                if isinstance(event, Progress):
                    self._runtime.keep(self.run, (*self._asked(), *self._answered()))
            case _:
                pass

    def _asked(self) -> Sequence[Message]:
        payload = self.run.request.payload
        given = payload.get("messages") if isinstance(payload, Mapping) else None
        if not isinstance(given, Sequence) or isinstance(given, str):
            return ()
        return [
            Message(id=str(one["id"]), role="user", content=one["content"])
            for one in given
            if isinstance(one, Mapping) and "id" in one and "content" in one
        ]

    def _answered(self) -> Sequence[Message]:
        return [
            Message(id=f"{self.run.run_id}-{id_}", role="assistant", content=text) for id_, text in self._texts.items()
        ]


def _named(error: Exception) -> Exception:
    """A failing script raises domain errors only, as the port asks; anything else is the test's own mistake."""
    if isinstance(error, RoadworthyError):
        return error
    raise TypeError("a script fails with errors of the domain") from error


def _ref(run: Run) -> ThreadRef:
    return ThreadRef(owner=run.owner, thread_id=run.thread_id)
