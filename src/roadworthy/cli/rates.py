"""``roadworthy rates``: limits per minute and at once, beside a running server, which obeys within two seconds."""

import asyncio
import json
from typing import TYPE_CHECKING, Annotated

import typer

from roadworthy.cli.data import actor, open_data
from roadworthy.cli.environment import load_settings
from roadworthy.cli.output import hint, say_json, say_table
from roadworthy.cli.subjects import hint_at_unknown
from roadworthy.domain.ids import TenantId, parse_tenant_id
from roadworthy.domain.rate_limit import RateKind, RateLimit, RateScope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roadworthy.domain.json import JsonValue

app = typer.Typer(help="Set, list and remove rate limits.", no_args_is_help=True)

_Scope = Annotated[RateScope, typer.Option(help="Whose limit it is.")]
_Kind = Annotated[
    RateKind, typer.Option(help="requests: runs asked for in a minute; tokens: in a minute; runs: unfinished at once.")
]
_Subject = Annotated[str | None, typer.Option(help="A user or a key's id. Without it each of the scope has its own.")]
_Tenant = Annotated[str, typer.Option(help="In which tenant.")]


@app.command(name="set")
def set_(
    scope: _Scope,
    kind: _Kind,
    limit: Annotated[int, typer.Option(min=1, help="How many.")],
    subject: _Subject = None,
    tenant: _Tenant = "default",
) -> None:
    """Make a limit, or change the one of the same scope, subject and kind."""
    rate = RateLimit(tenant=parse_tenant_id(tenant), scope=scope, kind=kind, limit=limit, subject=subject)
    asyncio.run(_set(rate))
    hint(f"{_whose(rate)}, tenant {rate.tenant}: at most {_most(rate)}")


@app.command(name="list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List rate limits."""
    found = asyncio.run(_list(None if tenant is None else parse_tenant_id(tenant)))
    if as_json:
        say_json([_as_json(rate) for rate in found])
        return
    say_table(
        ("TENANT", "FOR", "KIND", "LIMIT"),
        [(rate.tenant, _whose(rate), rate.kind.value, _most(rate)) for rate in found],
    )


@app.command()
def remove(scope: _Scope, kind: _Kind, subject: _Subject = None, tenant: _Tenant = "default") -> None:
    """Remove a limit. Without --subject, the one that each of the scope has of its own."""
    asyncio.run(_remove(parse_tenant_id(tenant), scope, kind, subject))
    hint("the limit is removed")


_UNITS = {
    RateKind.REQUESTS: ("request", "a minute"),
    RateKind.TOKENS: ("token", "a minute"),
    RateKind.RUNS: ("run", "at once"),
}


async def _set(rate: RateLimit) -> None:
    async with open_data(load_settings()) as data:
        await data.limits.set(rate, actor())
        await hint_at_unknown(data, rate.tenant, rate.scope, rate.subject)


async def _list(tenant: TenantId | None) -> "Sequence[RateLimit]":
    async with open_data(load_settings()) as data:
        return await data.limits.list(tenant)


async def _remove(tenant: TenantId, scope: RateScope, kind: RateKind, subject: str | None) -> None:
    async with open_data(load_settings()) as data:
        await data.limits.remove(tenant, scope, kind, actor(), subject=subject)


def _most(rate: RateLimit) -> str:
    unit, when = _UNITS[rate.kind]
    return f"{rate.limit} {unit}{'' if rate.limit == 1 else 's'} {when}"


def _whose(rate: RateLimit) -> str:
    if rate.scope is RateScope.TENANT:
        return "the whole tenant"
    return f"each {rate.scope.value}" if rate.subject is None else f"{rate.scope.value} {rate.subject}"


def _as_json(rate: RateLimit) -> "JsonValue":
    """As the admin API writes it, with the tenant."""
    from roadworthy.http.encoding import to_json
    from roadworthy.protocols.admin.documents import rate_json

    return json.loads(to_json({"tenant": rate.tenant, **rate_json(rate)}))
