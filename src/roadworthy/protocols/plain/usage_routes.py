"""``/agent/usage``: what the caller's own runs used. Mounted by ``app.py``; calls ``services/usage.py``."""

from fastapi import APIRouter, Depends
from starlette.responses import Response

from roadworthy.http.auth import Caller
from roadworthy.http.known_query import known_query
from roadworthy.http.openapi import problems
from roadworthy.http.usage_report import (
    CSV_TYPE,
    By,
    Format,
    Since,
    Until,
    UsageReport,
    parse_usage_query,
    usage_response,
)

router = APIRouter(prefix="/agent/usage", tags=["usage"], dependencies=[Depends(known_query)])


@router.get(
    "",
    operation_id="own_usage",
    response_model=UsageReport,
    responses={200: {"content": {CSV_TYPE: {"schema": {"type": "string"}}}}, **problems()},
)
async def own_usage(
    call: Caller, by: By = "day", since: Since = None, until: Until = None, form: Format = "json"
) -> Response:
    """What your runs used and cost, summed up by day, key, agent or model. Runs of erased threads are counted too."""
    usage = call.services.usage
    query = parse_usage_query(
        by=by,
        since=since,
        until=until,
        time_zone=usage.time_zone,
        now=usage.now(),
        user=call.principal.owner.user,
    )
    return usage_response(await usage.own(call.principal, query), query, form)
