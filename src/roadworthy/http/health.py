"""Probes: is the process there, is it alive, should it get traffic. They need no key.

Mounted by ``app.py``; calls ``http/readiness.py`` and ``services/readiness.py``.
"""

from collections.abc import Sequence

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from roadworthy.http.deps import WebState
from roadworthy.http.encoding import to_json
from roadworthy.http.openapi import PUBLIC
from roadworthy.services.readiness import Problem

router = APIRouter(tags=[PUBLIC])


class Trouble(BaseModel):
    """``name``: the part at fault; ``detail``: what is wrong with it."""

    name: str
    detail: str


class Health(BaseModel):
    """``degraded``: trouble outside of the server, such as a model provider's. Absent when there is none."""

    status: str
    version: str
    degraded: list[Trouble] | None = None


class Liveness(BaseModel):
    """``status`` is ``alive``."""

    status: str


class ReadyState(BaseModel):
    """``status``: ``ready`` or ``not_ready``; ``problems``: why not."""

    status: str
    problems: list[Trouble]
    degraded: list[Trouble]


@router.head("/health", include_in_schema=False)
@router.get("/health", operation_id="health", response_model=Health)
async def health(web: WebState) -> Response:
    """Answers as soon as the server serves, whatever the state of what it depends on."""
    body: dict[str, object] = {"status": "healthy", "version": web.version}
    degraded = _named(web.services.readiness.degraded())
    return _json(body | {"degraded": degraded} if degraded else body)


@router.head("/livez", include_in_schema=False)
@router.get("/livez", operation_id="livez", response_model=Liveness)
async def livez() -> Response:
    """Touches nothing: when this does not answer, the process is stuck and should be restarted."""
    return _json({"status": "alive"})


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    operation_id="readyz",
    response_model=ReadyState,
    responses={503: {"model": ReadyState, "description": "Traffic should go elsewhere; `problems` says why."}},
)
async def readyz(web: WebState) -> Response:
    """Checks what the server needs to take a run. A provider's trouble is `degraded`, no reason to go elsewhere."""
    problems = _named(await web.problems.get())
    body = {
        "status": "not_ready" if problems else "ready",
        "problems": problems,
        "degraded": _named(web.services.readiness.degraded()),
    }
    return _json(body, status=503 if problems else 200)


def _named(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [{"name": problem.name, "detail": problem.detail} for problem in problems]


def _json(body: object, *, status: int = 200) -> Response:
    return Response(to_json(body), status, media_type="application/json")
