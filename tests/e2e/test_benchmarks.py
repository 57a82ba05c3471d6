"""The benchmarks still run. What they measure is no test's business."""

import asyncio
import sys

from tests.support.server import ROOT


async def test_a_quick_benchmark_prints_its_table() -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "first-token", "--only", "journal"]
    async with asyncio.timeout(90):
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    for row in ("time to first content, 1 client, p50", "journal of a call, prompt of 100 messages"):
        assert row in out.decode()
