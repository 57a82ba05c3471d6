"""``roadworthy audit``: who changed what about keys, limits and budgets, beside a running server."""

import asyncio
import json
from typing import TYPE_CHECKING, Annotated

import typer

from roadworthy.cli.data import open_data
from roadworthy.cli.environment import load_settings
from roadworthy.cli.moments import moment_of
from roadworthy.cli.output import moment, say_json, say_table
from roadworthy.domain.audit import AuditEntry
from roadworthy.domain.ids import parse_tenant_id
from roadworthy.domain.money import usd_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roadworthy.domain.json import JsonObject, JsonValue

_NANOS = "_nanos"


def audit(
    since: Annotated[str | None, typer.Option(metavar="DAY", help="From this day or moment on.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show changes of keys, limits and budgets, latest first."""
    found = asyncio.run(_list(since, tenant, limit))
    if as_json:
        say_json([_as_json(entry) for entry in found])
        return
    say_table(("AT", "TENANT", "ACTOR", "ACTION", "TARGET", "CHANGE"), [_row(entry) for entry in found])


async def _list(since: str | None, tenant: str | None, limit: int) -> "Sequence[AuditEntry]":
    settings = load_settings()
    begin = None if since is None else moment_of(since, settings.time_zone)
    boundary = None if tenant is None else parse_tenant_id(tenant)
    async with open_data(settings) as data:
        return (await data.audit.entries_of(boundary, since=begin, limit=limit, cursor=None)).items


def _row(entry: AuditEntry) -> tuple[str, ...]:
    return (
        moment(entry.at),
        entry.tenant,
        entry.actor.name,
        entry.action,
        entry.target,
        _change(entry.before, entry.after),
    )


def _change(before: "JsonObject | None", after: "JsonObject | None") -> str:
    """What is different now, and whose it is; of something new or gone, all that it has."""
    if before is None or after is None:
        whole = [f"{_fact(name, value)}" for name, value in (after or before or {}).items() if value not in (None, "")]
        return ("new: " if before is None else "gone: ") + ", ".join(whole)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    changes = ", ".join(f"{_fact(name, before.get(name))} → {_text(name, after.get(name))}" for name in names)
    whose = after.get("subject")
    return f"{whose}: {changes}" if whose else changes


def _fact(name: str, value: "JsonValue") -> str:
    return f"{name.removesuffix(_NANOS)} {_text(name, value)}"


def _text(name: str, value: "JsonValue") -> str:
    if isinstance(value, int) and name.endswith(_NANOS):
        return usd_text(value)
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "none" if value is None else str(value)


def _as_json(entry: AuditEntry) -> "JsonValue":
    """As the admin API writes it, with the tenant."""
    from roadworthy.http.encoding import to_json
    from roadworthy.protocols.admin.documents import audit_json

    return json.loads(to_json({"tenant": entry.tenant, **audit_json(entry)}))
