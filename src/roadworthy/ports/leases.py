"""Keeping leases where several workers share a database. Adapter: ``storage/leases.py``; used by ``engine/leases.py``.

Blocking, because it must go on while the event loop is busy: it is called from one thread of its own.
"""

from collections.abc import Sequence
from typing import Protocol

from roadworthy.domain.lease import Lease


class LeaseStore(Protocol):
    """See the module."""

    def renew(self, worker: str) -> Sequence[Lease]:
        """Extend all leases of a worker that have not expired; those that it still holds. Takes a few seconds at most.

        Raises:
            StorageUnavailable: they may have been extended or not.
        """
        ...

    def close(self) -> None:
        """Let go of the connection. On the thread that has called ``renew``."""
        ...
