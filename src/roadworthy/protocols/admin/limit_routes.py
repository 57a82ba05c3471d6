"""``/admin/budgets`` and ``/admin/rates``: what the tenant's users may spend and how fast. Part of ``routes.py``."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from roadworthy.domain.budget import BudgetScope
from roadworthy.domain.ids import BudgetId
from roadworthy.domain.rate_limit import RateKind, RateScope
from roadworthy.http.auth import Caller
from roadworthy.http.bodies import JsonBody
from roadworthy.http.known_query import known_query
from roadworthy.http.openapi import json_request, problems
from roadworthy.protocols.admin import wire
from roadworthy.protocols.admin.calls import actor_of, json_response
from roadworthy.protocols.admin.documents import budget_json, rate_json
from roadworthy.services.budget_rules import KEPT, BudgetAsked, window_of

router = APIRouter(prefix="/admin", tags=["limits"], dependencies=[Depends(known_query)])

Subject = Annotated[str | None, Query(min_length=1, max_length=128, description="A key's id, a user or an agent.")]
BudgetSet = Annotated[wire.BudgetBody, Depends(JsonBody(wire.BudgetBody))]
TopUpAsked = Annotated[wire.TopUpBody, Depends(JsonBody(wire.TopUpBody))]
RateSet = Annotated[wire.RateBody, Depends(JsonBody(wire.RateBody))]


@router.get("/budgets", operation_id="list_budgets", response_model=wire.BudgetList, responses=problems())
async def list_budgets(
    call: Caller,
    scope: Annotated[BudgetScope | None, Query(description="Only budgets of this scope.")] = None,
    subject: Subject = None,
) -> Response:
    """Budgets and how their present period stands.

    Where each user, key, agent or run has a budget of its own, `scope` and `subject` ask how one of them stands.
    """
    found = await call.services.budgets.list_as(call.principal, scope=scope, subject=subject)
    return json_response({"budgets": [budget_json(status) for status in found]})


@router.put(
    "/budgets",
    operation_id="set_budget",
    response_model=wire.Budget,
    responses=problems(400, 408, 415, 507),
    openapi_extra=json_request(wire.BudgetBody),
)
async def set_budget(call: Caller, body: BudgetSet) -> Response:
    """Make a budget, or change the one of the same scope, subject and window; what it has spent stays.

    A limit or soft limit that is left out stays as it was; `null` removes it.
    """
    asked = BudgetAsked(
        scope=body.scope,
        subject=body.subject,
        window=window_of(body.scope, body.window),
        limit_nanos=body.limit_usd if "limit_usd" in body.model_fields_set else KEPT,
        soft_nanos=body.soft_usd if "soft_usd" in body.model_fields_set else KEPT,
        time_zone=body.time_zone,
    )
    return json_response(budget_json(await call.services.budgets.set_as(call.principal, asked, actor_of(call))))


@router.delete(
    "/budgets/{budget_id}",
    operation_id="remove_budget",
    status_code=204,
    response_description="The budget is gone, with what it had counted. The ledger stays as it is.",
    responses=problems(404, 507),
)
async def remove_budget(budget_id: str, call: Caller) -> Response:
    """Remove a budget."""
    await call.services.budgets.remove_as(call.principal, BudgetId(budget_id), actor_of(call))
    return Response(status_code=204)


@router.post(
    "/budgets/{budget_id}/top-up",
    operation_id="top_up_budget",
    response_model=wire.Budget,
    responses=problems(400, 404, 408, 415, 507),
    openapi_extra=json_request(wire.TopUpBody),
)
async def top_up_budget(budget_id: str, call: Caller, body: TopUpAsked) -> Response:
    """Add to the present period; the next one begins with the plain limit again. A stopped run can then be resumed."""
    status = await call.services.budgets.top_up_as(
        call.principal, BudgetId(budget_id), body.amount_usd, actor_of(call), subject=body.subject
    )
    return json_response(budget_json(status))


@router.get("/rates", operation_id="list_rates", response_model=wire.RateList, responses=problems())
async def list_rates(call: Caller) -> Response:
    """Limits per minute and at once."""
    found = await call.services.limits.list_as(call.principal)
    return json_response({"rates": [rate_json(rate) for rate in found]})


@router.put(
    "/rates",
    operation_id="set_rate",
    response_model=wire.Rate,
    responses=problems(400, 408, 415, 507),
    openapi_extra=json_request(wire.RateBody),
)
async def set_rate(call: Caller, body: RateSet) -> Response:
    """Make a limit, or change the one of the same scope, subject and kind."""
    rate = await call.services.limits.set_as(
        call.principal, body.scope, body.kind, body.limit, actor_of(call), subject=body.subject
    )
    return json_response(rate_json(rate))


@router.delete(
    "/rates",
    operation_id="remove_rate",
    status_code=204,
    response_description="The limit is gone.",
    responses=problems(404, 507),
)
async def remove_rate(call: Caller, scope: RateScope, kind: RateKind, subject: Subject = None) -> Response:
    """Remove a limit. Without `subject`, the one that each of the scope has of its own."""
    await call.services.limits.remove_as(call.principal, scope, kind, actor_of(call), subject=subject)
    return Response(status_code=204)
