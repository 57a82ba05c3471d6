"""``/admin/usage`` and ``/admin/audit``: who spent what, and who changed what. Part of ``routes.py``."""

from typing import Annotated
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from roadworthy.domain.ids import UserId
from roadworthy.domain.moments import parse_moment
from roadworthy.http.auth import Caller
from roadworthy.http.known_query import known_query
from roadworthy.http.openapi import problems
from roadworthy.http.patterns import MOMENT, USER
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
from roadworthy.protocols.admin import wire
from roadworthy.protocols.admin.calls import json_response
from roadworthy.protocols.admin.documents import audit_json

router = APIRouter(prefix="/admin", tags=["reports"], dependencies=[Depends(known_query)])

Cursor = Annotated[
    str | None, Query(min_length=1, max_length=512, description="`next_cursor` of the page before, as it was given.")
]


@router.get(
    "/usage",
    operation_id="report_usage",
    response_model=UsageReport,
    responses={200: {"content": {CSV_TYPE: {"schema": {"type": "string"}}}}, **problems()},
)
async def report_usage(
    call: Caller,
    by: By = "day",
    since: Since = None,
    until: Until = None,
    user: Annotated[str | None, Query(pattern=USER, description="Only this user's calls.")] = None,
    form: Format = "json",
) -> Response:
    """What the tenant's model calls used and cost, summed up by day, user, key, agent or model."""
    usage = call.services.usage
    query = parse_usage_query(
        by=by,
        since=since,
        until=until,
        time_zone=usage.time_zone,
        now=usage.now(),
        user=None if user is None else UserId(user),
    )
    return usage_response(await usage.of_tenant(call.principal, query), query, form)


@router.get("/audit", operation_id="list_audit", response_model=wire.AuditPage, responses=problems())
async def list_audit(
    call: Caller,
    since: Annotated[
        str | None, Query(pattern=MOMENT, description="Only changes from this day or moment (RFC 3339) on.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many to return at most.")] = 100,
    cursor: Cursor = None,
) -> Response:
    """Changes of keys, limits and budgets, the latest first."""
    zone = ZoneInfo(call.services.usage.time_zone)
    begin = None if since is None else parse_moment(since, zone, field="since")
    page = await call.services.audit.entries(call.principal, since=begin, limit=limit, cursor=cursor)
    return json_response({"entries": [audit_json(entry) for entry in page.items], "next_cursor": page.cursor})
