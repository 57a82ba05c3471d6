"""``/agent/…``: bodies → commands for ``services/runs.py``, runs and events → answers.

Mounted by ``app.py``. What a run's answer looks like is ``answers.py``'s business.
"""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Header, Query
from starlette.requests import Request
from starlette.responses import Response

from roadworthy.domain.json import JsonObject
from roadworthy.domain.review import RecordResult, RunAgain
from roadworthy.domain.run import DisconnectPolicy
from roadworthy.http.auth import Call, Caller
from roadworthy.http.bodies import JsonBody
from roadworthy.http.idempotency import IdempotencyKey, record_of
from roadworthy.http.openapi import json_request, problems
from roadworthy.http.patterns import EVENT, EVENT_OR_NOTHING
from roadworthy.http.sse import MEDIA_TYPE
from roadworthy.protocols.plain import wire
from roadworthy.protocols.plain.answers import created_stream, ended_run, json_response, run_stream, wants_events
from roadworthy.protocols.plain.documents import agent_json, model_call_json, run_detail_json, run_json
from roadworthy.protocols.plain.stream import parse_position, position_in
from roadworthy.services.runs import CreateRun

router = APIRouter(prefix="/agent", tags=["runs"])

LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        pattern=EVENT_OR_NOTHING,
        description="Go on behind this event. A browser's EventSource sends it by itself.",
    ),
]
After = Annotated[
    str | None,
    Query(
        pattern=EVENT,
        description="The same as a query parameter, for clients that cannot set headers. The header wins.",
    ),
]
Include = Annotated[
    Literal["model_calls"] | None, Query(description="Adds `model_calls`: each call with its tokens and its cost.")
]
RunAsked = Annotated[wire.RunBody, Depends(JsonBody(wire.RunBody))]
ResumeAsked = Annotated[wire.ResumeBody, Depends(JsonBody(wire.ResumeBody, optional=True))]
ResolveAsked = Annotated[wire.ResolveBody, Depends(JsonBody(wire.ResolveBody))]
CancelAsked = Annotated[wire.CancelBody, Depends(JsonBody(wire.CancelBody, optional=True))]

_EVENTS: Final[dict[str, Any]] = {
    "itemSchema": {
        "type": "object",
        "required": ["data"],
        "properties": {
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {"$ref": "#/components/schemas/StreamEvent"},
            },
            "id": {"type": "string"},
        },
    },
    "example": 'id: 1-1-1\ndata: {"id":"1-1-1","type":"run","run_id":"…","thread_id":"…","agent":"demo"}\n\n'
    'id: 1-1-2\ndata: {"id":"1-1-2","type":"content","message_id":"m1","content":"Hello","node":"model"}\n\n'
    'id: 1-1-3\ndata: {"id":"1-1-3","type":"done","status":"success","run_id":"…","thread_id":"…","usage":{…},'
    '"cost_usd":0.0042}\n\n',
}
_CREATING: Final = (400, 402, 404, 408, 409, 415, 429, 507)
_OUTCOMES: Final = (402, 409, 500, 502, 503, 504, 507)


