"""``/admin/keys``: API keys of the caller's tenant. Part of ``routes.py``.

``services/keys.py`` sees to it that no key can hand on more than it has.
"""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from roadworthy.domain.ids import AgentName, KeyId, UserId
from roadworthy.domain.principal import USER_SCOPES, Owner
from roadworthy.http.auth import Caller
from roadworthy.http.bodies import JsonBody
from roadworthy.http.known_query import known_query
from roadworthy.http.openapi import json_request, problems
from roadworthy.protocols.admin import wire
from roadworthy.protocols.admin.calls import actor_of, json_response
from roadworthy.protocols.admin.documents import key_json, new_key_json

router = APIRouter(prefix="/admin/keys", tags=["keys"], dependencies=[Depends(known_query)])

KeyAsked = Annotated[wire.KeyBody, Depends(JsonBody(wire.KeyBody))]
RotationAsked = Annotated[wire.RotationBody, Depends(JsonBody(wire.RotationBody, optional=True))]


@router.get("", operation_id="list_keys", response_model=wire.KeyList, responses=problems())
async def list_keys(call: Caller) -> Response:
    """Keys without their texts, the oldest first."""
    return json_response({"keys": [key_json(key) for key in await call.services.keys.list_of(call.principal)]})


@router.post(
    "",
    operation_id="create_key",
    status_code=201,
    response_model=wire.NewKey,
    responses=problems(400, 408, 415, 507),
    openapi_extra=json_request(wire.KeyBody),
)
async def create_key(call: Caller, body: KeyAsked) -> Response:
    """Make a key. Its text is in this answer and nowhere else."""
    new = await call.services.keys.grant(
        call.principal,
        Owner(tenant=call.principal.owner.tenant, user=UserId(body.user)),
        actor_of(call),
        name=body.name,
        scopes=USER_SCOPES if body.scopes is None else frozenset(body.scopes),
        agents=None if body.agents is None else frozenset(map(AgentName, body.agents)),
        expires_in=None if body.expires_in_days is None else timedelta(days=body.expires_in_days),
    )
    return json_response(new_key_json(new), status=201)


@router.post(
    "/{key_id}/rotate",
    operation_id="rotate_key",
    status_code=201,
    response_model=wire.NewKey,
    responses=problems(400, 404, 408, 409, 415, 507),
    openapi_extra=json_request(wire.RotationBody, required=False),
)
async def rotate_key(key_id: str, call: Caller, body: RotationAsked) -> Response:
    """Make a new key with the rights of an old one, which works for a while more and cannot be rotated again."""
    grace = timedelta(seconds=body.grace_seconds)
    new = await call.services.keys.rotate_as(call.principal, KeyId(key_id), actor_of(call), grace=grace)
    return json_response(new_key_json(new), status=201)


@router.delete(
    "/{key_id}",
    operation_id="revoke_key",
    status_code=204,
    response_description="The key opens nothing any more.",
    responses=problems(404, 507),
)
async def revoke_key(key_id: str, call: Caller) -> Response:
    """End a key now. An admin ends any, `runs:on_behalf` any but an admin's, else it has no more rights than yours."""
    await call.services.keys.revoke_as(call.principal, KeyId(key_id), actor_of(call))
    return Response(status_code=204)
