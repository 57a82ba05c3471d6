"""The port's adapter for LangGraph: every agent of the process over one checkpointer and one store.

``bootstrap`` opens it from loaded agents; ``engine`` and ``services`` use it through ``ports.runtime.AgentRuntime``.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from roadworthy.domain.agent import Agent
from roadworthy.domain.errors import AgentFailed, InvalidRequest, NotFound, StorageUnavailable
from roadworthy.domain.ids import AgentName
from roadworthy.domain.json import JsonObject, JsonValue
from roadworthy.domain.principal import Owner
from roadworthy.domain.review import Resolution, ToolReview
from roadworthy.domain.run import InputKind, Run, ToolCall
from roadworthy.domain.thread import ThreadRef, ThreadState
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.circuits import Circuits, NoCircuits
from roadworthy.ports.clock import Clock
from roadworthy.ports.runtime import Caps, Execution, Spending
from roadworthy.runtimes.langgraph.attempt_stop import unreported_stops
from roadworthy.runtimes.langgraph.config import state_config
from roadworthy.runtimes.langgraph.exits import contained_tasks
from roadworthy.runtimes.langgraph.graphs import ServedGraph
from roadworthy.runtimes.langgraph.guards import ToolGuard
from roadworthy.runtimes.langgraph.inputs import check_context, check_state
from roadworthy.runtimes.langgraph.journal_rows import calls_of
from roadworthy.runtimes.langgraph.jsonable import to_json
from roadworthy.runtimes.langgraph.keys import thread_key
from roadworthy.runtimes.langgraph.messages import human_message, messages_in, to_message
from roadworthy.runtimes.langgraph.model_cache import Hook
from roadworthy.runtimes.langgraph.registry import LoadedAgent, replaced_parts, serve_graph
from roadworthy.runtimes.langgraph.resume import note_questions
from roadworthy.runtimes.langgraph.run import Attempted, GraphExecution
from roadworthy.runtimes.langgraph.savers import FencedSaver
from roadworthy.runtimes.langgraph.state import open_state
from roadworthy.runtimes.langgraph.state_places import StatePlace
from roadworthy.runtimes.langgraph.store import OwnedStore, StoreConfig, StoreScope
from roadworthy.runtimes.langgraph.survivors import is_cut_off, texts_in
from roadworthy.runtimes.langgraph.tool_results import call_of
from roadworthy.runtimes.langgraph.tool_rows import finished_of, resolve_row, reviews_of
from roadworthy.runtimes.langgraph.waiting import WaitingRoom

_log = logging.getLogger(__name__)

_CLOSE_PATIENCE = timedelta(seconds=5)
_READY_PATIENCE = timedelta(seconds=2)
# A quarter of the smallest executor that ``bootstrap`` makes.
_WAITING_THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LangGraphRuntime:
    """See ``ports.runtime.AgentRuntime``."""

    served: Mapping[str, ServedGraph]
    saver: FencedSaver
    store: OwnedStore
    guard: ToolGuard
    clock: Clock
    circuits: Circuits
    room: WaitingRoom
    hook: Hook

    def agents(self) -> Sequence[Agent]:
        """All agents; the first is the default."""
        return [served.agent for served in self.served.values()]

    def find_agent(self, name: AgentName) -> Agent | None:
        """One agent by name, or None."""
        served = self.served.get(name)
        return None if served is None else served.agent

    def message_input(self, agent: AgentName, content: JsonValue) -> JsonObject:
        """See ``ports.runtime.AgentRuntime.message_input``."""
        channel = self._served(agent).input_message
        if channel is None:
            raise InvalidRequest(f"the agent {agent} takes no message: give it an input", field="message")
        return {channel: [human_message(content)]}

    def check_input(self, agent: AgentName, payload: JsonValue, context: JsonObject | None) -> None:
        """See ``ports.runtime.AgentRuntime.check_input``."""
        served = self._served(agent)
        check_state(served, payload)
        check_context(served, context)

    @asynccontextmanager
    async def execution(
        self,
        run: Run,
        *,
        caps: Caps,
        first_on_thread: bool,
        spending: Spending | None = None,
        told: Collection[str] = (),
    ) -> AsyncGenerator[Execution]:
        """See ``ports.runtime.AgentRuntime.execution``."""
        execution = GraphExecution(
            Attempted(
                run=run,
                agents=self.served,
                saver=self.saver,
                caps=caps,
                clock=self.clock,
                circuits=self.circuits,
                first_on_thread=first_on_thread,
                tool_chars=self.guard.max_chars,
                room=self.room,
                hook=self.hook,
                spending=spending,
                told=told,
            )
        )
        try:
            yield execution
        finally:
            await execution.close(_CLOSE_PATIENCE)

    async def resume_mark(self, run: Run) -> str | None:
        """See ``ports.runtime.AgentRuntime.resume_mark``."""
        if run.request.kind is not InputKind.RESUME:
            return None
        return await note_questions(self.saver, _key(run))

    async def surviving(self, run: Run, shown: Mapping[str, str]) -> Collection[str]:
        """See ``ports.runtime.AgentRuntime.surviving``."""
        served = self.served.get(run.agent)
        if served is None:
            return ()  # nothing will go on from the state, nor can it be read
        ref = ThreadRef(owner=run.owner, thread_id=run.thread_id)
        state = await served.graph.aget_state(state_config(ref), subgraphs=True)
        held = texts_in(state)
        return [id_ for id_, text in shown.items() if id_ in held and not is_cut_off(text, held[id_])]

    async def answered_calls(self, run: Run) -> Sequence[ModelCall]:
        """See ``ports.runtime.AgentRuntime.answered_calls``."""
        return await self.saver.rows.transact(lambda rows: calls_of(rows, _key(run), run.run_id), harmless=True)

    async def finished_tools(self, run: Run) -> Sequence[ToolCall]:
        """See ``ports.runtime.AgentRuntime.finished_tools``."""
        served = self.served.get(run.agent)
        # The graph's own copy of the saver knows the types of its state.
        checkpointer = None if served is None else served.graph.checkpointer
        saver = checkpointer if isinstance(checkpointer, FencedSaver) else self.saver
        found = await self.saver.rows.transact(lambda rows: finished_of(rows, _key(run), run.run_id))
        return [call_of(saver.serde, row, max_chars=self.guard.max_chars) for row in found]

    async def progress_mark(self, run: Run) -> str | None:
        """See ``ports.runtime.AgentRuntime.progress_mark``."""
        return await self.saver.newest_id(_key(run))

    async def thread_state(self, agent: AgentName, ref: ThreadRef) -> ThreadState:
        """See ``ports.runtime.AgentRuntime.thread_state``."""
        served = self.served.get(agent)
        if served is None:
            return ThreadState(messages=(), values=None)
        try:
            state = await served.graph.aget_state(state_config(ref))
            messages = tuple(to_message(message) for message in messages_in(state.values, served.messages))
            return ThreadState(messages=messages, values=to_json(state.values))
        except StorageUnavailable:
            raise
        except Exception as error:  # foreign code: channels, reducers and types of the agent's own
            raise AgentFailed(f"the thread's state cannot be read: {type(error).__name__}") from error

    async def open_reviews(self, ref: ThreadRef) -> Sequence[ToolReview]:
        """See ``ports.runtime.AgentRuntime.open_reviews``."""
        return await self.saver.rows.transact(lambda rows: reviews_of(rows, thread_key(ref)), harmless=True)

    async def resolve(self, ref: ThreadRef, tool_call_id: str, resolution: Resolution) -> bool:
        """See ``ports.runtime.AgentRuntime.resolve``."""
        now = self.clock.now()
        return await self.saver.rows.transact(
            lambda rows: resolve_row(rows, thread_key(ref), tool_call_id, resolution, now)
        )

    async def export_items(self, owner: Owner) -> Sequence[JsonObject]:
        """See ``ports.runtime.AgentRuntime.export_items``."""
        return await self.store.export_items(owner)

    async def erase_items(self, owner: Owner) -> int:
        """See ``ports.runtime.AgentRuntime.erase_items``."""
        return await self.store.erase_items(owner)

    async def prune_thread(self, ref: ThreadRef, *, keep: int) -> int:
        """See ``ports.runtime.AgentRuntime.prune_thread``."""
        return await self.saver.prune_thread(thread_key(ref), keep=keep)

    async def erase_thread(self, ref: ThreadRef) -> None:
        """Delete every checkpoint of a thread. Idempotent."""
        await self.saver.adelete_thread(thread_key(ref))

    async def ready(self) -> str | None:
        """None when checkpoints can be read and written; else what is wrong."""
        try:
            async with asyncio.timeout(_READY_PATIENCE.total_seconds()):
                await self.saver.check()
        except StorageUnavailable as error:
            return error.message
        except TimeoutError:
            return f"the database of checkpoints did not answer within {_READY_PATIENCE.total_seconds():g} s"
        return None

    def _served(self, agent: AgentName) -> ServedGraph:
        served = self.served.get(agent)
        if served is None:
            raise NotFound(f"there is no agent {agent}")
        return served


@asynccontextmanager
async def open_runtime(
    agents: Sequence[LoadedAgent],
    *,
    state: StatePlace,
    tool_timeout: timedelta,
    tool_output_max: int,
    store_scope: StoreScope,
    extra_types: Sequence[str],
    store_index: StoreConfig | None,
    clock: Clock,
    circuits: Circuits | None = None,
    waiting_threads: int = _WAITING_THREADS,
) -> AsyncGenerator[LangGraphRuntime]:
    """Serve ``agents``, with their state in the place ``state``. ``waiting_threads``: so many at once may wait for
    money; a small part of the loop's default executor, which model clients need as well.

    Raises:
        ConfigError: an extra state type or the store's index is wrong.
        StorageUnavailable: the state's place cannot be opened.
    """
    guard = ToolGuard(timeout=tool_timeout, max_chars=tool_output_max)
    async with open_state(state, scope=store_scope, config=store_index or StoreConfig()) as (saver, store):
        served: dict[str, ServedGraph] = {}
        for loaded in agents:
            for warning in replaced_parts(loaded):
                _log.warning(warning)
            served[loaded.name] = serve_graph(loaded, saver=saver, store=store, guard=guard, extra_types=extra_types)
        hook = Hook()
        with contained_tasks(asyncio.get_running_loop()), unreported_stops():
            try:
                yield LangGraphRuntime(
                    served=served,
                    saver=saver,
                    store=store,
                    guard=guard,
                    clock=clock,
                    circuits=circuits or NoCircuits(),
                    room=WaitingRoom(waiting_threads),
                    hook=hook,
                )
            finally:
                hook.lift()


def _key(run: Run) -> str:
    return thread_key(ThreadRef(owner=run.owner, thread_id=run.thread_id))
