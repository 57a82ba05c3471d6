"""What ``doctor`` looks at, one function a check. Each says what it found and, when that is not well, what to do.

Nothing is changed, no lock is taken: all of it works beside a running server.
"""

import os
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from roadworthy.cli.environment import unknown_variables
from roadworthy.domain.errors import ConfigError, RoadworthyError, Unavailable

if TYPE_CHECKING:
    from roadworthy.bootstrap import Project
    from roadworthy.database import Source
    from roadworthy.settings import Settings

_FREE_BYTES = 200_000_000
_RELEASED = datetime(2026, 1, 1, tzinfo=UTC)
_SKEW = timedelta(seconds=10)


class Verdict(StrEnum):
    """How a check went. Only ``fail`` keeps the server from serving."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """``advice``: what to do, empty when nothing is."""

    check: str
    verdict: Verdict
    detail: str
    advice: str = ""


# What the provider's answer means for the server.
_MODEL_VERDICTS: Mapping[str, tuple[Verdict, str]] = {
    "ok": (Verdict.OK, ""),
    "deprecated": (Verdict.WARN, "choose its successor with ROADWORTHY_MODEL"),
    "retired": (Verdict.FAIL, "choose another with ROADWORTHY_MODEL"),
    "unknown_model": (Verdict.FAIL, "choose another with ROADWORTHY_MODEL"),
    "refused": (Verdict.FAIL, "mend ANTHROPIC_API_KEY"),
    "unreachable": (Verdict.WARN, "check the network and ROADWORTHY_MODEL_BASE_URL; the assistant cannot answer"),
    "unchecked": (Verdict.OK, ""),
}


def check_settings() -> Iterable[Finding]:
    """Whether every variable with our prefix means something. That the values fit was checked when they were read."""
    unknown = list(unknown_variables())
    for sentence in unknown:
        yield Finding(check="settings", verdict=Verdict.WARN, detail=sentence, advice="rename or remove it")
    if not unknown:
        yield Finding(check="settings", verdict=Verdict.OK, detail="all values fit")


def check_data_folder(settings: "Settings") -> Iterable[Finding]:
    """Whether files can be written where the data goes, whether others can read them, and how much room there is."""
    from roadworthy.storage.folder import DataFolder

    path = settings.data_dir.absolute()
    if not path.exists():
        yield _new_folder(path)
        return
    problem = DataFolder(path).problem()
    if problem is not None:
        advice = "give the server's user the right to write there, or set ROADWORTHY_DATA_DIR"
        yield Finding(check="data folder", verdict=Verdict.FAIL, detail=problem, advice=advice)
        return
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        detail = f"other users of this machine can look into {path}"
        yield Finding(check="data folder", verdict=Verdict.WARN, detail=detail, advice=f"chmod 700 {path}")
    free = shutil.disk_usage(path).free
    room = f"{free // 1_000_000} MB free"
    if free < _FREE_BYTES:
        yield Finding(check="data folder", verdict=Verdict.WARN, detail=f"only {room} at {path}", advice="make room")
    else:
        yield Finding(check="data folder", verdict=Verdict.OK, detail=f"{path} can be written, {room}")


def check_database(settings: "Settings") -> Iterable[Finding]:
    """Whether the database answers, and has a schema that this version knows."""
    from roadworthy.database import source_of
    from roadworthy.storage.folder import DataFolder

    folder = DataFolder(settings.data_dir.absolute())
    try:
        source = source_of(settings, folder)
        if not source.shared and not folder.database.exists():
            return [Finding(check="database", verdict=Verdict.OK, detail="will be made at the first start")]
        revision, program = source.revision(), source.program()
    except ConfigError as error:
        return [Finding(check="database", verdict=Verdict.FAIL, detail=error.message, advice="mend what it names")]
    except RoadworthyError as error:
        return [_unusable_database(settings, folder.database, error)]
    return [_database_schema(source, revision, program)]


def check_agents(project: "Project") -> Iterable[Finding]:
    """Which agents are served, and what of them the server replaces."""
    from roadworthy.runtimes.langgraph.registry import replaced_parts

    names = [agent.name for agent in project.agents]
    also = f", also {', '.join(names[1:])}" if names[1:] else ""
    yield Finding(check="agents", verdict=Verdict.OK, detail=f"{names[0]} is the default{also}")
    for agent in project.agents:
        for sentence in replaced_parts(agent):
            advice = "compile the graph without it to silence this"
            yield Finding(check="agents", verdict=Verdict.WARN, detail=sentence, advice=advice)


def check_state_types(project: "Project", settings: "Settings") -> Iterable[Finding]:
    """Whether every class in the agents' states survives a checkpoint."""
    from roadworthy.runtimes.langgraph.state_types import allowed_types, blocked_types

    lost = False
    for agent in project.agents:
        try:
            blocked = blocked_types(agent.graph, allowed_types(agent.graph, settings.state_types))
        except ConfigError as error:
            advice = "mend ROADWORTHY_STATE_TYPES"
            yield Finding(check="state types", verdict=Verdict.FAIL, detail=error.message, advice=advice)
            return
        for name in blocked:
            lost = True
            detail = f"{name} in the state of {agent.name} does not survive a checkpoint"
            advice = "make it a dataclass, a pydantic model or plain data"
            yield Finding(check="state types", verdict=Verdict.WARN, detail=detail, advice=advice)
    if not lost:
        yield Finding(check="state types", verdict=Verdict.OK, detail="every state survives a checkpoint")


