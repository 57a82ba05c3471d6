"""Domain values ↔ rows of ``tables.py``. Used by every repository; knows no SQL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from roadworthy.domain.budget import RESERVED_PRICE, InFlight, Reservation
from roadworthy.domain.ids import AgentName, KeyId, RunId, TenantId, ThreadId, UserId
from roadworthy.domain.principal import ApiKey, Owner, Scope
from roadworthy.domain.run import CancelReason, Run, RunResult, RunStatus
from roadworthy.domain.thread import Thread, ThreadRef
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.storage import json_text
from roadworthy.storage.documents import read_list, request_from, request_text, result_from, result_text
from roadworthy.storage.transaction import Param, Row

# The key of a row in ``budget_periods``: budget, subject, beginning in microseconds.
PeriodKey: TypeAlias = tuple[str, str, int]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LostCall:
    """A call whose worker died, with what is needed to record and settle it. ``origin``: see ``origin_params``."""

    origin: Mapping[str, Param]
    call: ModelCall
    nanos: int
    periods: Sequence[PeriodKey]


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware moment."""
    return (moment - _EPOCH) // _MICROSECOND


def micros_or_none(moment: datetime | None) -> int | None:
    """The same for a moment that may be missing."""
    return None if moment is None else micros(moment)


def moment(stored: int) -> datetime:
    """The aware UTC moment of stored microseconds."""
    return _EPOCH + timedelta(microseconds=stored)


def moment_or_none(stored: int | None) -> datetime | None:
    """The same for a column that may be null."""
    return None if stored is None else moment(stored)


def run_params(run: Run, *, worker: str | None, lease: int | None = None) -> Mapping[str, Param]:
    """Parameters of ``INSERT_RUN``. ``lease``: how long the worker may execute it, in microseconds."""
    return {
        "run_id": run.run_id,
        "tenant": run.owner.tenant,
        "owner": run.owner.user,
        "thread_id": run.thread_id,
        "ord": run.ord,
        "agent": run.agent,
        "status": run.status.value,
        "attempt": run.attempt,
        "losses": run.losses,
        "progress_mark": run.progress_mark,
        "resume_mark": run.resume_mark,
        "rollback_of": run.rollback_of,
        "cancel_requested": None if run.cancel_requested is None else run.cancel_requested.value,
        "request": request_text(run.request),
        "result": result_text(run.result) if run.status.final else None,
        "request_id": run.request_id,
        "key_id": run.key_id,
        "worker": worker,
        "lease": lease,
        "created_at": micros(run.created_at),
        "deadline_at": micros(run.deadline_at),
        "started_at": micros_or_none(run.started_at),
        "finished_at": micros_or_none(run.finished_at),
    }


def run_from(row: Row, *, result: RunResult | None = None) -> Run:
    """A run from all columns of its table. ``result``: the row's result when it is known, which saves parsing it."""
    (
        _seq,
        run_id,
        tenant,
        user,
        thread_id,
        ord_,
        agent,
        status,
        attempt,
        losses,
        progress_mark,
        resume_mark,
        rollback_of,
        cancel_requested,
        request,
        stored_result,
        request_id,
        key_id,
        _worker,
        created_at,
        deadline_at,
        started_at,
        finished_at,
        _lease_until,
    ) = row
    return Run(
        run_id=RunId(run_id),
        owner=Owner(tenant=TenantId(tenant), user=UserId(user)),
        thread_id=ThreadId(thread_id),
        ord=ord_,
        agent=AgentName(agent),
        request=request_from(request),
        request_id=request_id,
        key_id=None if key_id is None else KeyId(key_id),
        status=RunStatus(status),
        attempt=attempt,
        losses=losses,
        progress_mark=progress_mark,
        resume_mark=resume_mark,
        rollback_of=None if rollback_of is None else RunId(rollback_of),
        cancel_requested=None if cancel_requested is None else CancelReason(cancel_requested),
        created_at=moment(created_at),
        deadline_at=moment(deadline_at),
        started_at=moment_or_none(started_at),
        finished_at=moment_or_none(finished_at),
        result=result_from(stored_result) if result is None else result,
    )


def thread_from(row: Row) -> Thread:
    """A thread from all columns of its table."""
    tenant, user, thread_id, agent, next_ord, active_run, _pending, created_at, updated_at, _outputs_from = row
    return Thread(
        ref=ref_from((tenant, user, thread_id)),
        agent=AgentName(agent),
        next_ord=next_ord,
        active_run=None if active_run is None else RunId(active_run),
        created_at=moment(created_at),
        updated_at=moment(updated_at),
    )


def ref_from(row: Row) -> ThreadRef:
    """A thread's name from the three columns of its key."""
    tenant, user, thread_id = row
    return ThreadRef(owner=Owner(tenant=TenantId(tenant), user=UserId(user)), thread_id=ThreadId(thread_id))


def key_params(key: ApiKey) -> Mapping[str, Param]:
    """Parameters of ``INSERT_KEY``. Scopes and agent names hold no spaces, so they are stored as words."""
    return {
        "key_id": key.key_id,
        "tenant": key.owner.tenant,
        "owner": key.owner.user,
        "name": key.name,
        "digest": key.digest,
        "scopes": " ".join(sorted(key.scopes)),
        "agents": None if key.agents is None else " ".join(sorted(key.agents)),
        "created_at": micros(key.created_at),
        "expires_at": micros_or_none(key.expires_at),
        "revoked_at": micros_or_none(key.revoked_at),
        "last_used_at": micros_or_none(key.last_used_at),
        "replaced_at": micros_or_none(key.replaced_at),
    }


