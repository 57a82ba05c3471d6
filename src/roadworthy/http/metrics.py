"""``GET /metrics``: the numbers of this process, for Prometheus and what speaks like it.

They tell what all tenants together do and cost, so the key must be of the operator's tenant, ``default``, with the
scope ``metrics:read``. Mounted by ``app.py`` unless they have a port of their own.
"""

from fastapi import APIRouter, Request
from starlette.responses import Response

from roadworthy.domain.errors import NotFound, PermissionDenied
from roadworthy.domain.principal import Scope
from roadworthy.http.auth import Caller
from roadworthy.http.deps import WebState
from roadworthy.http.openapi import problems
from roadworthy.services.keys import DEFAULT_TENANT

router = APIRouter(tags=["metrics"])


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={
        200: {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **problems(),
    },
)
async def metrics(call: Caller, web: WebState, request: Request) -> Response:
    """Runs, model calls, limits, load and the process, in Prometheus' text format or OpenMetrics."""
    call.principal.require(Scope.METRICS_READ)
    if call.principal.owner.tenant != DEFAULT_TENANT:
        raise PermissionDenied("The numbers are of all tenants: they need a key of the tenant `default`.")
    if web.exposition is None:
        raise NotFound("there is nothing at this path")
    body, media_type = web.exposition.expose(request.headers.get("accept", ""))
    return Response(body, media_type=media_type)
