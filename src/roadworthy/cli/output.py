"""How commands speak: answers on standard output, everything else on standard error.

So ``KEY=$(roadworthy keys create …)`` gets the key and nothing but the key.
"""

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from roadworthy.domain.json import JsonValue

if TYPE_CHECKING:
    from rich.console import Console


def say(text: str) -> None:
    """Write one line of the answer, never wrapped and never coloured."""
    print(text, flush=True)


def hint(text: str) -> None:
    """Write something for a person, which no script should have to filter out."""
    print(text, file=sys.stderr, flush=True)


def say_json(value: JsonValue) -> None:
    """Write the answer for a program."""
    say(json.dumps(value, indent=2, ensure_ascii=False))


def say_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows under headings; on a pipe, as wide as they need to be."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)


def console() -> "Console":
    """Standard output as rich sees it; a pipe is never narrowed to 80 columns."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 400)


def moment(value: datetime | None) -> str:
    """A time as people read it in a list, to the second, UTC."""
    return "" if value is None else value.strftime("%Y-%m-%d %H:%M:%SZ")


def iso(value: datetime | None) -> str | None:
    """A time for a program."""
    return None if value is None else value.isoformat()
