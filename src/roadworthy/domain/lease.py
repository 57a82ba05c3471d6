"""The right of a worker to execute one attempt. Made from a claimed run, carried by every write of the engine."""

from dataclasses import dataclass

from roadworthy.domain.ids import RunId
from roadworthy.domain.principal import Owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """``attempt`` is the fencing token: a write that names an older attempt changes nothing."""

    run_id: RunId
    owner: Owner
    attempt: int
    worker: str
