"""What the journal of model responses adds to a call, and what LangChain's own cache would. In its own process."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from benchmarks.cores import measured_core
from benchmarks.scale import Scale
from benchmarks.table import Row

_PROMPTS = (1, 20, 100)


async def measure(folder: Path, scale: Scale) -> AsyncGenerator[Row]:
    """Two rows for each length of a prompt."""
    with measured_core():
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.journalling",
            str(folder / "journalling"),
            str(scale.journalled_runs),
            *map(str, _PROMPTS),
            stdout=asyncio.subprocess.PIPE,
        )
    out, _ = await process.communicate()
    for messages, measured in zip(_PROMPTS, json.loads(out), strict=True):
        prompt = f"prompt of {messages} message{'s' if messages > 1 else ''}"
        for name, what in (("journal", f"journal of a call, {prompt}"), ("cache", "… LangChain's cache instead")):
            without, added = measured["without"], measured[name]
            yield Row(
                what=what,
                inprocess=f"without {without:.2f} ms → {without + added:.2f} ms",
                result=f"{added:+.2f} ms, {1 + added / without:.2f} times",
            )
