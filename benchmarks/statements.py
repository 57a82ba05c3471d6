"""Transactions and statements of ours that one run needs. Counted in a process of its own, without HTTP.

One run at a time: with several, group commit would make the transactions fewer. The graph's checkpoints are not ours.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from benchmarks.scale import Scale
from benchmarks.table import Row

# Three for the run, and one for each of its model calls: this graph makes one.
_TRANSACTIONS = 4
_STATEMENTS = 8


async def measure(folder: Path, scale: Scale) -> AsyncGenerator[Row]:
    """A row for transactions, one for statements; the worse of invoke and stream."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.counting",
        str(folder / "counting"),
        str(scale.counted_runs),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    counted = json.loads(out)
    yield Row(
        what="our transactions a run",
        served=f"{counted['transactions']:.2f}",
        target=f"≤ {_TRANSACTIONS}",
        met=counted["transactions"] <= _TRANSACTIONS,
    )
    total = counted["written"] + counted["read"]
    yield Row(
        what="our statements a run",
        served=f"{total:.2f} ({counted['written']:.2f} write, {counted['read']:.2f} read)",
        target=f"≤ {_STATEMENTS}",
        met=total <= _STATEMENTS,
    )