async def check_model(settings: "Settings", model: str) -> Iterable[Finding]:
    """Whether the provider knows a model of the built-in assistant and takes the key: by a table, then by asking."""
    from roadworthy.agents.models import known_model_problem, verify_model

    provider, _, model_id = model.rpartition(":")
    suspicion = known_model_problem(provider or "anthropic", model_id)
    key = settings.anthropic_api_key
    if (provider or "anthropic") == "anthropic" and key is None:
        detail = f"{model}: there is no key for it"
        verdict = Verdict.WARN if settings.model_base_url else Verdict.FAIL
        return [Finding(check="model", verdict=verdict, detail=detail, advice="set ANTHROPIC_API_KEY")]
    result = await verify_model(model, key.get_secret_value() if key else None, settings.model_base_url)
    verdict, advice = _MODEL_VERDICTS[result.verdict]
    if result.verdict == "unchecked" and suspicion is not None:
        verdict, advice = Verdict.WARN, "check the id"
    detail = result.detail
    if suspicion is not None and result.verdict in ("unreachable", "unchecked"):
        detail = f"{suspicion}; {detail}"
    return [Finding(check="model", verdict=verdict, detail=f"{model}: {detail}", advice=advice)]


async def check_clock(settings: "Settings", now: datetime) -> Iterable[Finding]:
    """Whether the clock is behind the newest record, or behind this version's release: deadlines and keys go by it."""
    from roadworthy.cli.data import newest_record

    advice = "set the clock, and keep it set with NTP"
    newest = await newest_record(settings)
    if now < _RELEASED:
        detail = f"it says {now:%Y-%m-%d}, before this version was made"
        return [Finding(check="clock", verdict=Verdict.FAIL, detail=detail, advice=advice)]
    if newest is not None and now + _SKEW < newest:
        detail = f"it says {now:%Y-%m-%d %H:%M:%SZ}, but a run was recorded at {newest:%Y-%m-%d %H:%M:%SZ}"
        return [Finding(check="clock", verdict=Verdict.WARN, detail=detail, advice=advice)]
    return [Finding(check="clock", verdict=Verdict.OK, detail=f"{now:%Y-%m-%d %H:%M:%SZ}")]


def check_access(settings: "Settings") -> Iterable[Finding]:
    """Who can reach the server, and what they need."""
    from roadworthy.services.key_text import is_short
    from roadworthy.settings import is_loopback

    local = is_loopback(settings.host)
    if not settings.auth:
        detail = f"authentication is off; every program on this machine can use the agents at {settings.host}"
        yield Finding(check="access", verdict=Verdict.WARN, detail=detail, advice="unset ROADWORTHY_AUTH")
    elif local:
        yield Finding(
            check="access", verdict=Verdict.OK, detail=f"keys are required; only this machine ({settings.host})"
        )
    else:
        detail = f"keys are required; {settings.host} is reachable from elsewhere, without encryption"
        yield Finding(check="access", verdict=Verdict.WARN, detail=detail, advice="put a proxy with TLS in front")
    if settings.admin_key is not None and is_short(settings.admin_key.get_secret_value()):
        detail, advice = "the admin key given may be guessed", "give ROADWORTHY_ADMIN_KEY 24 characters or more"
        yield Finding(check="access", verdict=Verdict.WARN, detail=detail, advice=advice)
    if "*" in settings.cors_origins:
        detail = "pages of every origin may call with a key that they know"
        yield Finding(check="access", verdict=Verdict.WARN, detail=detail, advice="name the origins")


