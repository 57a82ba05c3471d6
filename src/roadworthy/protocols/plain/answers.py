"""An accepted run → the answer of the connection that asked for it: the run when it has ended, or its events.

Called by ``routes.py``. A run belongs to the request that created it: when that connection ends early, the run's own
policy is applied. A connection that merely joined a run, by its idempotency key or its id, may leave without harm.
"""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from roadworthy.domain.errors import Unavailable
from roadworthy.domain.event import EventId
from roadworthy.domain.run import Run
from roadworthy.http.deps import web_of
from roadworthy.http.disconnect import ClientGone, unless_disconnected
from roadworthy.http.encoding import to_json
from roadworthy.http.problems import problem_of, problem_response
from roadworthy.http.rate_headers import rate_headers
from roadworthy.http.sse import EventStream, Frames
from roadworthy.ports.queue import Accepted
from roadworthy.protocols.plain.documents import run_json
from roadworthy.protocols.plain.errors import outcome_problem
from roadworthy.protocols.plain.stream import frames


def json_response(document: object, *, status: int = 200) -> Response:
    """A JSON body."""
    return Response(to_json(document), status, media_type="application/json")


def wants_events(request: Request) -> bool:
    """Whether the client asks for a stream on a call that can answer both ways."""
    return "text/event-stream" in request.headers.get("accept", "").lower()


async def ended_run(request: Request, accepted: Accepted) -> Response:
    """Wait for the run's end and answer by its outcome.

    Raises:
        ClientGone: the client left; the run's policy has been applied.
    """
    response = await _outcome(request, accepted)
    response.headers.update(rate_headers(accepted.rates))
    return response


async def created_stream(request: Request, accepted: Accepted, *, position: EventId | None) -> Response:
    """The events of a run for the connection that asked for it. ``position`` counts only where it can: in this run,
    and when the run is an earlier one.
    """
    run = accepted.run
    if accepted.replayed:
        behind = position is not None and position.ord == run.ord
        response = await run_stream(request, run, after=position if behind else None)
    else:
        leave = partial(web_of(request).services.runs.disconnected, run)
        response = await run_stream(request, run, after=None, on_disconnect=leave)
    response.headers.update(rate_headers(accepted.rates))
    return response


async def run_stream(
    request: Request, run: Run, *, after: EventId | None, on_disconnect: Callable[[], Awaitable[None]] | None = None
) -> Response:
    """The events of a run behind ``after``; 204 when there will never be another, so that a browser stops asking."""
    web = web_of(request)
    batches = frames(run, lambda start: web.services.streams.follow(run, after=start), after=after)
    if after is not None and run.status.final:
        first = await anext(batches, None)
        if first is None:
            return Response(status_code=204)
        batches = _put_back(first, batches)
    return EventStream(batches, limits=web.limits, on_disconnect=on_disconnect, telemetry=web.telemetry)


async def _outcome(request: Request, accepted: Accepted) -> Response:
    runs = web_of(request).services.runs
    run = accepted.run
    try:
        run = await unless_disconnected(request.receive, runs.wait(run))
        problem = outcome_problem(run, await runs.reviews(run))
    except ClientGone:
        if not accepted.replayed:
            await runs.disconnected(run)
        raise
    except Unavailable as exc:
        return problem_response(problem_of(exc, more={"run": run_json(run)}), request)
    return json_response(run_json(run)) if problem is None else problem_response(problem, request)


async def _put_back(first: Iterable[bytes], rest: Frames) -> Frames:
    async with aclosing(rest):
        yield first
        async for batch in rest:
            yield batch
