"""``roadworthy keys``: make, list, rotate and revoke API keys on the data folder, beside a running server.

A new key works at once; a revoked one stops working within seconds. The key itself is all that ``create`` and
``rotate`` write to standard output.
"""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from roadworthy.cli.data import actor, open_data
from roadworthy.cli.environment import load_settings
from roadworthy.cli.output import hint, iso, moment, say, say_json, say_table
from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.ids import AgentName, KeyId, TenantId, parse_agent_name, parse_tenant_id, parse_user_id
from roadworthy.domain.principal import USER_SCOPES, ApiKey, Owner, Scope

if TYPE_CHECKING:
    from roadworthy.domain.json import JsonValue
    from roadworthy.services.keys import NewKey

app = typer.Typer(help="Make, list, rotate and revoke API keys.", no_args_is_help=True)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@app.command()
def create(
    user: Annotated[str, typer.Option(help="Whose key it is: 1 to 128 of A-Z a-z 0-9 . _ : @ | + -")],
    tenant: Annotated[str, typer.Option(help="Boundary of data, limits and billing.")] = "default",
    scope: Annotated[
        list[Scope] | None, typer.Option(help="May be repeated. Default: runs:read and runs:write.")
    ] = None,
    agent: Annotated[list[str] | None, typer.Option(help="An agent it may use; may be repeated. Default: all.")] = None,
    expires: Annotated[int | None, typer.Option(metavar="DAYS", min=1, max=36500, help="Days until it ends.")] = None,
    name: Annotated[str, typer.Option(help="A note to tell it from others.")] = "",
) -> None:
    """Make a key and print it; it is shown only this once."""
    owner = Owner(tenant=parse_tenant_id(tenant), user=parse_user_id(user))
    scopes = frozenset(scope) if scope else USER_SCOPES
    agents = frozenset(parse_agent_name(slug) for slug in agent) if agent else None
    expires_in = None if expires is None else timedelta(days=expires)
    _show(asyncio.run(_create(owner, scopes, agents, expires_in, name)))


@app.command(name="list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List keys, oldest first, without their secrets."""
    keys = asyncio.run(_list(None if tenant is None else parse_tenant_id(tenant)))
    if as_json:
        say_json([_as_json(key) for key in keys])
        return
    say_table(
        ("KEY ID", "TENANT", "USER", "SCOPES", "AGENTS", "CREATED", "EXPIRES", "REVOKED", "LAST USED", "NAME"),
        [_row(key) for key in keys],
    )


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="As `keys list` shows it.")],
    grace: Annotated[str, typer.Option(metavar="TIME", help="How long the old key still works: 30m, 24h, 7d.")] = "24h",
) -> None:
    """Make a new key with the rights of an old one and print it; the old one ends after a grace period."""
    period = _duration(grace)
    _show(asyncio.run(_rotate(KeyId(key_id), period)))
    hint(f"{key_id} works for {_words(period)} more")


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(help="As `keys list` shows it.")]) -> None:
    """End a key now; running servers notice within seconds."""
    asyncio.run(_revoke(KeyId(key_id)))
    hint(f"{key_id} is revoked")


async def _create(
    owner: Owner,
    scopes: frozenset[Scope],
    agents: frozenset[AgentName] | None,
    expires_in: timedelta | None,
    name: str,
) -> "NewKey":
    async with open_data(load_settings()) as data:
        return await data.keys.create(owner, actor(), name=name, scopes=scopes, agents=agents, expires_in=expires_in)


async def _list(tenant: TenantId | None) -> list[ApiKey]:
    async with open_data(load_settings()) as data:
        return list(await data.keys.list(tenant))


async def _rotate(key_id: KeyId, grace: timedelta) -> "NewKey":
    async with open_data(load_settings()) as data:
        return await data.keys.rotate(None, key_id, actor(), grace=grace)


async def _revoke(key_id: KeyId) -> None:
    async with open_data(load_settings()) as data:
        await data.keys.revoke(None, key_id, actor())


def _show(new: "NewKey") -> None:
    say(new.text)
    key = new.key
    hint(f"{key.key_id} for {key.owner.user} of {key.owner.tenant}; it is shown only this once")


def _row(key: ApiKey) -> tuple[str, ...]:
    return (
        key.key_id,
        key.owner.tenant,
        key.owner.user,
        " ".join(sorted(key.scopes)),
        "all" if key.agents is None else " ".join(sorted(key.agents)),
        moment(key.created_at),
        moment(key.expires_at),
        moment(key.revoked_at),
        moment(key.last_used_at),
        key.name,
    )


def _as_json(key: ApiKey) -> "JsonValue":
    return {
        "key_id": key.key_id,
        "tenant": key.owner.tenant,
        "user": key.owner.user,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "agents": None if key.agents is None else sorted(key.agents),
        "created_at": iso(key.created_at),
        "expires_at": iso(key.expires_at),
        "revoked_at": iso(key.revoked_at),
        "last_used_at": iso(key.last_used_at),
    }


def _words(duration: timedelta) -> str:
    seconds = int(duration.total_seconds())
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds and seconds % unit == 0:
            count = seconds // unit
            return f"{count} {name}" + ("s" if count > 1 else "")
    return "0 seconds"


def _duration(text: str) -> timedelta:
    number, unit = text[:-1], text[-1:]
    if not number.isdigit() or unit not in _UNITS:
        raise InvalidRequest(f"{text!r} is no time: write a number and a unit, as in 90s, 30m, 24h or 7d")
    return timedelta(seconds=int(number) * _UNITS[unit])
