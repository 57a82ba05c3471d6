"""One record for each run that ends, and what else the engine tells the operator. Adapter of ``ports.telemetry``.

Times are whole milliseconds: ``queue_ms`` from acceptance to the first start, ``duration_ms`` from that start to the
end, ``ttft_ms`` from acceptance to the first token. ``cost_usd`` is None when the price of a model call is not known,
``unpriced`` counts such calls; ``unjournalled_calls`` those that would be bought again after a crash. Texts of messages
are never written, only their length.
"""

import traceback
from datetime import datetime

import structlog

from roadworthy.domain.errors import BudgetExceeded, LimitExceeded, LimitReached
from roadworthy.domain.json import JsonValue
from roadworthy.domain.money import usd
from roadworthy.domain.run import Run, RunStatus
from roadworthy.domain.usage import ModelCall
from roadworthy.telemetry.redaction import mask_texts, texts_in

_TRACEBACK_MAX = 20_000


class RunLog:
    """See ``ports.telemetry``."""

    def __init__(self) -> None:
        self._run_log = structlog.get_logger("roadworthy.run")
        self._worker_log = structlog.get_logger("roadworthy.worker")

    def run_finished(self, run: Run) -> None:
        """Write ``run_finished`` with the run's outcome and cost."""
        failed = run.status in (RunStatus.ERROR, RunStatus.TIMEOUT)
        write = self._run_log.warning if failed else self._run_log.info
        write("run_finished", **outcome(run))

    def attempt_failed(self, run: Run, error: BaseException) -> None:
        """Write ``attempt_failed`` with the traceback; texts of the run's own request are masked in it.

        A limit that was reached is no failure: ``attempt_stopped`` says which one.
        """
        if isinstance(error, BudgetExceeded | LimitReached):
            self._run_log.info(
                "attempt_stopped", **_who(run), attempt=run.attempt, code=error.code, reason=error.message
            )
            return
        known = [*texts_in(run.request.payload), *texts_in(run.request.context)]
        self._run_log.error(
            "attempt_failed",
            **_who(run),
            attempt=run.attempt,
            error_type=type(error).__qualname__,
            exception=mask_texts(_traceback(error), known),
        )

    def model_call(self, call: ModelCall) -> None:
        """Not logged: ``run_finished`` has their sum."""

    def model_call_replayed(self, call: ModelCall) -> None:
        """Not logged: the run's usage event says so."""

    def refused(self, error: LimitExceeded) -> None:
        """Not logged here: the request's own record has its status."""

    def worker_note(self, event: str, **fields: str | float | bool | None) -> None:
        """Write ``event`` as it is. Money that runs out is the operator's business."""
        log = self._worker_log.warning if event == "budget_soft_limit" else self._worker_log.info
        log(event, **fields)


def outcome(run: Run) -> dict[str, JsonValue]:
    """The fields of a ``run_finished`` record, the same for every status. Values that never came to be are None."""
    usage = run.result.usage
    error = run.result.error
    return {
        **_who(run),
        "status": run.status.value,
        "code": error.code if error is not None else None,
        "attempt": run.attempt,
        "message_length": run.request.message_length,
        "queue_ms": _ms(run.created_at, run.started_at or run.finished_at),
        "duration_ms": _ms(run.started_at, run.finished_at) if run.started_at is not None else 0,
        "ttft_ms": _ms(run.created_at, run.result.first_token_at),
        "tool_calls": len(run.result.tool_calls),
        "model_calls": usage.model_calls,
        "input_tokens": usage.tokens.input,
        "output_tokens": usage.tokens.output,
        "estimated": usage.estimated,
        "cost_usd": None if usage.known_cost_nanos is None else usd(usage.known_cost_nanos),
        "unpriced": usage.unpriced,
        "unjournalled_calls": usage.unjournalled,
    }


def _who(run: Run) -> dict[str, JsonValue]:
    return {
        "request_id": run.request_id,
        "run_id": run.run_id,
        "thread_id": run.thread_id,
        "tenant": run.owner.tenant,
        "user": run.owner.user,
        "agent": run.agent,
    }


def _ms(since: datetime | None, until: datetime | None) -> int | None:
    if since is None or until is None:
        return None
    return max(0, round((until - since).total_seconds() * 1000))


def _traceback(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error)).rstrip()
    if len(text) <= _TRACEBACK_MAX:
        return text
    # The end says what happened, the beginning where it came from.
    half = _TRACEBACK_MAX // 2
    return f"{text[:half]}\n[cut]\n{text[-half:]}"
