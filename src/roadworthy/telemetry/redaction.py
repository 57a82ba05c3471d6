"""What must never reach a log, and how it is taken out: secrets by their shape, secrets by their value, input texts.

``logs`` applies it to every record as the last step before rendering, so that no library can log around it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from roadworthy.domain.json import JsonValue

MASK: Final = "[redacted]"
# A shorter value masks ordinary words by accident.
_MIN_VALUE: Final = 6

_NAMES = r"x-api-key|api[_-]?key|authorization|password|client[_-]?secret|access[_-]?token"
_NAMED = rf"(?:\b|_)(?:{_NAMES})\b['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic)\s+)?"
_SHAPES: Final = (
    (re.compile(r"\brw_live_[A-Za-z0-9_-]+"), MASK),
    (re.compile(r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{8,}"), MASK),
    (re.compile(r"\btvly-[A-Za-z0-9_-]{4,}"), MASK),
    (re.compile(r"\bAIza[\w-]{20,}"), MASK),
    (re.compile(r"\blsv2_\w+"), MASK),
    (re.compile(r"(?i)([?&]key=)[^\s&'\"]+"), rf"\1{MASK}"),
    (re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{6,}"), rf"\1{MASK}"),
    (re.compile(rf"(?i)({_NAMED})[^\s'\",;}}\])]{{4,}}"), rf"\1{MASK}"),
    # user:password@ in an address; a password is often written with an @ of its own
    (re.compile(r"(\w+://)[^\s/]+@"), rf"\1{MASK}@"),
    # pydantic shows the input that it refuses
    (re.compile(r"input_value=.*?(?=, input_type=)", re.DOTALL), f"input_value={MASK}"),
)
_WITHOUT_MARK: Final = "AIza"
# Found in whatever one of the shapes matches. Most texts of a record are ids and times, and every record is searched.
_TRACES: Final = re.compile(
    r"(?i)rw_live_|[spr]k-|tvly-|aiza|lsv2_|key|bearer|authorization|password|secret|token|://|input_value="
)


class Redaction:
    """Takes secrets out of texts and JSON values. ``secrets``: exact values that must not appear anywhere."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        values = sorted({secret for secret in secrets if len(secret) >= _MIN_VALUE}, key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, values))) if values else None

    def text(self, text: str) -> str:
        """The text without secrets."""
        if self._values is not None:
            text = self._values.sub(MASK, text)
        # Ids and single words, which are most of what is logged: only one shape has no mark in it.
        if text.isalnum() and _WITHOUT_MARK not in text:
            return text
        if _TRACES.search(text) is None:
            return text
        for pattern, replacement in _SHAPES:
            text = pattern.sub(replacement, text)
        return text

    def value(self, value: object) -> JsonValue:
        """Any value as JSON without secrets; what is no JSON becomes its redacted ``str``."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            pairs: Iterable[tuple[object, object]] = value.items()
            return {self.text(str(name)): self.value(part) for name, part in pairs}
        if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
            return [self.value(part) for part in value]
        return self.text(str(value))


def mask_texts(text: str, texts: Iterable[str]) -> str:
    """Take known texts of a request out of ``text``, the longest first. Texts under 4 characters are left: they would
    blank out ordinary letters and tell nothing.
    """
    for known in sorted(set(texts), key=len, reverse=True):
        if len(known) >= 4:  # noqa: PLR2004 -- said above
            # An exception often shows its argument's repr.
            for form in {known, repr(known)[1:-1]}:
                text = text.replace(form, "[message]")
    return text


def texts_in(value: JsonValue) -> Iterable[str]:
    """Every string inside a JSON value, names of fields not included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from texts_in(part)
    elif isinstance(value, Sequence):
        for part in value:
            yield from texts_in(part)
