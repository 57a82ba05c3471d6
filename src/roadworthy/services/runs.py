"""Runs as callers see them: create, wait, look, cancel, resume.

Above: the dialects. Below: ``services/admission.py`` for new runs, the run store, the event log.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from roadworthy.domain.agent import Agent
from roadworthy.domain.errors import Conflict, Draining, InvalidRequest, NotFound
from roadworthy.domain.ids import RunId, ThreadId, parse_run_id, parse_thread_id
from roadworthy.domain.json import JsonObject, JsonValue
from roadworthy.domain.principal import Principal, Scope
from roadworthy.domain.review import Resolution, ToolReview
from roadworthy.domain.run import (
    CancelReason,
    DisconnectPolicy,
    Durability,
    InputKind,
    MultitaskStrategy,
    Run,
    RunRequest,
    RunStatus,
)
from roadworthy.domain.thread import ThreadRef
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.clock import Clock
from roadworthy.ports.dispatch import Dispatcher
from roadworthy.ports.event_log import EventLog
from roadworthy.ports.ledger import Ledger
from roadworthy.ports.queue import Accepted, IdempotencyRecord
from roadworthy.ports.runtime import AgentRuntime
from roadworthy.ports.store import RunStore
from roadworthy.services.admission import Admission
from roadworthy.services.agents import Agents

CONTINUABLE_CODES = frozenset({"limit_reached", "budget_exceeded", "price_unknown", "needs_review"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRun:
    """A new input for an agent. ``message`` (text or content blocks) is used unless ``has_input``."""

    agent: str | None
    thread_id: str | None
    message: JsonValue = None
    input: JsonValue = None
    has_input: bool
    context: JsonObject | None = None
    metadata: JsonObject = field(default_factory=dict[str, Any])
    on_disconnect: DisconnectPolicy = DisconnectPolicy.CANCEL
    multitask_strategy: MultitaskStrategy = MultitaskStrategy.ENQUEUE
    durability: Durability = Durability.ASYNC
    request_id: str
    idempotency: IdempotencyRecord | None = None


class Runs:
    """See the module."""

    def __init__(
        self,
        *,
        runtime: AgentRuntime,
        agents: Agents,
        admission: Admission,
        dispatcher: Dispatcher,
        store: RunStore,
        ledger: Ledger,
        log: EventLog,
        clock: Clock,
        new_id: Callable[[], str],
        timeout: timedelta,
    ) -> None:
        self._runtime = runtime
        self._agents = agents
        self._admission = admission
        self._dispatcher = dispatcher
        self._store = store
        self._ledger = ledger
        self._log = log
        self._clock = clock
        self._new_id = new_id
        self._timeout = timeout

    async def create(self, principal: Principal, command: CreateRun) -> Accepted:
        """Accept a run on an own thread, new or known.

        Raises:
            PermissionDenied, NotFound: the key may not, or there is no such agent.
            InvalidRequest: message, input, context or thread id do not fit.
            BudgetExceeded, Draining, QueueFull, RateLimited, ThreadBusy, AgentMismatch, IdempotencyMismatch,
                StorageUnavailable: nothing is stored.
        """
        self._admission.check(principal)
        agent = self._agents.pick(principal, command.agent)
        thread_id = ThreadId(self._new_id()) if command.thread_id is None else parse_thread_id(command.thread_id)
        request = RunRequest(
            kind=InputKind.INPUT,
            payload=self._payload(agent, command),
            context=command.context,
            metadata=command.metadata,
            durability=command.durability,
            on_disconnect=command.on_disconnect,
            multitask_strategy=command.multitask_strategy,
            message_length=message_length(command.message),
        )
        run = self._new_run(principal, agent, thread_id, request, command.request_id)
        return await self._admission.admit(run, idempotency=command.idempotency)

    async def get(self, principal: Principal, run_id: str) -> Run:
        """One own run.

        Raises:
            PermissionDenied: the key may not read runs.
            NotFound: there is no such run for this caller.
        """
        principal.require(Scope.RUNS_READ)
        return await self._find(principal, run_id)

    async def calls(self, principal: Principal, run_id: str) -> Sequence[ModelCall]:
        """The model calls of an own run, of all attempts, oldest first.

        Raises:
            PermissionDenied: the key may not read runs.
            NotFound: there is no such run for this caller.
        """
        run = await self.get(principal, run_id)
        return await self._ledger.of_run(run.owner, run.run_id)

    async def reviews(self, run: Run) -> Sequence[ToolReview]:
        """The tool calls of unknown outcome at which the run stopped, as far as they are open, oldest first."""
        if not run.in_review:
            return ()
        return [one for one in await self._runtime.open_reviews(_thread_of(run)) if one.run_id == run.run_id]

    async def resolve(self, principal: Principal, run_id: str, tool_call_id: str, resolution: Resolution) -> Run:
        """Say what became of a tool call of unknown outcome at which an own run stopped. ``resume`` goes on then.

        Raises:
            PermissionDenied: the key may not write runs.
            NotFound: there is no such run for this caller, or it asks for no review of this call.
            Conflict: the run did not stop for a review.
        """
        principal.require(Scope.RUNS_WRITE)
        run = await self._find(principal, run_id)
        if not run.in_review:
            raise Conflict("the run did not stop for a review")
        asked = {one.tool_call_id for one in await self.reviews(run)}
        if tool_call_id not in asked or not await self._runtime.resolve(_thread_of(run), tool_call_id, resolution):
            raise NotFound("the run asks for no review of this tool call")
        return run

    async def wait(self, run: Run) -> Run:
        """The run's final row.

        Raises:
            Draining: the server shuts down first; the run goes on after its restart, under the same id.
        """
        if run.status.final:
            return run
        ended = await self._log.wait(run)
        if ended is None:
            raise Draining("the server is shutting down; the run goes on after its restart")
        return ended

    async def cancel(self, principal: Principal, run_id: str) -> Run:
        """Stop an own run. A final run is returned as it is.

        Raises:
            PermissionDenied: the key may not write runs.
            NotFound: there is no such run for this caller.
        """
        principal.require(Scope.RUNS_WRITE)
        run = await self._find(principal, run_id)
        return run if run.status.final else await self._dispatcher.stop(run, CancelReason.REQUESTED)

    async def disconnected(self, run: Run) -> None:
        """The connection that created the run has ended; the run's own policy says what that means."""
        if run.request.on_disconnect is DisconnectPolicy.CANCEL:
            await self._dispatcher.stop(run, CancelReason.DISCONNECTED)

    async def resume(
        self,
        principal: Principal,
        run_id: str,
        value: JsonValue,
        *,
        request_id: str,
        idempotency: IdempotencyRecord | None,
        on_disconnect: DisconnectPolicy,
    ) -> Accepted:
        """Go on, in a new run: with ``value`` as the answer to an interrupt, or from where a limit stopped the run.

        Raises:
            NotFound: there is no such run for this caller.
            InvalidRequest: several questions are open and ``value`` does not say which ones it answers.
            Conflict: it does not wait for anything, a later run has changed the thread since, or reviews are open.
            PermissionDenied, BudgetExceeded, Draining, QueueFull, RateLimited, IdempotencyMismatch,
                StorageUnavailable: as for ``create``.
        """
        self._admission.check(principal)
        run = await self._find(principal, run_id)
        agent = self._agents.pick(principal, run.agent)
        kind = _resumption(run)
        _check_answers(run, value)
        _check_reviews(await self.reviews(run))
        request = RunRequest(
            kind=kind,
            payload=value if kind is InputKind.RESUME else None,
            context=run.request.context,
            metadata=run.request.metadata,
            durability=run.request.durability,
            on_disconnect=on_disconnect,
            multitask_strategy=MultitaskStrategy.REJECT,
        )
        new = self._new_run(principal, agent, run.thread_id, request, request_id)
        # An old question must not be answered: the new run is accepted only directly behind the one it resumes.
        return await self._admission.admit(replace(new, ord=run.ord + 1), idempotency=idempotency)

    def _payload(self, agent: Agent, command: CreateRun) -> JsonValue:
        payload = command.input
        if not command.has_input:
            payload = self._runtime.message_input(agent.name, command.message)
        self._runtime.check_input(agent.name, payload, command.context)
        return payload

    def _new_run(
        self, principal: Principal, agent: Agent, thread_id: ThreadId, request: RunRequest, request_id: str
    ) -> Run:
        now = self._clock.now()
        return Run(
            run_id=RunId(self._new_id()),
            owner=principal.owner,
            thread_id=thread_id,
            ord=0,
            agent=agent.name,
            request=request,
            request_id=request_id,
            key_id=principal.key_id,
            status=RunStatus.PENDING,
            created_at=now,
            deadline_at=now + self._timeout,
        )

    async def _find(self, principal: Principal, run_id: str) -> Run:
        parsed = parse_run_id(run_id)
        if parsed is None:
            raise NotFound("there is no such run")
        return await self._store.get(principal.owner, parsed)


