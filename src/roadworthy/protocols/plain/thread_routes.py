"""``/agent/threads/…``: own threads, what they hold, and their end. Mounted by ``app.py``."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from roadworthy.http.auth import Caller
from roadworthy.http.openapi import problems
from roadworthy.protocols.plain import wire
from roadworthy.protocols.plain.answers import json_response
from roadworthy.protocols.plain.documents import thread_json, thread_view_json

router = APIRouter(prefix="/agent/threads", tags=["threads"])

Limit = Annotated[int, Query(ge=1, le=100, description="How many to return at most.")]
Cursor = Annotated[
    str | None, Query(min_length=1, max_length=512, description="`next_cursor` of the page before, as it was given.")
]


@router.get("", operation_id="list_threads", response_model=wire.ThreadPage, responses=problems())
async def list_threads(call: Caller, limit: Limit = 20, cursor: Cursor = None) -> Response:
    """Own threads, the latest used first."""
    page = await call.services.threads.list(call.principal, limit=limit, cursor=cursor)
    return json_response({"threads": [thread_json(thread) for thread in page.items], "next_cursor": page.cursor})


@router.get("/{thread_id}", operation_id="get_thread", response_model=wire.ThreadDetail, responses=problems(404))
async def get_thread(thread_id: str, call: Caller) -> Response:
    """One thread with its messages, its state and its latest 50 runs."""
    return json_response(thread_view_json(await call.services.threads.get(call.principal, thread_id)))


@router.delete(
    "/{thread_id}",
    operation_id="delete_thread",
    status_code=204,
    response_description="The thread is gone, with its messages, checkpoints, runs and events.",
    responses=problems(404, 409),
)
async def delete_thread(thread_id: str, call: Caller) -> Response:
    """Erase a thread. Refused with 409 while a run of it is unfinished."""
    await call.services.threads.erase(call.principal, thread_id)
    return Response(status_code=204)
