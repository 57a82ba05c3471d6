"""``roadworthy runs``: what an operator asks about runs, how one is stopped or reviewed, beside a running server.

``cancel`` notes the request in the database; the server that executes the run acts on it within a second. ``resolve``
writes beside the checkpoints, where the run that resumes finds it.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from roadworthy.cli.data import agents_state, open_data
from roadworthy.cli.environment import load_settings
from roadworthy.cli.output import hint, iso, moment, say, say_json, say_table
from roadworthy.domain.errors import Conflict, InvalidRequest, NotFound
from roadworthy.domain.ids import parse_run_id, parse_tenant_id
from roadworthy.domain.money import usd, usd_text
from roadworthy.domain.review import RecordResult, Resolution, RunAgain, ToolReview
from roadworthy.domain.run import CancelReason, Run, RunStatus

if TYPE_CHECKING:
    from roadworthy.cli.data import OperatorData
    from roadworthy.domain.json import JsonValue
    from roadworthy.settings import Settings

app = typer.Typer(help="List, show, cancel and review runs.", no_args_is_help=True)

_RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="32 hex digits, as `runs list` shows them.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(name="list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    status: Annotated[RunStatus | None, typer.Option(help="Only runs in this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
    as_json: _Json = False,
) -> None:
    """List runs, latest first."""
    found = asyncio.run(_list(tenant, status, limit))
    if as_json:
        say_json([_as_json(run) for run in found])
        return
    say_table(
        ("RUN ID", "STATUS", "CODE", "AGENT", "TENANT", "USER", "THREAD", "CREATED", "FINISHED", "ATTEMPT", "COST"),
        [_row(run) for run in found],
    )


@app.command()
def show(run_id: _RunId, as_json: _Json = False) -> None:
    """Show one run: what became of it and what it used. Texts of messages are not shown."""
    run, reviews = asyncio.run(_show(run_id))
    if as_json:
        say_json({**_as_json(run), "reviews": [_review_json(one) for one in reviews]})
        return
    facts = _as_json(run)
    for name, value in facts.items():
        if value is not None:
            say(f"{name:<18} {value}")
    for review in reviews:
        say(f"{'needs_review':<18} {review.tool_call_id} {review.name} {iso(review.started_at)}")


@app.command()
def cancel(run_id: _RunId) -> None:
    """Ask for a run to be stopped; one that has ended stays as it is."""
    run = asyncio.run(_cancel(run_id))
    if run.status.final:
        hint(f"{run.run_id} has already ended: {run.status.value}")
    else:
        hint(f"{run.run_id} will be cancelled by the server that has it")


@app.command()
def resolve(
    run_id: _RunId,
    tool_call: Annotated[str, typer.Option("--tool-call", help="The tool call's id, as `runs show` tells it.")],
    result: Annotated[str | None, typer.Option(help="It took effect: what the model is told as its result.")] = None,
    run_again: Annotated[bool, typer.Option("--run-again", help="It did not take effect: run the tool again.")] = False,
) -> None:
    """Say what became of a tool call of unknown outcome, at which a run stopped. The run can then be resumed."""
    if (result is None) != run_again:
        raise InvalidRequest("give either --result or --run-again")
    left = asyncio.run(_resolve(run_id, tool_call, RunAgain() if result is None else RecordResult(result=result)))
    if left:
        hint(f"{run_id} waits for more: {', '.join(one.tool_call_id for one in left)}")
    else:
        hint(f"{run_id} can be resumed: POST /agent/runs/{run_id}/resume")


async def _list(tenant: str | None, status: RunStatus | None, limit: int) -> list[Run]:
    boundary = None if tenant is None else parse_tenant_id(tenant)
    async with open_data(load_settings()) as data:
        page = await data.runs.list_of_tenant(boundary, status=status, limit=limit, cursor=None)
        return list(page.items)


async def _show(run_id: str) -> tuple[Run, Sequence[ToolReview]]:
    settings = load_settings()
    async with open_data(settings) as data:
        run = await _get(data, run_id)
        return run, await _reviews(settings, run)


async def _cancel(run_id: str) -> Run:
    async with open_data(load_settings()) as data:
        run = await _get(data, run_id)
        return run if run.status.final else await data.queue.request_cancel(run, CancelReason.REQUESTED)


async def _resolve(run_id: str, tool_call_id: str, resolution: Resolution) -> Sequence[ToolReview]:
    """Returns what is left to be said."""
    from roadworthy.runtimes.langgraph.beside import resolve_in

    settings = load_settings()
    async with open_data(settings) as data:
        run = await _get(data, run_id)
        if not run.in_review:
            raise Conflict(f"{run_id} did not stop for a review")
        if not await resolve_in(agents_state(settings), run, tool_call_id, resolution, datetime.now(UTC)):
            raise NotFound(f"{run_id} asks for no review of the tool call {tool_call_id}")
        return await _reviews(settings, run)


async def _reviews(settings: "Settings", run: Run) -> Sequence[ToolReview]:
    from roadworthy.runtimes.langgraph.beside import reviews_in

    return await reviews_in(agents_state(settings), run) if run.in_review else ()


async def _get(data: "OperatorData", run_id: str) -> Run:
    parsed = parse_run_id(run_id)
    run = None if parsed is None else await data.runs.find_any(None, parsed)
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    return run


def _row(run: Run) -> tuple[str, ...]:
    error = run.result.error
    cost = run.result.usage.known_cost_nanos
    return (
        run.run_id,
        run.status.value,
        "" if error is None else error.code,
        run.agent,
        run.owner.tenant,
        run.owner.user,
        run.thread_id,
        moment(run.created_at),
        moment(run.finished_at),
        str(run.attempt),
        "unknown" if cost is None else usd_text(cost),
    )


def _as_json(run: Run) -> "dict[str, JsonValue]":
    error = run.result.error
    usage = run.result.usage
    return {
        "run_id": run.run_id,
        "thread_id": run.thread_id,
        "tenant": run.owner.tenant,
        "user": run.owner.user,
        "agent": run.agent,
        "status": run.status.value,
        "error_code": None if error is None else error.code,
        "error_message": None if error is None else error.message,
        "cancel_requested": None if run.cancel_requested is None else run.cancel_requested.value,
        "attempt": run.attempt,
        "request_id": run.request_id,
        "key_id": run.key_id,
        "created_at": iso(run.created_at),
        "started_at": iso(run.started_at),
        "finished_at": iso(run.finished_at),
        "deadline_at": iso(run.deadline_at),
        "tool_calls": len(run.result.tool_calls),
        "model_calls": usage.model_calls,
        "input_tokens": usage.tokens.input,
        "output_tokens": usage.tokens.output,
        "usage_estimated": usage.estimated,
        "cost_usd": None if usage.known_cost_nanos is None else usd(usage.known_cost_nanos),
        "unpriced_calls": usage.unpriced,
        "unjournalled_calls": usage.unjournalled,
    }


def _review_json(review: ToolReview) -> "dict[str, JsonValue]":
    return {
        "tool_call_id": review.tool_call_id,
        "name": review.name,
        "args": review.args,
        "started_at": iso(review.started_at),
    }
