"""All routes of the admin API in one router, which ``app.py`` mounts. Each acts within the caller's own tenant."""

from fastapi import APIRouter

from roadworthy.protocols.admin import key_routes, limit_routes, report_routes, user_routes

router = APIRouter(
    routes=[
        *key_routes.router.routes,
        *limit_routes.router.routes,
        *report_routes.router.routes,
        *user_routes.router.routes,
    ],
)
