"""`python -m tests.support.provider`: the fake provider as a process; prints its URL and serves until stdin closes.

Stdin is the parent's hold on it: however the parent dies, the provider does not outlive it.
"""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from tests.support.provider.server import ProviderServer


async def _serve(port: int, ledger_path: Path | None) -> None:
    loop = asyncio.get_running_loop()
    server = ProviderServer(port=port, ledger_path=ledger_path)
    loop.add_signal_handler(signal.SIGTERM, server.stop.set)
    loop.add_signal_handler(signal.SIGINT, server.stop.set)

    def read_stdin() -> None:
        if not sys.stdin.buffer.raw.read(1):  # pyright: ignore[reportAttributeAccessIssue] -- a real stdin is buffered
            loop.remove_reader(sys.stdin)
            server.stop.set()

    loop.add_reader(sys.stdin, read_stdin)
    await server.run(lambda url: print(url, flush=True))


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.provider")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ledger", type=Path, default=None, help="JSONL file, fsynced at each call's start and end")
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.port, arguments.ledger))


if __name__ == "__main__":
    main()
