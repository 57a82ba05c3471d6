"""What ``doctor`` looks at where servers share a Postgres: the tables of agents' state, and Redis. As ``checks``."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from roadworthy.cli.checks import Finding, Verdict
from roadworthy.domain.errors import ConfigError, RoadworthyError

if TYPE_CHECKING:
    from roadworthy.bootstrap import Project
    from roadworthy.settings import Settings


async def check_agents_state(settings: "Settings", project: "Project") -> Iterable[Finding]:
    """Whether the tables of agents' state are there, which a server's role may not be allowed to make."""
    from roadworthy.cli.data import agents_state
    from roadworthy.runtimes.langgraph.state_places import PostgresTables
    from roadworthy.runtimes.langgraph.store import StoreConfig

    if settings.database_url is None:
        return []
    try:
        place = agents_state(settings)
    except ConfigError:
        place = None  # as below
    if not isinstance(place, PostgresTables):
        return []
    from roadworthy.runtimes.langgraph.postgres_store import state_is_prepared

    try:
        there = await state_is_prepared(place, project.store or StoreConfig())
    except ConfigError as error:
        return [_found(Verdict.FAIL, error.message, "mend what it names")]
    except RoadworthyError:
        return []  # ``check_database`` has said so
    if there:
        return [_found(Verdict.OK, "its tables are there")]
    return [_found(Verdict.WARN, "its tables are missing", "run `roadworthy migrate`, or let a start make them")]


async def check_redis(settings: "Settings") -> Iterable[Finding]:
    """Whether Redis answers, where one is set. Servers go on without it."""
    if settings.redis_url is None:
        return []
    try:
        from roadworthy.storage.redis_connection import redis_problem
    except ImportError as error:
        detail, advice = f"there is no client for it ({error})", "pip install 'roadworthy[cluster]'"
        return [Finding(check="redis", verdict=Verdict.FAIL, detail=detail, advice=advice)]
    try:
        problem = await redis_problem(settings.redis_url.get_secret_value())
    except ConfigError as error:
        return [Finding(check="redis", verdict=Verdict.FAIL, detail=error.message, advice="mend ROADWORTHY_REDIS_URL")]
    if problem is not None:
        advice = (
            "start it, or mend ROADWORTHY_REDIS_URL; meanwhile events reach other servers late, and rates are local"
        )
        return [Finding(check="redis", verdict=Verdict.WARN, detail=problem, advice=advice)]
    return [Finding(check="redis", verdict=Verdict.OK, detail="it answers")]


def _found(verdict: Verdict, detail: str, advice: str = "") -> Finding:
    return Finding(check="agents' state", verdict=verdict, detail=detail, advice=advice)
