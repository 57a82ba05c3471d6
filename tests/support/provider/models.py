"""The models that the fake provider knows, for `GET /v1/models` and for its 404."""

from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One catalogue entry; a `retired` model is listed but answers no message."""

    id: str
    display_name: str
    lifecycle: Literal["active", "deprecated", "retired"] = "active"
    max_input_tokens: int = 200_000
    max_tokens: int = 128_000

    def as_json(self) -> dict[str, JsonValue]:
        """The wire form of a model."""
        return {
            "type": "model",
            "id": self.id,
            "display_name": self.display_name,
            "created_at": "2025-10-01T00:00:00Z",
            "lifecycle": self.lifecycle,
            "max_input_tokens": self.max_input_tokens,
            "max_tokens": self.max_tokens,
        }


_ALL = (
    Model(id="claude-opus-4-5", display_name="Claude Opus 4.5"),
    Model(id="claude-sonnet-5", display_name="Claude Sonnet 5"),
    Model(id="claude-sonnet-4-6", display_name="Claude Sonnet 4.6"),
    Model(id="claude-haiku-4-5", display_name="Claude Haiku 4.5"),
    Model(id="claude-haiku-4-5-20251001", display_name="Claude Haiku 4.5"),
    Model(id="claude-sonnet-4-5", display_name="Claude Sonnet 4.5", lifecycle="deprecated"),
    Model(id="claude-3-opus-20240229", display_name="Claude Opus 3", lifecycle="retired"),
)
CATALOGUE = {model.id: model for model in _ALL}
