"""Where agents' state is kept: checkpoints, journals and stores. ``bootstrap`` chooses, ``runtime`` opens."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteFolder:
    """Two files in a folder, for one process."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresTables:
    """Tables beside our own, in the same database, for any number of processes.

    ``conninfo`` says everything about a connection, its timeouts too (``storage.postgres_connection.connection_info``).
    ``connections``: at most so many for checkpoints, and as many for the store. ``patience``: for how long an operation
    waits for one of them, and for a server that does not answer.
    """

    conninfo: str
    connections: int = 8
    patience: timedelta = timedelta(seconds=10)


StatePlace: TypeAlias = SqliteFolder | PostgresTables