def key_from(row: Row) -> ApiKey:
    """A key from all columns of its table."""
    key_id, tenant, user, name, digest, scopes, agents, created_at, *ends = row
    expires_at, revoked_at, last_used_at, replaced_at = ends
    return ApiKey(
        key_id=KeyId(key_id),
        owner=Owner(tenant=TenantId(tenant), user=UserId(user)),
        name=name,
        digest=bytes(digest),
        scopes=frozenset(Scope(word) for word in scopes.split()),
        agents=None if agents is None else frozenset(AgentName(word) for word in agents.split()),
        created_at=moment(created_at),
        expires_at=moment_or_none(expires_at),
        revoked_at=moment_or_none(revoked_at),
        last_used_at=moment_or_none(last_used_at),
        replaced_at=moment_or_none(replaced_at),
    )


def origin_params(run: Run) -> Mapping[str, Param]:
    """Whose a model call is, for the ledger and for reservations: it must be known without the run's row."""
    return {
        "run_id": run.run_id,
        "tenant": run.owner.tenant,
        "owner": run.owner.user,
        "key_id": run.key_id,
        "thread_id": run.thread_id,
        "agent": run.agent,
        "attempt": run.attempt,
    }


def call_params(origin: Mapping[str, Param], call: ModelCall) -> Mapping[str, Param]:
    """Parameters of ``INSERT_CALL``, in the order of the table's columns. ``origin``: see ``origin_params``."""
    return {
        "run_id": origin["run_id"],
        "call_id": call.call_id,
        "tenant": origin["tenant"],
        "owner": origin["owner"],
        "key_id": origin["key_id"],
        "thread_id": origin["thread_id"],
        "agent": origin["agent"],
        "attempt": origin["attempt"],
        "node": call.node,
        "provider": call.provider,
        "model": call.model,
        "input_tokens": call.tokens.input,
        "output_tokens": call.tokens.output,
        "cache_read_tokens": call.tokens.cache_read,
        "cache_write_tokens": call.tokens.cache_write,
        "cache_write_1h_tokens": call.tokens.cache_write_1h,
        "reasoning_tokens": call.tokens.reasoning,
        "estimated": int(call.estimated),
        "outcome": call.outcome,
        "cost_nanos": call.cost_nanos,
        "price_version": call.price_version,
        "started_at": micros(call.started_at),
        "finished_at": micros(call.finished_at),
    }


def call_row(run: Run, call: ModelCall) -> tuple[Param, ...]:
    """A row of the ledger, columns in the table's order."""
    return tuple(call_params(origin_params(run), call).values())


def call_from(row: Row) -> ModelCall:
    """A model call from the columns that ``CALLS_OF_RUN`` selects."""
    call_id, node, provider, model, *tokens, estimated, outcome, cost_nanos, price_version, started_at, finished_at = (
        row
    )
    input_, output, cache_read, cache_write, cache_write_1h, reasoning = tokens
    return ModelCall(
        call_id=call_id,
        node=node,
        provider=provider,
        model=model,
        tokens=Tokens(
            input=input_,
            output=output,
            cache_read=cache_read,
            cache_write=cache_write,
            cache_write_1h=cache_write_1h,
            reasoning=reasoning,
        ),
        estimated=bool(estimated),
        outcome=outcome,
        cost_nanos=cost_nanos,
        price_version=price_version,
        started_at=moment(started_at),
        finished_at=moment(finished_at),
    )


def reservation_params(run: Run, reservation: Reservation, periods: Sequence[PeriodKey]) -> Mapping[str, Param]:
    """Parameters of ``INSERT_RESERVATION``. ``periods``: the keys of those that hold its amount."""
    return {
        **origin_params(run),
        "call_id": reservation.call_id,
        "node": reservation.node,
        "provider": reservation.provider,
        "model": reservation.model,
        "input_tokens": reservation.input_tokens,
        "output_tokens": reservation.output_tokens,
        "nanos": reservation.nanos,
        "periods": json_text.dumps(periods),
        "started_at": micros(reservation.started_at),
    }


def in_flight_from(row: Row) -> InFlight:
    """A call from the columns that ``EARLIER`` selects."""
    attempt, call_id, node, provider, model, input_tokens, output_tokens, nanos, started_at = row
    return InFlight(
        attempt=attempt,
        reservation=Reservation(
            call_id=call_id,
            node=node,
            provider=provider,
            model=model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            nanos=nanos,
            started_at=moment(started_at),
        ),
    )


def held_from(row: Row) -> tuple[int, Sequence[PeriodKey]]:
    """What a reservation holds, in nano-USD, and the keys of the periods where, from these two columns."""
    nanos, periods = row
    return nanos, [(budget_id, subject, starts_at) for budget_id, subject, starts_at in read_list(periods)]


def lost_from(row: Row) -> LostCall:
    """What a reservation, given by all columns of its table, leaves behind when its worker dies."""
    run_id, call_id, tenant, owner, key_id, thread_id, agent, attempt, *call, nanos, periods, started_at = row
    node, provider, model, input_tokens, output_tokens = call
    _nanos, keys = held_from((nanos, periods))
    return LostCall(
        origin={
            "run_id": run_id,
            "tenant": tenant,
            "owner": owner,
            "key_id": key_id,
            "thread_id": thread_id,
            "agent": agent,
            "attempt": attempt,
        },
        call=ModelCall(
            call_id=call_id,
            node=node,
            provider=provider,
            model=model,
            tokens=Tokens(input=input_tokens, output=output_tokens),
            estimated=True,
            outcome="lost",
            cost_nanos=nanos,
            price_version=RESERVED_PRICE,
            started_at=moment(started_at),
            finished_at=moment(started_at),
        ),
        nanos=nanos,
        periods=keys,
    )