def check_prices(settings: "Settings") -> Iterable[Finding]:
    """Whether the price file can be read, when there is one: a mistake in it ends the start."""
    from roadworthy.pricing.price_file import read_price_file

    path = settings.price_file
    if path is None:
        return
    try:
        read_price_file(path)
    except ConfigError as error:
        advice = "mend it, or unset ROADWORTHY_PRICE_FILE"
        yield Finding(check="prices", verdict=Verdict.FAIL, detail=error.message, advice=advice)
    else:
        yield Finding(check="prices", verdict=Verdict.OK, detail=f"{path} goes before the built-in prices")


async def check_tokens(settings: "Settings") -> Iterable[Finding]:
    """Whether the issuer's keys can be had, when bearer tokens are accepted: without them no token opens anything."""
    from roadworthy.identity.tokens import published_algorithms

    issuer, accepted = settings.jwt_issuer, settings.jwt_algorithms
    if issuer is None or not settings.auth:
        return []
    try:
        found = await published_algorithms(issuer=issuer, jwks_url=settings.jwt_jwks_url, algorithms=accepted)
    except ConfigError as error:
        advice = "give an https address"
        return [Finding(check="identity provider", verdict=Verdict.FAIL, detail=error.message, advice=advice)]
    except Unavailable as error:
        advice = "check the network, ROADWORTHY_JWT_ISSUER and ROADWORTHY_JWT_JWKS_URL; API keys work meanwhile"
        return [Finding(check="identity provider", verdict=Verdict.WARN, detail=error.message, advice=advice)]
    if not found:
        detail = f"{issuer} publishes no key for {', '.join(accepted)}"
        advice = "set ROADWORTHY_JWT_ALGORITHMS to what the issuer signs with"
        return [Finding(check="identity provider", verdict=Verdict.WARN, detail=detail, advice=advice)]
    return [
        Finding(check="identity provider", verdict=Verdict.OK, detail=f"{issuer} publishes keys for {', '.join(found)}")
    ]


def worst(findings: Sequence[Finding]) -> Verdict:
    """The verdict on all of them together."""
    order = [Verdict.OK, Verdict.WARN, Verdict.FAIL]
    return max((finding.verdict for finding in findings), key=order.index, default=Verdict.OK)


def _new_folder(path: Path) -> Finding:
    parent = next(folder for folder in path.parents if folder.exists())
    if os.access(parent, os.W_OK | os.X_OK):
        return Finding(check="data folder", verdict=Verdict.OK, detail=f"{path} will be made at the first start")
    advice = "give the server's user the right to write there, or set ROADWORTHY_DATA_DIR"
    detail = f"{path} cannot be made: {parent} cannot be written"
    return Finding(check="data folder", verdict=Verdict.FAIL, detail=detail, advice=advice)


def _unusable_database(settings: "Settings", file: Path, error: RoadworthyError) -> Finding:
    if settings.database_url is None:
        advice = f"restore {file} from a backup, or move it away to start anew"
        return Finding(check="database", verdict=Verdict.FAIL, detail=f"{file}: {error.message}", advice=advice)
    # What the driver says names the server and the user, which callers of the API must not see, but never a password.
    reason = str(error.__cause__ or "").strip().partition("\n")[0]
    advice = "start it, or mend ROADWORTHY_DATABASE_URL; until then the server is alive, but not ready"
    detail = f"{error.message}: {reason}" if reason else error.message
    return Finding(check="database", verdict=Verdict.FAIL, detail=detail, advice=advice)


def _database_schema(source: "Source", revision: str | None, program: str) -> Finding:
    from roadworthy.database import LATEST, is_behind

    problem = source.problem(revision)
    if problem is not None:
        advice = "install the newer version again, or use another database"
        return Finding(check="database", verdict=Verdict.FAIL, detail=problem, advice=advice)
    if not is_behind(revision):
        detail = f"{source.name} ({program}) has a schema of this version"
        return Finding(check="database", verdict=Verdict.OK, detail=detail)
    detail = f"{source.name} {'is empty' if revision is None else f'has the schema {revision}'}"
    if not source.migrates_itself:
        return Finding(check="database", verdict=Verdict.FAIL, detail=detail, advice="run `roadworthy migrate`")
    return Finding(check="database", verdict=Verdict.OK, detail=f"{detail}, the next start brings it to {LATEST}")
