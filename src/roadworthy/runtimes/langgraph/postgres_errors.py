"""What Postgres's driver raises, in the words of the core. Used wherever this package asks Postgres."""

from collections.abc import Generator
from contextlib import contextmanager

import psycopg
from psycopg import errors
from psycopg_pool import PoolTimeout, TooManyRequests

from roadworthy.domain.errors import StorageFull, StorageUnavailable

_CONNECTION_ERRORS = "08"
# The server ends, or ends this connection, or is one that must not be written to (any more).
_GONE = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25P04", "25006"})


@contextmanager
def postgres_errors() -> Generator[None]:
    """Names what the driver raises in the block. A mistake in a statement or a value stays what it is.

    Raises:
        StorageUnavailable: Postgres failed; StorageFull when its disk is full.
    """
    try:
        yield
    except psycopg.Error as error:
        if is_defect(error):
            raise
        raise translated(error) from error


def is_lost(error: psycopg.Error) -> bool:
    """Whether the connection is of no use any more, and another one may be."""
    if isinstance(error, PoolTimeout | TooManyRequests):
        return False
    code = error.sqlstate
    if code is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return code.startswith(_CONNECTION_ERRORS) or code in _GONE


def is_overtaken(error: psycopg.Error) -> bool:
    """Whether two transactions stood in each other's way, so that trying again helps."""
    return isinstance(error, errors.DeadlockDetected | errors.SerializationFailure)


def is_defect(error: psycopg.Error) -> bool:
    """Whether it is a mistake, which must look like one."""
    return not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not is_lost(error)


def translated(error: psycopg.Error) -> StorageUnavailable:
    """The error in the words of the core. The original belongs into its ``__cause__``."""
    if isinstance(error, errors.DiskFull):
        return StorageFull("the disk that holds the database is full")
    if isinstance(error, PoolTimeout | TooManyRequests):
        return StorageUnavailable("no connection to the database of checkpoints is free")
    if isinstance(error, errors.LockNotAvailable) or is_overtaken(error):
        return StorageUnavailable("the database of checkpoints is locked by another transaction")
    if isinstance(error, errors.QueryCanceled):
        return StorageUnavailable("the database of checkpoints took too long")
    return StorageUnavailable("the database of checkpoints does not work")
