"""``python -m benchmarks``: every measurement, one table. A missed target is told, not an error."""

import argparse
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter

import uvloop

from benchmarks import admission, cluster, first_token, journal, memory, paced, saver, startup, statements, throughput
from benchmarks.baseline import in_process
from benchmarks.cores import take_load_core
from benchmarks.report import disturbance, head, tell
from benchmarks.scale import FULL, QUICK, Scale
from benchmarks.table import Row, markdown

_AGAINST_BASELINE = {"throughput": throughput, "first-token": first_token, "paced": paced}
_ALONE = {
    "memory": memory,
    "admission": admission,
    "statements": statements,
    "saver": saver,
    "journal": journal,
    "startup": startup,
    "cluster": cluster,
}
_PARTS = (*_AGAINST_BASELINE, *_ALONE)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="see that everything works; the numbers mean little")
    parser.add_argument("--only", action="append", choices=_PARTS, help="one part; may be given several times")
    options = parser.parse_args()
    # Ended from outside, it still ends what it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    take_load_core()
    rows = uvloop.run(_measure(options.only or _PARTS, QUICK if options.quick else FULL))
    print(f"\n{head()}\n")
    for line in markdown(rows):
        print(line)
    print(f"\n{disturbance(rows)}")


async def _measure(parts: Sequence[str], scale: Scale) -> Sequence[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="roadworthy-bench-") as name:
        for part in parts:
            began_at = perf_counter()
            async for row in _part(part, Path(name), scale):
                rows.append(row)
                tell(row)
            print(f"{part}: {perf_counter() - began_at:.0f} s", file=sys.stderr, flush=True)
    return rows


async def _part(part: str, folder: Path, scale: Scale) -> AsyncGenerator[Row]:
    async with AsyncExitStack() as stack:
        if part in _AGAINST_BASELINE:
            baseline = await stack.enter_async_context(in_process(folder))
            rows = _AGAINST_BASELINE[part].measure(folder, baseline, scale)
        else:
            rows = _ALONE[part].measure(folder, scale)
        async for row in rows:
            yield row


if __name__ == "__main__":
    main()
