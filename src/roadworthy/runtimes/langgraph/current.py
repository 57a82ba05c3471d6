"""What the running attempt is, for code that LangGraph calls without telling: saver, store, executor, tool guards.

``run`` enters a scope in the attempt's own task; LangGraph copies the context into every node, tool and thread.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from langgraph.checkpoint.base import CheckpointTuple

from roadworthy.domain.errors import LeaseLost
from roadworthy.domain.ids import RunId
from roadworthy.domain.principal import Owner
from roadworthy.runtimes.langgraph.journal_place import CheckpointWatch
from roadworthy.runtimes.langgraph.threads import WorkTracker
from roadworthy.runtimes.langgraph.tool_events import ToolEvents
from roadworthy.runtimes.langgraph.tool_journal import ToolJournal


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What is known of a thread's latest root checkpoint: None is that there is none."""

    thread: str
    latest: CheckpointTuple | None


class Fence:
    """Whether an attempt may still write. Apart from its scope, for those whom the scope knows: they would hold it."""

    __slots__ = ("up",)

    def __init__(self) -> None:
        self.up = False

    def check(self) -> None:
        """Call right before a write.

        Raises:
            LeaseLost: the fence is up.
        """
        if self.up:
            raise LeaseLost("the attempt lost its lease and may not write any more")


class AttemptScope:
    """One attempt, as seen from inside the graph. ``fence`` may be called from any thread.

    ``ahead`` is the thread's latest root checkpoint, read before LangGraph asks for it, and handed over once.
    ``tool_journal`` is there once the attempt knows its agent.
    ``watch`` is told by the checkpointer what it reads and stores.
    """

    __slots__ = ("_fence", "ahead", "attempt", "owner", "run_id", "tool_journal", "tools", "watch", "work")

    def __init__(
        self,
        *,
        owner: Owner,
        run_id: RunId,
        attempt: int,
        tools: ToolEvents,
        work: WorkTracker,
        watch: CheckpointWatch,
    ) -> None:
        self.owner = owner
        self.run_id = run_id
        self.attempt = attempt
        self.tools = tools
        self.work = work
        self.watch = watch
        self.tool_journal: ToolJournal | None = None
        self.ahead: Ahead | None = None
        self._fence = Fence()

    @property
    def fenced(self) -> bool:
        """Whether the attempt may write nothing more."""
        return self._fence.up

    def fence(self) -> None:
        """Forbid all further writes."""
        self._fence.up = True

    @property
    def check_fence(self) -> Callable[[], None]:
        """See ``Fence.check``."""
        return self._fence.check


current_attempt: ContextVar[AttemptScope | None] = ContextVar("roadworthy_attempt", default=None)
inside_tool: ContextVar[bool] = ContextVar("roadworthy_inside_tool", default=False)