def message_length(message: JsonValue) -> int:
    """Characters of text in a message: of the text itself, or of all text blocks together."""
    if isinstance(message, str):
        return len(message)
    if not isinstance(message, list | tuple):
        return 0
    texts = (block.get("text") for block in message if isinstance(block, dict))
    return sum(len(text) for text in texts if isinstance(text, str))


def _check_answers(run: Run, value: JsonValue) -> None:
    """An answer that fits no question must not use up the run that waits for it."""
    asked = {interrupt.id for interrupt in run.result.interrupts}
    if len(asked) < 2:  # noqa: PLR2004 -- one question takes any value
        return
    if not isinstance(value, Mapping) or not value or not asked.issuperset(value):
        ids = ", ".join(sorted(asked))
        raise InvalidRequest(f"several questions are open: value must be an object with ids of theirs as keys: {ids}")


def _check_reviews(reviews: Sequence[ToolReview]) -> None:
    if reviews:
        ids = ", ".join(one.tool_call_id for one in reviews)
        raise Conflict(f"say first what became of these tool calls: {ids}")


def _thread_of(run: Run) -> ThreadRef:
    return ThreadRef(owner=run.owner, thread_id=run.thread_id)


def _resumption(run: Run) -> InputKind:
    if run.status is RunStatus.INTERRUPTED:
        return InputKind.RESUME
    if run.status is RunStatus.ERROR and run.result.error is not None and run.result.error.code in CONTINUABLE_CODES:
        return InputKind.CONTINUE
    raise Conflict(
        f"the run is {run.status.value}; only an interrupted run, or one that a limit stopped, can be resumed"
    )
