"""How many attempts run at once in this process, and who may start next.

A slot is held until an attempt's work has really ended. An isolated attempt holds the whole process.
"""

from roadworthy.domain.load import Load


class Slots:
    """Counts only; all calls happen on the event loop's thread."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._held = 0
        self._stuck = 0
        self._exclusive = False

    @property
    def held(self) -> int:
        """Slots in use."""
        return self._held

    def load(self, *, waiting: int) -> Load:
        """How busy the process is, with so many runs in line."""
        return Load(slots=self.capacity, held=self._held, stuck=self._stuck, waiting=waiting)

    @property
    def free(self) -> bool:
        """Whether ``take`` would succeed for an ordinary attempt."""
        return self._held < self.capacity and not self._exclusive

    @property
    def all_stuck(self) -> bool:
        """Whether nothing can start because of the threads of ended runs: they hold every slot, or the one that has
        the process for itself.
        """
        return self._stuck >= (1 if self._exclusive else self.capacity)

    def take(self, *, isolated: bool = False) -> bool:
        """Hold a slot. An isolated attempt needs an idle process, and keeps it for itself."""
        if isolated and self._held:
            return False
        if not self.free:
            return False
        self._held += 1
        self._exclusive = isolated
        return True

    def give_back(self) -> None:
        """Free a slot that ``take`` gave."""
        self._held -= 1
        if not self._held:
            self._exclusive = False

    def mark_stuck(self) -> None:
        """The holder's run has ended, its threads have not."""
        self._stuck += 1

    def unmark_stuck(self) -> None:
        """Its threads have ended after all."""
        self._stuck -= 1
