"""The web application: services in, ASGI out. Reads top to bottom: state, middleware, routes, document.

``cli/running.py`` builds it from what ``bootstrap.py`` has wired and hands it to uvicorn.
"""

from collections.abc import Sequence
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Lifespan

from roadworthy.bootstrap import Container
from roadworthy.http import health, metrics
from roadworthy.http.auth import ON_BEHALF_OF
from roadworthy.http.deps import HttpLimits, Services, Web
from roadworthy.http.middleware import REQUEST_ID, ProblemEdge, RequestContext, SecurityHeaders
from roadworthy.http.openapi import install, methods_of
from roadworthy.http.readiness import RecentProblems
from roadworthy.http.request_body import BodyLimit, UnreadBody
from roadworthy.ports.telemetry import Exposition, WebTelemetry
from roadworthy.protocols.admin import routes as admin
from roadworthy.protocols.admin.schemas import schemas as admin_schemas
from roadworthy.protocols.plain import routes as plain
from roadworthy.protocols.plain import thread_routes as plain_threads
from roadworthy.protocols.plain import usage_routes as plain_usage
from roadworthy.protocols.plain.schemas import schemas as plain_schemas
from roadworthy.settings import Settings

_API = (
    *plain.router.routes,
    *plain_threads.router.routes,
    *plain_usage.router.routes,
    *admin.router.routes,
)


def build_app(
    services: Services,
    limits: HttpLimits,
    *,
    auth: bool,
    version: str,
    api_version: str,
    telemetry: WebTelemetry | None = None,
    exposition: Exposition | None = None,
    probes_only: bool = False,
    lifespan: Lifespan[FastAPI] | None = None,
) -> FastAPI:
    """The application. ``version``: of the server; ``api_version``: named in the OpenAPI document.

    ``auth`` False makes every caller the local user; the caller of this function has checked that only this machine
    can connect. ``exposition``: what ``/metrics`` shows; without one there is no such route.
    ``probes_only``: for a process that serves no agents, but executes their runs.
    """
    app = FastAPI(
        title="Roadworthy",
        summary="Serves LangGraph agents: durable, cancellable runs over HTTP.",
        version=api_version,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        routes=[
            *(() if probes_only else _API),
            *health.router.routes,
            *(() if exposition is None else metrics.router.routes),
        ],
        middleware=_middleware(limits, telemetry),
        exception_handlers={HTTPException: _to_the_edge, RequestValidationError: _to_the_edge},
    )
    problems = RecentProblems(services.readiness)
    app.state.web = Web(
        services=services,
        limits=limits,
        problems=problems,
        auth=auth,
        version=version,
        telemetry=telemetry,
        exposition=exposition,
    )
    install(app, schemas=lambda: {**plain_schemas(limits), **admin_schemas()}, auth=auth)
    return app


def services_of(container: Container) -> Services:
    """Every use case of what is wired, for ``build_app``."""
    return Services(
        runs=container.runs,
        streams=container.streams,
        threads=container.threads,
        user_exports=container.user_exports,
        user_erasures=container.user_erasures,
        keys=container.keys,
        identity=container.identity,
        agents=container.agents,
        budgets=container.budgets,
        limits=container.limits,
        usage=container.usage,
        audit=container.audit,
        readiness=container.readiness,
    )


def http_limits(settings: Settings) -> HttpLimits:
    """The settings that the web side obeys."""
    return HttpLimits(
        body_max=settings.body_max,
        message_max=settings.message_max,
        stream_heartbeat=settings.stream_heartbeat,
        slow_reader_timeout=settings.slow_reader_timeout,
        cors_origins=settings.cors_origins,
    )


def _middleware(limits: HttpLimits, telemetry: WebTelemetry | None) -> Sequence[Middleware]:
    """Outermost first: a request passes them from top to bottom, its response from bottom to top."""
    return [
        Middleware(RequestContext, telemetry=telemetry),
        Middleware(SecurityHeaders),
        *_cors(limits.cors_origins),
        Middleware(UnreadBody),
        Middleware(ProblemEdge),
        Middleware(BodyLimit, limit=limits.body_max),
    ]


def _cors(origins: Sequence[str]) -> Sequence[Middleware]:
    """Closed unless origins are named: without these headers a browser hands no answer to another origin's page."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "Last-Event-ID",
                ON_BEHALF_OF,
                REQUEST_ID,
                "X-Api-Key",
            ],
            expose_headers=[REQUEST_ID, "Retry-After", "RateLimit", "RateLimit-Policy"],
            max_age=600,
        )
    ]


async def _to_the_edge(request: Request, exc: Exception) -> Response:
    """FastAPI answers these two by itself; here every error is rendered in one place, ``ProblemEdge``."""
    if isinstance(exc, HTTPException) and exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # The router has looked at one route only, but a path may have several.
        methods = methods_of(request.app, request.url.path)
        exc.headers = {"Allow": ", ".join(methods)} if methods else exc.headers
    raise exc
