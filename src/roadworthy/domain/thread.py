"""A thread: the durable context that runs append to. Bound to the agent of its first run."""

from dataclasses import dataclass
from datetime import datetime

from roadworthy.domain.ids import AgentName, RunId, ThreadId
from roadworthy.domain.json import JsonObject, JsonValue
from roadworthy.domain.principal import Owner

MAX_CONTENT_BLOCKS = 100  # of one message


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadRef:
    """Full name of a thread: two users' ``default`` are two threads."""

    owner: Owner
    thread_id: ThreadId


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """``active_run`` is the one run that may touch the thread's state now."""

    ref: ThreadRef
    agent: AgentName
    next_ord: int
    active_run: RunId | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a thread as clients see it. ``role``: user, assistant, system or tool.

    ``content`` is text or the provider-neutral content blocks; ``tool_calls`` are the assistant's requests as
    ``{id, name, args}``; ``tool_call_id`` is set for role tool. ``stop_reason``: why the assistant stopped, in its
    provider's word (``end_turn``, ``max_tokens``, ``refusal``, …), when the provider gave one.
    """

    id: str
    role: str
    content: JsonValue
    tool_calls: tuple[JsonObject, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    stop_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadState:
    """What the runtime remembers of a thread: its messages (empty without a message channel) and its whole state."""

    messages: tuple[Message, ...]
    values: JsonValue
