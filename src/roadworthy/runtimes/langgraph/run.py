"""One attempt of one run on a real graph: starts it where it has to start, and tells what happens in it.

``runtime`` makes it, ``engine/execution.py`` drives it. The graph runs in a task of its own that puts everything into
an outbox: LangGraph's state updates through a stream sink, models and tools through ``metering``.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.errors import GraphDrained

from roadworthy.domain.errors import AgentFailed, LeaseLost, RoadworthyError
from roadworthy.domain.event import InterruptRaised
from roadworthy.domain.run import InputKind, Run
from roadworthy.domain.thread import ThreadRef
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.circuits import Circuits
from roadworthy.ports.clock import Clock
from roadworthy.ports.runtime import Caps, Drained, Outcome, RuntimeEvent, Spending
from roadworthy.runtimes.langgraph.attempt_stop import AttemptStop, AttemptStopped
from roadworthy.runtimes.langgraph.config import run_config, state_config
from roadworthy.runtimes.langgraph.current import AttemptScope, current_attempt
from roadworthy.runtimes.langgraph.exits import contained, enter_containment
from roadworthy.runtimes.langgraph.failures import classify
from roadworthy.runtimes.langgraph.graphs import ServedGraph
from roadworthy.runtimes.langgraph.history import ThreadHistory
from roadworthy.runtimes.langgraph.journal import AttemptJournal, attempt_journal
from roadworthy.runtimes.langgraph.journal_place import CheckpointWatch
from roadworthy.runtimes.langgraph.keys import thread_key
from roadworthy.runtimes.langgraph.metering import ModelMeter, attempt_meter
from roadworthy.runtimes.langgraph.model_cache import Hook
from roadworthy.runtimes.langgraph.outbox import Outbox
from roadworthy.runtimes.langgraph.repair import repaired_input, unanswered_calls
from roadworthy.runtimes.langgraph.reservation_gate import GatedMeter
from roadworthy.runtimes.langgraph.results import Results, interrupts_of
from roadworthy.runtimes.langgraph.resume import Ended, Start, make_plan
from roadworthy.runtimes.langgraph.savers import FencedSaver
from roadworthy.runtimes.langgraph.sink import StateSink
from roadworthy.runtimes.langgraph.threads import WorkTracker
from roadworthy.runtimes.langgraph.tool_journal import ToolJournal
from roadworthy.runtimes.langgraph.waiting import WaitingRoom


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempted:
    """What an attempt is about. ``agents``: all that are served. ``spending``: None when there can be no budget.

    ``told``: messages that earlier attempts have shown. ``room``: where threads of all attempts wait for money.
    ``hook``: how answers from the journal get into the graph.
    """

    run: Run
    agents: Mapping[str, ServedGraph]
    saver: FencedSaver
    caps: Caps
    clock: Clock
    circuits: Circuits
    first_on_thread: bool
    tool_chars: int
    room: WaitingRoom
    hook: Hook
    spending: Spending | None = None
    told: Collection[str] = ()

    @property
    def served(self) -> ServedGraph:
        """The run's agent.

        Raises:
            AgentFailed: it was served when the run was accepted, and is not any more.
        """
        served = self.agents.get(self.run.agent)
        if served is None:
            raise AgentFailed(f"the agent {self.run.agent} is no longer served")
        return served


class GraphExecution:
    """See ``ports.runtime.Execution``. Made on the loop that runs it."""

    def __init__(self, attempted: Attempted) -> None:
        self._about = attempted
        self._outbox = Outbox()
        self._stop = AttemptStop()
        self._meter = self._make_meter(attempted)
        self._meter.streamed.update(attempted.told)
        run = attempted.run
        self._work = WorkTracker()
        key = thread_key(ThreadRef(owner=run.owner, thread_id=run.thread_id))
        self._watch = CheckpointWatch(key)
        self._scope = AttemptScope(
            owner=run.owner,
            run_id=run.run_id,
            attempt=run.attempt,
            tools=self._meter.tools,
            work=self._work,
            watch=self._watch,
        )
        self._journal = AttemptJournal(scope=self._scope, saver=attempted.saver, clock=attempted.clock)
        self._task: asyncio.Task[Outcome | RoadworthyError] | None = None

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        """See ``ports.runtime.Execution.events``."""
        task = self._task = asyncio.get_running_loop().create_task(self._drive())
        task.add_done_callback(lambda _: self._outbox.wake())
        try:
            while not task.done():
                while (event := self._outbox.take()) is not None:
                    yield event
                if not task.done():
                    await self._outbox.wait()
            while (event := self._outbox.take()) is not None:
                yield event
            outcome = task.result()
            if isinstance(outcome, RoadworthyError):
                raise outcome
            yield outcome
        finally:
            self._refuse_calls()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    def drain(self) -> None:
        """See ``ports.runtime.Execution.drain``."""
        self._stop.control.request_drain()

    def fence(self) -> None:
        """See ``ports.runtime.Execution.fence``."""
        self._scope.fence()
        self._refuse_calls()

    def open_calls(self) -> Sequence[ModelCall]:
        """See ``ports.runtime.Execution.open_calls``. Calls that ended but were never told are among them."""
        untold = [event for event in self._outbox.left() if isinstance(event, ModelCall)]
        return (*untold, *self._meter.open_calls())

    async def billed(self) -> None:
        """See ``ports.runtime.Execution.billed``."""
        await self._journal.billed()

    async def settled(self) -> None:
        """See ``ports.runtime.Execution.settled``."""
        if self._task is not None and not self._task.done():
            await asyncio.wait({self._task})
        await self._work.wait_idle()

    @property
    def settled_now(self) -> bool:
        """See ``ports.runtime.Execution.settled_now``."""
        return (self._task is None or self._task.done()) and self._work.idle

    async def close(self, patience: timedelta) -> None:
        """Forbid further writes, and end the graph's task if it still runs."""
        self.fence()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=patience.total_seconds())

    def _make_meter(self, about: Attempted) -> ModelMeter:
        put, stop = self._outbox.put, self._stop
        if about.spending is None:
            return ModelMeter(
                put,
                stop=stop,
                caps=about.caps,
                clock=about.clock,
                circuits=about.circuits,
                tool_chars=about.tool_chars,
            )
        return GatedMeter(
            put,
            spending=about.spending,
            room=about.room,
            stop=stop,
            caps=about.caps,
            clock=about.clock,
            circuits=about.circuits,
            tool_chars=about.tool_chars,
        )

    def _refuse_calls(self) -> None:
        self._stop.close()
        self._meter.close()
        self._watch.close()

    async def _drive(self) -> Outcome | RoadworthyError:
        """The task that owns the graph. Failures are values, so that none is lost with a cancelled consumer."""
        current_attempt.set(self._scope)
        attempt_meter.set(self._meter)
        attempt_journal.set(self._journal)
        self._work.enter()
        enter_containment()
        try:
            with contained():
                return await self._outcome()
        except GraphDrained:
            return self._stop.reason or Drained()
        except AttemptStopped:
            return self._stop.reason or LeaseLost("the attempt was given up")
        except Exception as error:  # noqa: BLE001 -- the author's code may raise anything; what it means is named here
            if self._scope.fenced:
                return LeaseLost("the attempt lost its lease")
            failure = self._stop.reason or classify(error, model_errors=self._meter.model_errors)
            if isinstance(failure, AgentFailed):
                # An answer may be why: who goes on from here must not be given it again.
                await self._journal.spend()
            return failure

    async def _outcome(self) -> Outcome:
        about = self._about
        ref = ThreadRef(owner=about.run.owner, thread_id=about.run.thread_id)
        thread = ThreadHistory(about.served, about.saver, state_config(ref))
        self._scope.tool_journal = journal = self._tool_journal(thread)
        if about.run.rollback_of is not None:
            await self._roll_back(thread_key(ref))
        if about.first_on_thread and about.run.attempt == 1:
            latest = None
            thread.hand_over(None)
        else:
            latest = await thread.latest()
        if about.run.attempt > 1 or about.run.request.kind is not InputKind.INPUT:
            await self._journal.load()
        plan = await make_plan(about.run, about.served, about.saver, thread.config, latest)
        results = Results(about.served, await thread.answers_before(about.run, latest))
        goes_on = latest is not None and latest.metadata.get("run_id") == about.run.run_id
        sink = StateSink(self._outbox.put, results, self._meter.streamed, goes_on=goes_on)
        if isinstance(plan, Ended):
            return self._ended(plan, results, sink)
        start = await self._repaired(plan, thread, latest, journal)
        with about.hook.placed(needed=self._journal.has_answers):
            return await self._stream(start, results, sink)

    def _tool_journal(self, thread: ThreadHistory) -> ToolJournal:
        about = self._about
        return ToolJournal(
            about.run,
            rows=about.saver.rows,
            fence=self._scope.hold,
            watch=self._watch,
            serde=thread.serde,
            clock=about.clock,
            stop=self._stop,
        )

    async def _roll_back(self, key: str) -> None:
        run, saver = self._about.run, self._about.saver
        if run.rollback_of is not None and await saver.latest_run(key) != run.run_id:
            await saver.erase_run(key, run.rollback_of)

    def _ended(self, plan: Ended, results: Results, sink: StateSink) -> Outcome:
        sink.state(((), "values", plan.values))
        if not plan.waiting:
            return results.completed()
        self._outbox.put(InterruptRaised(interrupts=interrupts_of(plan.interrupts)))
        return results.paused()

    async def _repaired(
        self, plan: Start, thread: ThreadHistory, latest: CheckpointTuple | None, journal: ToolJournal
    ) -> Start:
        channel = self._about.served.input_message
        if not plan.takes_input or latest is None or channel is None:
            return plan
        missing = unanswered_calls(await thread.messages_at(latest))
        if not missing:
            return plan
        known = [*await journal.answers([id_ for id_, _ in missing]), *await thread.live_messages()]
        return Start(input=repaired_input(self._about.run.request.payload, channel, missing, known), takes_input=True)

    async def _stream(self, plan: Start, results: Results, sink: StateSink) -> Outcome:
        about, control = self._about, self._stop.control
        config = run_config(about.run, about.served, about.caps, sink, control)
        parts = about.served.graph.astream(
            plan.input,
            config,
            context=about.run.request.context,
            stream_mode=[],
            durability=about.run.request.durability.value,
            control=control,
        )
        async for _ in parts:
            pass
        if self._stop.reason is not None:
            raise self._stop.reason
        if not sink.paused:
            return results.completed()
        self._outbox.put(InterruptRaised(interrupts=interrupts_of(tuple(sink.interrupts.values()))))
        return results.paused()
