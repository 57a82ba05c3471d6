"""``/admin/users``: all that is kept of one user of the tenant, handed out or erased. Part of ``routes.py``."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response, StreamingResponse

from roadworthy.domain.ids import UserId
from roadworthy.http.auth import Caller
from roadworthy.http.openapi import problems
from roadworthy.protocols.admin import wire
from roadworthy.protocols.admin.calls import actor_of, json_response
from roadworthy.protocols.admin.user_documents import erased_json, part_line
from roadworthy.services.user_export import Part

LINES_TYPE = "application/jsonl"

router = APIRouter(prefix="/admin/users", tags=["users"])

User = Annotated[str, Path(pattern=r"^[A-Za-z0-9._:@|+-]{1,128}$", description="Whose data.")]


@router.get(
    "/{user}/export",
    operation_id="export_user",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One JSON object a line. The last one is of the kind `end`; without it, it was cut off.",
            "content": {LINES_TYPE: {"schema": {"type": "string"}}},
        },
        **problems(507),
    },
)
async def export_user(user: User, call: Caller) -> Response:
    """All that is kept of a user: keys without their texts, threads with their states, runs with their events, store
    items, model calls.
    """
    parts = await call.services.user_exports.begin(call.principal, UserId(user), actor_of(call))
    return StreamingResponse(_lines(parts), media_type=LINES_TYPE)


@router.delete(
    "/{user}",
    operation_id="erase_user",
    response_model=wire.ErasedUser,
    responses=problems(409, 507),
)
async def erase_user(user: User, call: Caller) -> Response:
    """Erase a user: revoke the keys, stop the runs, delete threads and store items. What bills need stays."""
    erased = await call.services.user_erasures.erase(call.principal, UserId(user), actor_of(call))
    return json_response(erased_json(erased))


async def _lines(parts: AsyncGenerator[Part]) -> AsyncGenerator[bytes]:
    async with aclosing(parts):
        async for part in parts:
            yield part_line(part)
