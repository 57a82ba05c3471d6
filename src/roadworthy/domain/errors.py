"""Everything that can go wrong, as one tree with stable codes.

    RoadworthyError(code, retryable)
      InvalidRequest  MalformedBody · BodyTooLarge · UnsupportedMediaType
      Unauthenticated · PermissionDenied · NotFound
      Conflict        InvalidTransition · ThreadBusy · AgentMismatch · IdempotencyMismatch
      LimitExceeded   RateLimited(retry_after) · BudgetExceeded (PriceUnknown) · QueueFull(retry_after)
      AgentError      AgentFailed · RunTimedOut · RunCancelled · LimitReached · NeedsReview · Poisoned
                      ProviderUnavailable (CircuitOpen)
      Unavailable     StorageUnavailable · StorageFull · Draining
      LeaseLost       (engine only)
      ConfigError     (start-up and CLI only)

No HTTP status lives here: each dialect has one table, looked up along the MRO. ``message`` is safe to show to a client.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from roadworthy.domain.rate_status import RateStatus


class RoadworthyError(Exception):
    """Root of the tree. ``code`` is stable; ``retryable`` says that the same request may succeed later."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(RoadworthyError):
    """The caller sent something that can never work. ``field`` names the part at fault, if one is."""

    code = "invalid_request"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class MalformedBody(InvalidRequest):
    """The body is not the JSON it claims to be."""

    code = "malformed_body"


class BodyTooLarge(InvalidRequest):
    """The body is larger than the server accepts."""

    code = "body_too_large"


class UnsupportedMediaType(InvalidRequest):
    """The body's content type is not JSON."""

    code = "unsupported_media_type"


class Unauthenticated(RoadworthyError):
    """No key, or one that does not exist, was revoked or has expired."""

    code = "unauthenticated"


class PermissionDenied(RoadworthyError):
    """The key lacks the scope, or may not use this agent."""

    code = "permission_denied"


class NotFound(RoadworthyError):
    """It does not exist, or belongs to someone else: the two cannot be told apart."""

    code = "not_found"


class Conflict(RoadworthyError):
    """The request does not fit the present state."""

    code = "conflict"


class InvalidTransition(Conflict):
    """A run's status does not allow the change."""

    code = "invalid_transition"


class ThreadBusy(Conflict):
    """The thread has an unfinished run and the policy is ``reject``."""

    code = "thread_busy"


class AgentMismatch(Conflict):
    """The thread belongs to another agent."""

    code = "agent_mismatch"


class IdempotencyMismatch(Conflict):
    """The idempotency key was used with another body."""

    code = "idempotency_mismatch"


class LimitExceeded(RoadworthyError):
    """A limit on load, rate or money. ``retry_after`` is a hint, None when waiting does not help."""

    code = "limit_exceeded"
    retryable = True

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(LimitExceeded):
    """The caller's own limit. ``rates``: how the caller's limits stand."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after: timedelta | None = None, rates: Sequence[RateStatus] = ()) -> None:
        super().__init__(message, retry_after=retry_after)
        self.rates = rates


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentBudget:
    """What is spent, in nano-USD. ``resets_at`` None: it does not begin anew by itself."""

    scope: str
    window: str
    allowed_nanos: int
    spent_nanos: int
    resets_at: datetime | None


class BudgetExceeded(LimitExceeded):
    """Nothing is left in a budget that applies to the caller. ``spent`` says in which one."""

    code = "budget_exceeded"
    retryable = False

    def __init__(self, message: str, *, spent: SpentBudget | None = None) -> None:
        super().__init__(message)
        self.spent = spent


class PriceUnknown(BudgetExceeded):
    """A budget applies to a model whose price nobody knows."""

    code = "price_unknown"


class QueueFull(LimitExceeded):
    """The server's waiting line is full."""

    code = "queue_full"


class AgentError(RoadworthyError):
    """A run ended without an answer. The code is stored with the run."""

    code = "agent_error"


class AgentFailed(AgentError):
    """The agent's own code raised."""

    code = "agent_failed"


class RunTimedOut(AgentError):
    """The run's deadline passed, or it made no progress for too long."""

    code = "timeout"


class RunCancelled(AgentError):
    """Someone stopped the run."""

    code = "cancelled"


class LimitReached(AgentError):
    """The run used up its steps, model calls or tool calls."""

    code = "limit_reached"


class ProviderUnavailable(AgentError):
    """The model provider failed, answered overload, or cut its stream."""

    code = "provider_unavailable"
    retryable = True


class CircuitOpen(ProviderUnavailable):
    """The model provider has failed so often lately that it was not asked. ``retry_after``: when it may be."""

    code = "circuit_open"

    def __init__(self, message: str, *, retry_after: timedelta = timedelta(seconds=5)) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NeedsReview(AgentError):
    """A tool that must run only once has an unknown outcome."""

    code = "needs_review"


class Poisoned(AgentError):
    """The run took its worker down too often without progress."""

    code = "poisoned"


class Unavailable(RoadworthyError):
    """The server cannot serve now. ``retry_after`` says when to try again."""

    code = "unavailable"
    retryable = True

    def __init__(self, message: str, *, retry_after: timedelta = timedelta(seconds=5)) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StorageUnavailable(Unavailable):
    """The database does not answer or stays locked."""

    code = "storage"


class StorageFull(StorageUnavailable):
    """The disk is full."""

    code = "storage_full"


class Draining(Unavailable):
    """The server is shutting down; another replica, or this one after its restart, will answer."""

    code = "draining"


class LeaseLost(RoadworthyError):
    """The worker no longer owns the attempt: it may write nothing more. Never leaves the engine."""

    code = "lease_lost"


class ConfigError(RoadworthyError):
    """Settings, a target or a file are wrong in a way that the operator must mend. Ends the CLI with its message."""

    code = "config"
