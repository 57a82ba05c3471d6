"""The running of one attempt: drives the runtime, watches the clock, and stores how it ended.

``engine/worker.py`` starts one per claimed run; below are the runtime, the event log, the ledger and the queue.
The graph runs in a task of its own, which is the only thing that is ever cancelled: cancelling that task is what
really stops a LangGraph run.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential

from roadworthy.domain.errors import AgentFailed, LeaseLost, RoadworthyError, StorageUnavailable
from roadworthy.domain.event import ContentDelta, ContentRetracted, Event, UsageReported
from roadworthy.domain.lease import Lease
from roadworthy.domain.run import InputKind, Run, RunError, RunResult, RunStatus
from roadworthy.domain.usage import ModelCall
from roadworthy.engine.cancellation import Handover, StopSignal
from roadworthy.engine.losses import calls_so_far
from roadworthy.engine.metering import Meter
from roadworthy.engine.settlements import Settlements
from roadworthy.engine.spending import AttemptSpending, Purse, open_spending
from roadworthy.engine.tally import Tally
from roadworthy.engine.verdicts import Verdict, idle, inner_error, past_deadline, stopped
from roadworthy.ports.clock import Clock
from roadworthy.ports.event_log import EventLog, EventWriter
from roadworthy.ports.ledger import Ledger
from roadworthy.ports.policies import PolicyStore
from roadworthy.ports.prices import PriceBook
from roadworthy.ports.queue import RunQueue
from roadworthy.ports.rate_limit import RateCounters
from roadworthy.ports.runtime import (
    AgentRuntime,
    Caps,
    Completed,
    Drained,
    Execution,
    ModelReplayed,
    Outcome,
    Paused,
    Progress,
    RuntimeEvent,
)
from roadworthy.ports.telemetry import Telemetry

Written = TypeVar("Written")

_CANCEL_GRACE = timedelta(milliseconds=500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every attempt of this worker uses."""

    worker: str
    queue: RunQueue
    log: EventLog
    ledger: Ledger
    runtime: AgentRuntime
    clock: Clock
    telemetry: Telemetry
    caps: Caps
    idle_timeout: timedelta
    prices: PriceBook
    policies: PolicyStore
    rates: RateCounters
    settlements: Settlements
    reserved_output_tokens: int

    @property
    def purse(self) -> Purse:
        """What the spending of an attempt uses of it."""
        return Purse(
            ledger=self.ledger,
            prices=self.prices,
            policies=self.policies,
            clock=self.clock,
            settlements=self.settlements,
            reserved_output_tokens=self.reserved_output_tokens,
        )


