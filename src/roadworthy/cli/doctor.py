"""``roadworthy doctor``: everything that can be wrong before the first user finds it, and what to do about it.

Exit code 0: the server will serve (warnings included); 1: something fails.
"""

import asyncio
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from roadworthy.cli import checks
from roadworthy.cli.checks import Finding, Verdict
from roadworthy.cli.cluster_checks import check_agents_state, check_redis
from roadworthy.cli.environment import env_name, load_settings, secret_values
from roadworthy.cli.output import console, say_json, say_table
from roadworthy.domain.errors import ConfigError

if TYPE_CHECKING:
    from roadworthy.settings import Settings

_COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


def doctor(
    target: Annotated[
        str | None, typer.Argument(metavar="[TARGET]", help="As for `serve`.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check settings, prices, data folder, database, agents, model, clock: beside a running server or before one."""
    settings: Settings | None = None
    try:
        settings = load_settings(target)
    except ConfigError as error:
        findings: Sequence[Finding] = [
            Finding(check="settings", verdict=Verdict.FAIL, detail=line, advice="mend the variable or file")
            for line in error.message.splitlines()
        ]
    else:
        # What an agent prints while it is loaded is no part of the answer.
        with redirect_stdout(sys.stderr):
            findings = [without_secrets(found, settings) for found in asyncio.run(_examine(settings, target))]
    verdict = checks.worst(findings)
    if as_json:
        _say_json(findings, verdict, settings)
    else:
        _say(findings, verdict, settings)
    raise typer.Exit(1 if verdict is Verdict.FAIL else 0)


def effective(settings: "Settings") -> Iterable[tuple[str, str, bool]]:
    """Name, value and whether it differs from the default, for each setting; secrets only as set or not."""
    from pydantic import SecretStr

    from roadworthy.telemetry.redaction import Redaction

    redaction = Redaction()
    for name, field in type(settings).model_fields.items():
        value: object = getattr(settings, name)
        match value:
            case SecretStr():
                shown = "(set)"
            case None | ():
                shown = ""
            case bool():
                shown = str(value).lower()
            case timedelta():
                shown = f"{value.total_seconds():g}"
            case tuple():
                shown = ",".join(map(str, value))
            case _:
                shown = str(value)
        yield env_name(name, field), redaction.text(shown), value != field.default


def without_secrets(finding: Finding, settings: "Settings") -> Finding:
    """What was found may quote an address or what an agent's code raised."""
    from roadworthy.telemetry.redaction import Redaction

    return replace(finding, detail=Redaction([*settings.secrets(), *secret_values()]).text(finding.detail))


async def _examine(settings: "Settings", target: str | None) -> Sequence[Finding]:
    findings = [
        *checks.check_settings(),
        *checks.check_access(settings),
        *await checks.check_tokens(settings),
        *checks.check_prices(settings),
        *checks.check_data_folder(settings),
        *checks.check_database(settings),
        *await check_redis(settings),
        *await checks.check_clock(settings, datetime.now(UTC)),
    ]
    findings += await _examine_agents(settings, target)
    return findings


async def _examine_agents(settings: "Settings", target: str | None) -> Sequence[Finding]:
    from roadworthy.cli.project import assistant_models, open_project

    try:
        async with open_project(settings, target) as project:
            findings = [
                *checks.check_agents(project),
                *checks.check_state_types(project, settings),
                *await check_agents_state(settings, project),
            ]
            models = assistant_models(settings, target)
    except ConfigError as error:
        return [Finding(check="agents", verdict=Verdict.FAIL, detail=error.message, advice="mend what it names")]
    for model in models:
        findings += await checks.check_model(settings, model)
    return findings


def _say(findings: Sequence[Finding], verdict: Verdict, settings: "Settings | None") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("", "CHECK", "FOUND", "WHAT TO DO", box=None, pad_edge=False, header_style="bold")
    for finding in findings:
        mark = Text(finding.verdict.value, style=_COLOURS[finding.verdict])
        table.add_row(mark, finding.check, Text(finding.detail), Text(finding.advice))
    out = console()
    out.print(table)
    out.print()
    if settings is not None:
        rows = [(name, value, "" if changed else "default") for name, value, changed in effective(settings)]
        say_table(("SETTING", "VALUE", ""), rows)
        out.print()
    out.print(Text(f"verdict: {verdict.value}", style=_COLOURS[verdict]))


def _say_json(findings: Sequence[Finding], verdict: Verdict, settings: "Settings | None") -> None:
    say_json(
        {
            "verdict": verdict.value,
            "checks": [
                {
                    "check": finding.check,
                    "verdict": finding.verdict.value,
                    "detail": finding.detail,
                    "advice": finding.advice,
                }
                for finding in findings
            ],
            "settings": {name: value for name, value, _ in effective(settings)} if settings is not None else None,
        }
    )
