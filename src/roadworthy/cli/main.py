"""The ``roadworthy`` command: every subcommand, and the edge at which errors become a message and an exit code.

Exit codes: 0 done; 1 it failed, or ``doctor`` found a fault; 2 wrong usage, settings or files; 130 interrupted.
"""

import sys

import typer

from roadworthy.cli import audit, budgets, doctor, keys, migrate, rates, runs, serve, usage, users, version, worker
from roadworthy.cli.output import hint
from roadworthy.domain.errors import ConfigError, InvalidRequest, RoadworthyError

_FAILED = 1
_WRONG_USAGE = 2
_INTERRUPTED = 130

app = typer.Typer(
    name="roadworthy",
    help="Serve any LangGraph agent to real users: durable, cancellable, with a bill you control.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="serve")(serve.serve)
app.command(name="worker")(worker.worker)
app.add_typer(keys.app, name="keys")
app.add_typer(runs.app, name="runs")
app.add_typer(budgets.app, name="budgets")
app.add_typer(rates.app, name="rates")
app.command(name="usage")(usage.usage)
app.add_typer(users.app, name="users")
app.command(name="audit")(audit.audit)
app.command(name="migrate")(migrate.migrate)
app.command(name="doctor")(doctor.doctor)
app.command(name="version")(version.version)


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    try:
        app()
    except (ConfigError, InvalidRequest) as error:
        _leave(error.message, _WRONG_USAGE)
    except RoadworthyError as error:
        _leave(error.message, _FAILED)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _leave(message: str, code: int) -> None:
    hint("\n".join(f"roadworthy: {line}" for line in message.splitlines()))
    sys.exit(code)
