"""Writes ``docs/configuration.md`` from the settings, so that the two cannot differ.

For contributors: ``make docs`` runs it, ``make check`` runs it with ``--check``.
"""

import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from roadworthy.cli.environment import env_name
from roadworthy.cli.output import hint

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

PAGE = Path("docs/configuration.md")

_HEAD = """\
# Configuration

Every setting of Roadworthy is an environment variable; all have a default. This page is generated from
`src/roadworthy/settings.py` by `make docs`.

## Where settings come from

Settings are read once, when a command starts, from three places: the process environment, then the file `.env` in the
current folder, then the `env` of `langgraph.json` in the current folder. The first that has a variable wins, and what
the files add is exported to the process, so that the clients of model providers see it too. A few settings can also be
given on the command line of `roadworthy serve` (`--host`, `--port`, `--no-auth`); the command line wins over all.

An empty variable counts as not set. A wrong value ends the command with exit code 2 and one line that names the
variable. A `ROADWORTHY_…` variable that no setting has is named in a warning. `roadworthy doctor` prints the values in
effect, secrets left out.

Durations are seconds (`90`, `0.5`). Lists are words with commas between them. Switches are `true` or `false`.
"""

# The first field of each group, in the order of the settings.
_GROUPS = {
    "host": ("Address and data", "Where the server listens and where it keeps its data."),
    "max_concurrent_requests": ("Load, time and limits of a run", "How many runs at once, for how long, how far."),
    "message_max": ("HTTP limits", "What requests and streams may look like."),
    "auth": ("Keys and isolation", "Who may call, and what users share."),
    "model": ("Built-in assistant and providers", "Models and their keys; agents of your own read the keys too."),
    "log_level": ("Logs and metrics", "What is logged and how it looks, and where the numbers are shown."),
}


def render() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_settings()])


def main() -> None:
    """Write the page, or with ``--check`` only tell by the exit code whether it is current."""
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(render(), encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != render():
        hint(f"{PAGE} is not what the settings say: run `make docs`")
        sys.exit(1)


def _settings() -> Iterable[str]:
    from roadworthy.settings import Settings

    for name, field in Settings.model_fields.items():
        if name in _GROUPS:
            heading, sentence = _GROUPS[name]
            yield f"## {heading}\n\n{sentence}\n"
        yield f"* `{env_name(name, field)}`: {field.description} Default: {_default(field)}.\n"


def _default(field: "FieldInfo") -> str:
    match field.default:
        case None | ():
            return "not set"
        case bool(value):
            return f"`{str(value).lower()}`"
        case timedelta() as value:
            return f"`{value.total_seconds():g}`"
        case value:
            return f"`{value}`"


if __name__ == "__main__":
    main()
