"""The right of a worker to execute one attempt. Made from a claimed run, carried by every write of the engine."""

from dataclasses import dataclass
from datetime import timedelta

from roadworthy.domain.ids import RunId
from roadworthy.domain.principal import Owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """``attempt`` is the fencing token: a write that names an older attempt changes nothing."""

    run_id: RunId
    owner: Owner
    attempt: int
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTerms:
    """How long leases last where several workers share a database, and when what is done about them.

    ``length`` is counted by the database's clock from the claim or the last renewal. ``margin``: a worker whose last
    renewal is ``length`` less this ago gives its runs up by itself. ``stall``: for how long the event loop may stand
    still before its leases are not renewed any more. ``strange_after``: a run that this worker holds without knowing of
    it, because the answer to its claim was lost, is given back after so long; longer than a claim can take.
    """

    length: timedelta = timedelta(seconds=6)
    renew_every: timedelta = timedelta(seconds=1.5)
    margin: timedelta = timedelta(seconds=1.5)
    stall: timedelta = timedelta(seconds=5)
    reap_every: timedelta = timedelta(seconds=1)
    strange_after: timedelta = timedelta(seconds=15)
