"""How many runs may execute at once, however many processes there are. Checked by ``storage/queue.py``."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCaps:
    """Running runs of all workers of a database, of one tenant and of one agent. None: no limit.

    A run's provider is known only when it calls one: agents of one provider are bounded by ``per_agent``.
    """

    total: int | None = None
    per_tenant: int | None = None
    per_agent: int | None = None

    @property
    def any(self) -> bool:
        """Whether there is anything to count."""
        return self != FleetCaps()
