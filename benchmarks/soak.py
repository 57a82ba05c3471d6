"""``python -m benchmarks.soak``: what only many connections and a long time show. One table."""

import argparse
import signal
import tempfile
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import uvloop

from benchmarks import endurance, idle, long_thread, replicas
from benchmarks.cores import take_load_core
from benchmarks.report import head, tell
from benchmarks.table import Row, markdown

_PARTS = ("idle", "thread", "churn", "replicas")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--only", action="append", choices=_PARTS, help="one part; may be given several times")
    parser.add_argument("--runs", type=int, default=20_000, help="over the replicas of a fleet")
    parser.add_argument("--kill-every", type=float, default=20.0, help="seconds between two kills of a replica")
    options = parser.parse_args()
    # Ended from outside, it still ends what it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    take_load_core()
    rows = uvloop.run(_measure(options.only or _PARTS, options))
    print(f"\n{head()}\n")
    for line in markdown(rows):
        print(line)


async def _measure(parts: Sequence[str], options: argparse.Namespace) -> Sequence[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="roadworthy-soak-") as name:
        for part in parts:
            async for row in _part(part, Path(name), options):
                rows.append(row)
                tell(row)
    return rows


def _part(part: str, folder: Path, options: argparse.Namespace) -> AsyncGenerator[Row]:
    share = 0.1 if options.quick else 1.0
    match part:
        case "idle":
            return idle.measure(folder, connections=int(10_000 * share), seconds=60 * share)
        case "thread":
            return long_thread.measure(folder, turns=int(300 * share))
        case "replicas":
            return replicas.measure(folder, runs=int(options.runs * share), kill_every=options.kill_every)
        case _:
            return endurance.churn(folder, seconds=150 * share)


if __name__ == "__main__":
    main()
