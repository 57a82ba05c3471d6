"""The tool-effect log: an fsynced witness of what tools really did, readable from another process.

Tools under test write it, also in a server that is killed; tests read and count.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Literal

from pydantic import TypeAdapter

Phase = Literal["begin", "effect", "end"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One line: tool `name` with idempotency `key` reached `phase`; `at_mono` is the machine-wide monotonic clock."""

    name: str
    key: str
    phase: Phase
    pid: int
    at_mono: float


_EFFECT = TypeAdapter(Effect)


class EffectLog:
    """The log in the file `path`, shared by any number of processes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def record(self, name: str, key: str, phase: Phase = "effect") -> None:
        """Append one line that is on disk when this returns."""
        effect = Effect(name=name, key=key, phase=phase, pid=os.getpid(), at_mono=monotonic())
        line = json.dumps(asdict(effect)) + "\n"
        # One write to an O_APPEND file: lines of several processes do not mix.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self) -> tuple[Effect, ...]:
        """All lines so far, in their order; none if nothing was ever recorded."""
        if not self._path.exists():
            return ()
        return tuple(_EFFECT.validate_json(line) for line in self._path.read_bytes().splitlines())

    def count(self, name: str, *, key: str | None = None, phase: Phase = "effect") -> int:
        """How often tool `name` reached `phase`, with this `key` if given."""
        return sum(
            effect.name == name and effect.phase == phase and key in {None, effect.key} for effect in self.read()
        )