@router.post(
    "/invoke",
    operation_id="invoke",
    response_model=wire.Run,
    response_description="The run succeeded, or waits for a human (`interrupted`).",
    responses=problems(*_CREATING, *_OUTCOMES, schema="RunProblem"),
    openapi_extra=json_request(wire.RunBody),
)
async def invoke(
    request: Request,
    call: Caller,
    body: RunAsked,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Run an agent and wait for its answer.

    A run that ends without one answers with the status of its outcome: 402 budget, 409 cancelled, 502 provider,
    504 time-out, else 500; the problem holds the run.
    """
    accepted = await call.services.runs.create(call.principal, _command(body, call, idempotency_key))
    return await ended_run(request, accepted)


@router.post(
    "/stream",
    operation_id="stream",
    status_code=200,
    response_class=Response,
    response_description="The run's events.",
    responses={
        200: {"content": {MEDIA_TYPE: _EVENTS}},
        204: {"description": "The run of this `Idempotency-Key` has ended; there is nothing behind `Last-Event-ID`."},
        **problems(*_CREATING),
    },
    openapi_extra=json_request(wire.RunBody),
)
async def stream(
    request: Request,
    call: Caller,
    body: RunAsked,
    idempotency_key: IdempotencyKey = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Run an agent and watch it: server-sent events from `run` to `done`.

    `Last-Event-ID` counts when an `Idempotency-Key` finds a run that was begun before; a new run has no events yet.
    Whatever keeps the run from being accepted is a problem; once the stream has begun, its outcome is in its events.
    """
    position = parse_position(last_event_id)  # before there is a run: nothing may be refused once it has begun
    accepted = await call.services.runs.create(call.principal, _command(body, call, idempotency_key))
    return await created_stream(request, accepted, position=position)


@router.get("/runs/{run_id}", operation_id="get_run", response_model=wire.RunDetail, responses=problems(404))
async def get_run(run_id: str, call: Caller, include: Include = None) -> Response:
    """One run, as it is now."""
    runs = call.services.runs
    run = await runs.get(call.principal, run_id)
    document = run_detail_json(run, await runs.reviews(run))
    if include is not None:
        document["model_calls"] = [model_call_json(one) for one in await runs.calls(call.principal, run_id)]
    return json_response(document)


@router.get(
    "/runs/{run_id}/stream",
    operation_id="stream_run",
    status_code=200,
    response_class=Response,
    response_description="The run's events, from the beginning or behind the given one.",
    responses={
        200: {"content": {MEDIA_TYPE: _EVENTS}},
        204: {"description": "The run has ended, and there is nothing behind the given event."},
        **problems(404),
    },
)
async def stream_run(
    request: Request,
    run_id: str,
    call: Caller,
    last_event_id: LastEventId = None,
    after: After = None,
) -> Response:
    """Watch a run that is under way, or read again what one did. Leaving never stops the run."""
    run = await call.services.runs.get(call.principal, run_id)
    return await run_stream(request, run, after=position_in(run, parse_position(last_event_id or after)))


@router.post(
    "/runs/{run_id}/cancel",
    operation_id="cancel_run",
    status_code=202,
    response_model=wire.Run,
    response_description="The run, which has ended or will within a second.",
    responses=problems(400, 404, 408, 415),
    openapi_extra=json_request(wire.CancelBody, required=False),
)
async def cancel_run(run_id: str, call: Caller, _body: CancelAsked) -> Response:
    """Stop a run. A run that has ended already is returned as it is."""
    return json_response(run_json(await call.services.runs.cancel(call.principal, run_id)), status=202)


@router.post(
    "/runs/{run_id}/resume",
    operation_id="resume_run",
    response_model=wire.Run,
    response_description="The new run, or its events when `Accept` asks for `text/event-stream`.",
    responses={
        200: {"content": {MEDIA_TYPE: _EVENTS}},
        **problems(*_CREATING, *_OUTCOMES, schema="RunProblem"),
    },
    openapi_extra=json_request(wire.ResumeBody, required=False),
)
async def resume_run(
    request: Request,
    run_id: str,
    call: Caller,
    body: ResumeAsked,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Go on after an interrupt, with `value` as the answer, or from where a limit stopped the run. It is a new run."""
    accepted = await call.services.runs.resume(
        call.principal,
        run_id,
        body.value,
        request_id=call.request_id,
        idempotency=record_of(idempotency_key, {"resume": run_id, **_asked(body, idempotency_key)}),
        on_disconnect=_policy(body, idempotency_key),
    )
    if wants_events(request):
        return await created_stream(request, accepted, position=None)
    return await ended_run(request, accepted)


@router.post(
    "/runs/{run_id}/resolve",
    operation_id="resolve_run",
    response_model=wire.RunDetail,
    response_description="The run, with the reviews that are still open.",
    responses=problems(400, 404, 408, 409, 415),
    openapi_extra=json_request(wire.ResolveBody),
)
async def resolve_run(run_id: str, call: Caller, body: ResolveAsked) -> Response:
    """Say what became of a tool call of unknown outcome, at which a run stopped with `needs_review`.

    When no review is open any more, `resume` goes on.
    """
    runs = call.services.runs
    resolution = RunAgain() if body.run_again else RecordResult(result=body.result)
    run = await runs.resolve(call.principal, run_id, body.tool_call_id, resolution)
    return json_response(run_detail_json(run, await runs.reviews(run)))


@router.get("/agents", operation_id="list_agents", response_model=wire.AgentList, responses=problems())
async def list_agents(call: Caller) -> Response:
    """The agents that this key may run; the first is the default."""
    return json_response({"agents": [agent_json(agent) for agent in call.services.agents.list(call.principal)]})


def _command(body: wire.RunBody, call: Call, idempotency_key: str | None) -> CreateRun:
    return CreateRun(
        agent=body.agent,
        thread_id=body.thread_id,
        message=body.message,
        input=body.input,
        has_input=body.message is None,
        context=body.context,
        metadata=body.metadata or {},
        on_disconnect=_policy(body, idempotency_key),
        multitask_strategy=body.multitask_strategy,
        durability=body.durability,
        request_id=call.request_id,
        idempotency=record_of(idempotency_key, _asked(body, idempotency_key)),
    )


def _policy(body: wire.RunBody | wire.ResumeBody, idempotency_key: str | None) -> DisconnectPolicy:
    """Who sends a key means to ask again: a run that ended with the first connection could never be the answer."""
    if body.on_disconnect is not None:
        return body.on_disconnect
    return DisconnectPolicy.CANCEL if idempotency_key is None else DisconnectPolicy.CONTINUE


def _asked(body: wire.RunBody | wire.ResumeBody, idempotency_key: str | None) -> JsonObject:
    """What was asked: the same for a body that spells defaults out, and for a later version with more of them."""
    asked = body.model_dump(mode="json", exclude_defaults=True)
    return {**asked, "on_disconnect": _policy(body, idempotency_key).value}
