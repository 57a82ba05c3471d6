"""A run: one execution of an agent on a thread, with its status machine.

``services/runs.py`` creates it, ``engine`` moves it, ``storage`` keeps it with a compare-and-set on (status, attempt).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from roadworthy.domain.errors import InvalidTransition, NeedsReview
from roadworthy.domain.ids import AgentName, KeyId, RunId, ThreadId
from roadworthy.domain.json import JsonObject, JsonValue
from roadworthy.domain.principal import Owner
from roadworthy.domain.usage import Usage


class RunStatus(StrEnum):
    """Where a run stands. All but the first two are final."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def final(self) -> bool:
        """Whether nothing more happens to the run."""
        return self not in (RunStatus.PENDING, RunStatus.RUNNING)


TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = {
    RunStatus.PENDING: frozenset({RunStatus.RUNNING, RunStatus.CANCELLED, RunStatus.TIMEOUT, RunStatus.ERROR}),
    RunStatus.RUNNING: frozenset(
        {
            RunStatus.PENDING,
            RunStatus.SUCCESS,
            RunStatus.ERROR,
            RunStatus.TIMEOUT,
            RunStatus.CANCELLED,
            RunStatus.INTERRUPTED,
        }
    ),
    RunStatus.SUCCESS: frozenset(),
    RunStatus.ERROR: frozenset(),
    RunStatus.TIMEOUT: frozenset(),
    RunStatus.CANCELLED: frozenset(),
    RunStatus.INTERRUPTED: frozenset(),
}


class MultitaskStrategy(StrEnum):
    """What a new run does when its thread is busy."""

    ENQUEUE = "enqueue"
    REJECT = "reject"
    INTERRUPT = "interrupt"
    ROLLBACK = "rollback"


class DisconnectPolicy(StrEnum):
    """What the end of the creating request's connection does to the run."""

    CANCEL = "cancel"
    CONTINUE = "continue"


class Durability(StrEnum):
    """When a checkpoint is written: beside the next step, or before it."""

    ASYNC = "async"
    SYNC = "sync"


class CancelReason(StrEnum):
    """Why a run was asked to stop. Stored with the request; becomes the error code of the cancelled run."""

    REQUESTED = "cancelled"
    DISCONNECTED = "disconnected"
    SUPERSEDED = "superseded"


class InputKind(StrEnum):
    """What the runtime is given: a new input, the answer to an interrupt, or nothing (go on where it stopped)."""

    INPUT = "input"
    RESUME = "resume"
    CONTINUE = "continue"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What a caller asks for, in no dialect's words. Stored with the run, so that any worker can start it over.

    ``payload``: for INPUT the agent's input state (a dialect has already turned a message into it), for RESUME the
    answer, for CONTINUE None. ``message_length``: characters of the message's text, for the log.
    """

    kind: InputKind
    payload: JsonValue
    context: JsonObject | None = None
    metadata: JsonObject = field(default_factory=dict[str, Any])
    durability: Durability = Durability.ASYNC
    on_disconnect: DisconnectPolicy = DisconnectPolicy.CANCEL
    multitask_strategy: MultitaskStrategy = MultitaskStrategy.ENQUEUE
    message_length: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunError:
    """Why a run did not succeed. ``message`` is safe to show."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One tool call of this run. ``result`` and ``error`` are both None while it runs or when it was cut off."""

    id: str
    name: str
    args: JsonValue
    result: JsonValue = None
    error: str | None = None
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupt:
    """A question that the graph asks a human. ``id`` may be used as a key in the answer when several are open."""

    id: str
    value: JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run leaves behind, whatever its status: partial results of a failed run are kept too."""

    response: str = ""
    output: JsonValue = None
    structured_response: JsonValue = None
    tool_calls: Sequence[ToolCall] = ()
    interrupts: Sequence[Interrupt] = ()
    usage: Usage = Usage()
    error: RunError | None = None
    first_token_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The row that is the truth about a run.

    ``ord`` numbers the thread's runs from 1. ``attempt`` is 0 until the first claim, then the fencing token.
    ``losses`` counts lost leases in a row without a new checkpoint; ``progress_mark`` is the runtime's marker of the
    thread's last checkpoint at the latest loss. ``resume_mark`` is the runtime's note of which questions were
    open before this run answered any (only for RESUME). ``started_at`` is the first claim's time.
    """

    run_id: RunId
    owner: Owner
    thread_id: ThreadId
    ord: int
    agent: AgentName
    request: RunRequest
    request_id: str
    key_id: KeyId | None
    status: RunStatus
    attempt: int = 0
    losses: int = 0
    progress_mark: str | None = None
    resume_mark: str | None = None
    rollback_of: RunId | None = None
    cancel_requested: CancelReason | None = None
    created_at: datetime
    deadline_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    result: RunResult = RunResult()

    @property
    def in_review(self) -> bool:
        """Whether it stopped because nobody knows what became of a tool call."""
        return self.result.error is not None and self.result.error.code == NeedsReview.code

    def moved(self, status: RunStatus) -> "Run":
        """The run in another status.

        Raises:
            InvalidTransition: the status machine has no such edge.
        """
        if status not in TRANSITIONS[self.status]:
            raise InvalidTransition(f"a run cannot go from {self.status.value} to {status.value}")
        return replace(self, status=status)
