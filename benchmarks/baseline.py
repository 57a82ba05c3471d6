"""The in-process side, seen from the load generator: a child process on the measured core that obeys one order at a
time. See ``inprocess.py``.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import psutil

from benchmarks.cores import measured_core

SaverName: TypeAlias = Literal["stock", "ours", "memory", "postgres-stock", "postgres-ours"]

_LINE_MAX = 16 * 2**20


class InProcess:
    """Hands orders to the child and waits for what it measured."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.process = psutil.Process(process.pid)

    async def ask(self, do: str, graph: str, **order: object) -> dict[str, Any]:
        """One order's result.

        Raises:
            EOFError: the child died; its traceback is on stderr.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "graph": graph, **order}).encode() + b"\n")
        return json.loads(await self.line())

    async def line(self) -> bytes:
        """The next line that the child writes.

        Raises:
            EOFError: see ``ask``.
        """
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise EOFError("the in-process baseline ended early")
        return line


@asynccontextmanager
async def in_process(
    folder: Path, saver: SaverName = "stock", *, postgres: str | None = None
) -> AsyncGenerator[InProcess]:
    """The baseline, ready. ``saver``: LangGraph's own, the server's, or LangGraph's that keeps everything in memory;
    on a file of ``folder``, or on the database ``postgres``.
    """
    with measured_core():
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.inprocess",
            postgres or str(folder / f"baseline-{saver}.sqlite"),
            saver,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_MAX,
        )
    try:
        baseline = InProcess(process)
        await baseline.line()
        yield baseline
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