class Attempt:
    """One attempt. ``execute`` returns when its work has really ended."""

    def __init__(self, run: Run, around: Surroundings, signal: StopSignal) -> None:
        self.run = run
        self.execution: Execution | None = None
        self._around = around
        self._signal = signal
        self.lease = Lease(run_id=run.run_id, owner=run.owner, attempt=run.attempt, worker=around.worker)
        self._tally = Tally()
        self._meter: Meter | None = None
        self._writer: EventWriter | None = None
        self._told: Collection[str] = ()
        self._last_progress = around.clock.monotonic()
        self._failure: RoadworthyError | None = None
        self._model_answered = False
        self._draining = False
        # From then on nothing that the graph still says is heard.
        self._concluding = False
        # The attempt's end, or that it was given back, is stored and told.
        self._concluded = False

    @property
    def model_answered(self) -> bool:
        """Whether a model call of the attempt ended well."""
        return self._model_answered

    async def give_up(self, error: Exception) -> None:
        """End the run when ``execute`` itself has failed. Nothing that may be the cause becomes part of the result.

        Raises:
            Exception: whatever keeps the end from being stored, other than a database that is away for a while.
        """
        if self._concluded:
            return
        open_calls_recorded = self._concluding
        result = RunResult(usage=self._tally.usage, error=inner_error(error))
        final = await self._insist(lambda: self._around.queue.finish(self.lease, RunStatus.ERROR, result, events=()))
        self._tell(final)
        meter = self._meter
        if meter is None:
            return
        if self.execution is not None and not open_calls_recorded:
            for call in self.execution.open_calls():
                meter.owe(call)
        await self._insist(meter.flush)
        await self._insist(meter.release)

    def drain(self) -> None:
        """Ask the graph to stop before its next step, or before its first one."""
        self._draining = True
        if self.execution is not None:
            self.execution.drain()

    def let_go(self) -> None:
        """Forget what knows the attempt in its turn: without such circles all of it, its events above all, is freed at
        once, and the garbage collector has nothing to look for. After ``execute`` and ``give_up``.
        """
        self.execution = self._meter = self._writer = None

    async def execute(self, on_ended: Callable[[Run | None, RoadworthyError | None], None]) -> None:
        """Run the attempt. ``on_ended`` is told the final row (None: given back or lost) and the failure, if any,
        as soon as both are stored; threads of the attempt may still be busy then.
        """
        around = self._around
        async with asyncio.TaskGroup() as group:
            spending = await open_spending(self.run, around.purse, self._note_progress)
            meter = self._meter = Meter(
                self.run, group, spending=spending, ledger=around.ledger, rates=around.rates, telemetry=around.telemetry
            )
            writer = self._writer = await self._open(spending, meter)
            with closing(spending):
                async with self._prepare(spending) as execution:
                    self.execution = execution
                    if self._draining:
                        execution.drain()
                    graph = group.create_task(self._drive(execution, writer, meter))
                    verdict = await self._supervise(graph, execution)
                    # A graph that has ended has nothing left to write; threads that it has left behind may think so.
                    execution.fence()
                    final = await self._conclude(verdict, execution, writer, meter)
                    on_ended(final, self._failure)
                    if final is not None:
                        await execution.billed()
                    await execution.settled()

    async def _open(self, spending: AttemptSpending, meter: Meter) -> EventWriter:
        void: Collection[str] = ()
        if self.run.attempt > 1:
            around = self._around
            seen = await around.log.read(self.run)
            calls = await calls_so_far(
                self.run, seen, ledger=around.ledger, runtime=around.runtime, spending=spending, meter=meter
            )
            self._tally.inherit(seen, calls, await around.runtime.finished_tools(self.run))
            await meter.flush()
            void = await self._void(seen)
            if self.run.losses:
                # The call that was in flight when the worker died may have been billed without leaving a trace.
                self._tally.usage = replace(self._tally.usage, estimated=True)
        if self.run.request.kind is InputKind.RESUME and self.run.resume_mark is None:
            # Before the first attempt that gets so far: none has answered anything yet.
            mark = await self._around.runtime.resume_mark(self.run)
            if mark is not None:
                if not await self._around.queue.note_resume_mark(self.lease, mark):
                    self._signal.stop(Handover.LOST)
                self.run = replace(self.run, resume_mark=mark)
        writer = await self._around.log.open(self.run)
        for message_id in void:
            writer.append(ContentRetracted(message_id=message_id))
        return writer

    async def _void(self, seen: Sequence[Event]) -> Collection[str]:
        """Messages of earlier attempts whose text the state does not hold, in the order they were shown. The others
        are told: nobody need say them again.
        """
        shown: dict[str, str] = {}
        for event in seen:
            if isinstance(event.body, ContentDelta):
                shown[event.body.message_id] = shown.get(event.body.message_id, "") + event.body.text
            elif isinstance(event.body, ContentRetracted):
                shown.pop(event.body.message_id, None)
        if not shown:
            return ()
        self._told = await self._around.runtime.surviving(self.run, shown)
        return [message_id for message_id in shown if message_id not in self._told]

    def _prepare(self, spending: AttemptSpending) -> AbstractAsyncContextManager[Execution]:
        return self._around.runtime.execution(
            self.run,
            caps=self._caps_left(),
            first_on_thread=self.run.ord == 1,
            spending=spending,
            told=self._told,
        )

    def _caps_left(self) -> Caps:
        """Calls are bounded for the run, whatever its attempts; steps for an attempt, which repeats only the last."""
        caps = self._around.caps
        return replace(
            caps,
            model_calls=max(0, caps.model_calls - self._tally.usage.model_calls),
            tool_calls=max(0, caps.tool_calls - self._tally.tool_calls),
        )

    async def _drive(self, execution: Execution, writer: EventWriter, meter: Meter) -> Outcome | RoadworthyError:
        """The only task that is ever cancelled. Expected failures are values, so that they end no task group."""
        outcome: Outcome | None = None
        try:
            async for event in execution.events():
                self._note_progress()
                if isinstance(event, Completed | Paused | Drained):
                    outcome = event
                elif not self._concluding:
                    self._take(event, writer, meter)
        except RoadworthyError as error:
            return error
        except Exception as error:  # noqa: BLE001 -- worker loop: a bug in one attempt must not end its neighbours
            failed = AgentFailed("the agent failed")
            failed.__cause__ = error
            return failed
        return outcome if outcome is not None else AgentFailed("the agent ended without a result")

    def _note_progress(self) -> None:
        self._last_progress = self._around.clock.monotonic()

    def _take(self, event: RuntimeEvent, writer: EventWriter, meter: Meter) -> None:
        match event:
            case Progress():
                pass
            case ModelCall():
                self._model_answered = self._model_answered or event.outcome == "complete"
                self._bill(event, writer, meter)
            case ModelReplayed():
                self._model_answered = True
                self._around.telemetry.model_call_replayed(event.call)
                # Its worker may have died before the ledger heard of it.
                if not self._tally.knows(event.call):
                    self._bill(event.call, writer, meter)
            case Completed() | Paused() | Drained():
                pass
            case _:
                writer.append(event)
                self._tally.add(event, self._around.clock.now())

    def _bill(self, call: ModelCall, writer: EventWriter, meter: Meter) -> None:
        priced = meter.record(call)
        writer.append(UsageReported(call=priced, total=self._tally.count(priced)))

    async def _supervise(self, graph: "asyncio.Task[Outcome | RoadworthyError]", execution: Execution) -> Verdict:
        while not graph.done():
            reason = self._signal.reason
            if reason is Handover.LOST:
                execution.fence()
            verdict = self._too_late() if reason is None else stopped(reason)
            if verdict is not None:
                return await self._stop(graph, verdict)
            await asyncio.wait(
                {graph, self._signal.raised},
                timeout=max(0.0, self._seconds_left()),
                return_when=asyncio.FIRST_COMPLETED,
            )
        return self._judge(graph)

    def _seconds_left(self) -> float:
        deadline = (self.run.deadline_at - self._around.clock.now()).total_seconds()
        return min(deadline, self._idle_left())

    def _idle_left(self) -> float:
        """Seconds until the attempt counts as idle. Tools have bounds of their own and may be silent."""
        limit = self._around.idle_timeout.total_seconds()
        if self._tally.tools_running:
            return limit
        return limit - (self._around.clock.monotonic() - self._last_progress)

    def _too_late(self) -> Verdict | None:
        if self.run.deadline_at <= self._around.clock.now():
            return past_deadline(self.run)
        return idle(self._around.idle_timeout) if self._idle_left() <= 0 else None

    async def _stop(self, graph: "asyncio.Task[Outcome | RoadworthyError]", verdict: Verdict) -> Verdict:
        graph.cancel()
        await asyncio.wait({graph}, timeout=_CANCEL_GRACE.total_seconds())
        return verdict

    def _judge(self, graph: "asyncio.Task[Outcome | RoadworthyError]") -> Verdict:
        if graph.cancelled():
            # Nobody but the agent itself can have done this: a node that cancels its own task.
            return self._failed(AgentFailed("the agent cancelled itself"))
        match graph.result():
            case Completed() as outcome:
                return Verdict(status=RunStatus.SUCCESS, outcome=outcome)
            case Paused() as outcome:
                return Verdict(status=RunStatus.INTERRUPTED, outcome=outcome)
            case Drained():
                unasked = AgentFailed("the agent stopped before its end")
                return Verdict(status=None) if self._draining else self._failed(unasked)
            case LeaseLost():
                return Verdict(status=None, lost=True)
            case RoadworthyError() as error:
                return self._failed(error)

    def _failed(self, error: RoadworthyError) -> Verdict:
        self._failure = error
        self._around.telemetry.attempt_failed(self.run, error)
        return Verdict(status=RunStatus.ERROR, error=RunError(code=error.code, message=error.message))

    async def _conclude(self, verdict: Verdict, execution: Execution, writer: EventWriter, meter: Meter) -> Run | None:
        for call in execution.open_calls():
            self._take(call, writer, meter)
        self._concluding = True
        if verdict.status is not None:
            return await self._finish(verdict, verdict.status, writer.take_unflushed(), meter)
        if verdict.lost:
            self._note_loss()
        # Of a lost attempt too: what was called has to be paid, and nobody else knows what is held for calls not made.
        await self._insist(meter.flush)
        await self._insist(meter.release)
        if not verdict.lost:
            events = writer.take_unflushed()
            await self._insist(lambda: self._around.queue.release(self.lease, events=events))
        self._tell(None)
        return None

    async def _finish(self, verdict: Verdict, status: RunStatus, events: Sequence[Event], meter: Meter) -> Run | None:
        outcome = verdict.outcome
        result = self._tally.result(
            error=verdict.error,
            response=None if outcome is None else outcome.response,
            output=None if outcome is None else outcome.output,
            structured_response=outcome.structured_response if isinstance(outcome, Completed) else None,
        )

        await self._insist(meter.ahead)
        final = await self._insist(lambda: self._around.queue.finish(self.lease, status, result, events=events))
        if final is None:
            self._note_loss()
        try:
            await self._insist(meter.flush)
            await self._insist(meter.release)
        finally:
            self._tell(final)
        return final

    def _note_loss(self) -> None:
        self._around.telemetry.worker_note("lease_lost", run_id=self.run.run_id, attempt=self.run.attempt)

    def _tell(self, final: Run | None) -> None:
        """Let readers and the operator know. ``final`` None: the run was given back, or somebody else has moved it."""
        self._concluding = self._concluded = True
        if self._writer is not None:
            self._writer.close(final)
        elif final is not None:
            self._around.log.ended(final)
        if final is not None:
            self._around.telemetry.run_finished(final)

    async def _insist(self, write: Callable[[], Awaitable[Written]]) -> Written:
        """A run's end must reach the database: while it is full or locked, keep the slot and try again."""
        # The usual case alone, because the retry loop costs a tenth of a short run.
        try:
            return await write()
        except StorageUnavailable:
            self._around.telemetry.worker_note("write_retried", run_id=self.run.run_id)
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(StorageUnavailable),
            wait=wait_exponential(multiplier=0.2, max=5),
            before_sleep=lambda _: self._around.telemetry.worker_note("write_retried", run_id=self.run.run_id),
        ):
            with attempt:
                return await write()
        raise AssertionError("AsyncRetrying without a stop never ends without a result")
