"""What is printed around the table: progress while it grows, and when and where it was made."""

import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from benchmarks.cores import describe
from benchmarks.table import Row


def head() -> str:
    """One line."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {python}; {describe()}"


def disturbance(rows: Sequence[Row]) -> str:
    """How far the table may be believed."""
    others = max((row.others for row in rows), default=0.0)
    return f"Other programs had up to {others:.0%} of the measured core in the rounds that were counted."


def tell(row: Row) -> None:
    """A row as soon as it is known."""
    print("  " + "  ".join(cell for cell in row.cells if cell), file=sys.stderr, flush=True)
