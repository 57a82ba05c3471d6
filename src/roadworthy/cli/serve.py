"""``roadworthy serve``: agents over HTTP, from the command line to a server that answers (``running.py``)."""

from typing import Annotated

import typer

from roadworthy.cli.environment import load_settings
from roadworthy.cli.running import Role, heed_sigterm, run_server

Target = Annotated[
    str | None,
    typer.Argument(
        metavar="[TARGET]",
        help="path.py:attribute or module:attribute of a graph. Default: the graphs of ./langgraph.json, "
        "else the built-in agents.",
        show_default=False,
    ),
]


def serve(
    target: Target = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 picks a free one.", show_default="8000")] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask for no key; only together with a loopback address.")
    ] = False,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Execute no runs: `roadworthy worker` does, on the same Postgres.")
    ] = False,
) -> None:
    """Serve agents over HTTP until SIGTERM or Ctrl-C, then drain: runs go on elsewhere, or at the next start."""
    heed_sigterm()
    settings = load_settings(target, host=host, port=port, auth=False if no_auth else None)
    run_server(settings, target, Role.API if no_worker else Role.EVERYTHING)
