"""JSON as a type, for everything that is opaque to the core.

Recursive alias as in PEP 695's motivation, spelled for Python 3.11.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
JsonObject: TypeAlias = Mapping[str, JsonValue]
