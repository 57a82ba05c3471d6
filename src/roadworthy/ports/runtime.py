"""What the engine and the services need from an agent runtime. Adapters: ``runtimes/langgraph``, ``runtimes/scripted``.

The runtime knows graphs, checkpoints and models; it knows nothing of queues, HTTP or SQL of ours.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, TypeAlias

from roadworthy.domain.agent import Agent
from roadworthy.domain.event import (
    ContentDelta,
    ContentRetracted,
    CustomData,
    InterruptRaised,
    ToolCallFinished,
    ToolCallStarted,
)
from roadworthy.domain.ids import AgentName
from roadworthy.domain.json import JsonObject, JsonValue
from roadworthy.domain.principal import Owner
from roadworthy.domain.review import Resolution, ToolReview
from roadworthy.domain.run import Run, ToolCall
from roadworthy.domain.thread import ThreadRef, ThreadState
from roadworthy.domain.usage import ModelCall

# How long a call waits for money that calls in flight hold.
PATIENCE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """Upper bounds of one run. ``steps`` is the larger bound; an agent's own smaller recursion limit wins."""

    steps: int
    model_calls: int
    tool_calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The graph finished a step or a model began to answer: the run is alive. Shown to nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReplayed:
    """A model call that an earlier attempt made, and paid: its response came from the journal. ``call`` as it was."""

    call: ModelCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The graph reached its end. ``response`` is the text of the run's last assistant message, whatever its blocks."""

    response: str
    output: JsonValue
    structured_response: JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """The graph waits for a human; an InterruptRaised came before. ``output`` is the state so far."""

    response: str
    output: JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """The graph stopped between two steps because ``Execution.drain`` was called; its checkpoint is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCall:
    """A model call that is about to be made. ``input_tokens`` is an estimate; ``max_output_tokens`` None: not said."""

    call_id: str
    node: str
    provider: str
    model: str
    input_tokens: int
    max_output_tokens: int | None


class Spending(Protocol):
    """What the runtime asks before each model call. Adapter: ``engine/spending.py``.

    Belongs to the engine's event loop; ``applies``, ``admit`` and ``ended`` are safe from any thread.
    """

    @property
    def applies(self) -> bool:
        """Whether a budget fits the run, as far as is known without asking."""
        ...

    async def budgets_fit(self) -> bool:
        """Whether a budget fits the run now, two seconds ago at most. Without one there is nothing to reserve."""
        ...

    async def reserve(self, call: PlannedCall, *, patience: timedelta | None = PATIENCE) -> None:
        """Hold money for a call, waiting while calls in flight hold what is left.

        ``patience`` None: hold nothing rather than wait, for whoever may be waited for by what holds the rest.

        Raises:
            BudgetExceeded: nothing is left, or others hold it for longer than ``patience``; the call must not be made.
            PriceUnknown: a budget with a limit applies, and nobody knows what the model costs.
            LeaseLost: the attempt has lost its run; the call must not be made.
            StorageUnavailable: the ledger does not answer; the call must not be made.
        """
        ...

    def admit(self, call: PlannedCall) -> bool:
        """Whether a call may be made, as far as is known without asking; for calls that cannot wait for an answer.

        False: calls in flight are estimated to use up what is left; one of them may have ended when it is asked again.

        Raises:
            BudgetExceeded, PriceUnknown: as ``reserve``.
        """
        ...

    def ended(self, call: ModelCall) -> None:
        """Told as soon as a call has ended, for ``admit``; it is told among the events as well."""
        ...


Outcome: TypeAlias = Completed | Paused | Drained
RuntimeEvent: TypeAlias = (
    ContentDelta
    | ContentRetracted
    | ToolCallStarted
    | ToolCallFinished
    | CustomData
    | ModelCall
    | ModelReplayed
    | InterruptRaised
    | Progress
    | Outcome
)


class Execution(Protocol):
    """One attempt of one run, not yet started or under way."""

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """Run the graph. Yields events in order; the last one is an Outcome. Cancel by cancelling the consuming task.

        ``repr`` and messages of the errors below are safe to show; their ``__cause__`` is not.

        Raises:
            AgentFailed: the agent's code raised, its input does not fit its state, or it is not served any more.
            ProviderUnavailable: a model call failed for the provider's reasons and nothing in the agent recovered it.
            LimitReached: a cap of ``Caps`` was hit; the state up to the last step is kept.
            NeedsReview: a tool that must run only once has an unknown outcome; ``open_reviews`` names it.
            BudgetExceeded: ``Spending`` refused a call; the state up to the last step is kept.
            StorageUnavailable: a checkpoint could not be written.
            LeaseLost: ``fence`` was raised.
        """
        ...

    def drain(self) -> None:
        """Ask the graph to stop before its next step. Safe from any thread, idempotent."""
        ...

    def fence(self) -> None:
        """Forbid every further checkpoint write of this attempt. Safe from any thread, idempotent."""
        ...

    def open_calls(self) -> Sequence[ModelCall]:
        """Model calls that have not ended, with estimated tokens and outcome ``cancelled``: what an attempt
        that is being given up still owes to the ledger. To be read after ``events`` has ended.
        """
        ...

    async def billed(self) -> None:
        """The run has ended for good, and each of its calls is on record: what was kept for whoever would have had to
        bill them may go.
        """
        ...

    async def settled(self) -> None:
        """Wait until the work has really ended: threads in which sync nodes and tools of this attempt run included."""
        ...

    @property
    def settled_now(self) -> bool:
        """Whether ``settled`` would return at once."""
        ...


class AgentRuntime(Protocol):
    """Every agent of the process, built once at start."""

    def agents(self) -> Sequence[Agent]:
        """All agents; the first is the default."""
        ...

    def find_agent(self, name: AgentName) -> Agent | None:
        """One agent by name, or None."""
        ...

    def message_input(self, agent: AgentName, content: JsonValue) -> JsonObject:
        """The agent's input state for one user message. ``content``: text, or a list of LangChain content blocks.

        Raises:
            InvalidRequest: the agent has no message channel, or a block is malformed.
        """
        ...

    def check_input(self, agent: AgentName, payload: JsonValue, context: JsonObject | None) -> None:
        """Check an input state and a context against the agent's schemas before anything is stored.

        Raises:
            InvalidRequest: what does not fit, and where.
        """
        ...

    def execution(
        self,
        run: Run,
        *,
        caps: Caps,
        first_on_thread: bool,
        spending: Spending | None = None,
        told: Collection[str] = (),
    ) -> AbstractAsyncContextManager[Execution]:
        """Prepare the attempt ``run.attempt`` of ``run``. Leaving the context frees what the attempt held.

        ``first_on_thread``: no earlier run can have left state (a hint that saves a read). ``spending``: to be asked
        before every model call; None when there can be no budget. ``told``: ids of messages that earlier attempts have
        shown and that survive; the others of the run that the state holds are shown again.
        """
        ...

    async def resume_mark(self, run: Run) -> str | None:
        """For a RESUME run, before its first attempt: an opaque note that tells later attempts whether the answer
        was already consumed. None for other runs. Stored by the engine as ``Run.resume_mark``.
        """
        ...

    async def surviving(self, run: Run, shown: Mapping[str, str]) -> Collection[str]:
        """Which of the messages that earlier attempts of ``run`` streamed are in the state that the next one goes on
        from, and were shown to their end. ``shown``: text by message id, as far as it was stored. The text of the
        others is void: it was cut off, or the step that made it will be run again.
        """
        ...

    async def answered_calls(self, run: Run) -> Sequence[ModelCall]:
        """Complete model calls of earlier attempts of ``run``, as far as they are kept: their worker may have died
        before it told anybody of them. Until ``Execution.billed`` no call goes whose answer was stored.
        """
        ...

    async def finished_tools(self, run: Run) -> Sequence[ToolCall]:
        """Tool calls of earlier attempts of ``run`` that have ended, as far as they are kept, in the order of their
        beginnings: their worker may have died before it told anybody of them.
        """
        ...

    async def progress_mark(self, run: Run) -> str | None:
        """Opaque marker of the thread's latest checkpoint; equal marks mean no progress in between."""
        ...

    async def thread_state(self, agent: AgentName, ref: ThreadRef) -> ThreadState:
        """Messages and state of a thread as of its latest checkpoint.

        Empty when there is none, or when the agent, which alone can read it, is not served any more.

        Raises:
            AgentFailed: the agent's code, or LangGraph on its behalf, cannot read this state.
            StorageUnavailable: the database of checkpoints does not answer.
        """
        ...

    async def open_reviews(self, ref: ThreadRef) -> Sequence[ToolReview]:
        """Tool calls of a thread whose outcome is unknown, oldest first."""
        ...

    async def resolve(self, ref: ThreadRef, tool_call_id: str, resolution: Resolution) -> bool:
        """Say what became of such a call, for the run that resumes. False when there is no such call."""
        ...

    async def prune_thread(self, ref: ThreadRef, *, keep: int) -> int:
        """Delete checkpoints that nothing needs any more: all but the latest ``keep`` of the root graph, those that
        tell the latest run from the one before, and what open interrupts stand on. Returns how many went.

        Only for threads without a run under way.

        Raises:
            StorageUnavailable: SQLite failed: at this thread's rows, or altogether, which ``ready`` tells apart.
        """
        ...

    async def export_items(self, owner: Owner) -> Sequence[JsonObject]:
        """What agents keep of a user in their store: ``{namespace, key, value, created_at, updated_at}`` each."""
        ...

    async def erase_items(self, owner: Owner) -> int:
        """Delete those. Returns how many."""
        ...

    async def erase_thread(self, ref: ThreadRef) -> None:
        """Delete every checkpoint of a thread. Idempotent."""
        ...

    async def ready(self) -> str | None:
        """None when checkpoints can be read and written; else what is wrong."""
        ...
