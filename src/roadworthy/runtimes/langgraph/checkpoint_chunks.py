"""Chunks of lists: where a list is cut, how a chunk is written, and how a known one is recognized.

``checkpoint_sharing`` cuts lists by it. A chunk ends where it is large enough, or where a known one begins: a list that
lost its beginning falls into the same chunks again.

A chunk of LangChain's own messages is written as their fields, which costs a tenth of the way through pydantic, there
and back. So every chunk can be written again with every checkpoint, only to see whether it is a known one.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from hashlib import blake2b
from operator import attrgetter
from typing import Any, Final, TypeAlias, cast

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
    ToolMessageChunk,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

Key: TypeAlias = bytes
# type, bytes
Written: TypeAlias = tuple[str, bytes]

KEY_BYTES: Final = 16
# Bytes. Anything as large as this is a part of its own, or the end of one.
LARGE: Final = 4096
_MAX_CHUNKS = 4096

# In the column ``type`` of a part: the names of messages' classes, and their fields.
_MESSAGES = "messages"
_CLASSES: Mapping[str, type[BaseMessage]] = {
    kind.__name__: kind
    for kind in (
        AIMessage,
        AIMessageChunk,
        ChatMessage,
        FunctionMessage,
        HumanMessage,
        HumanMessageChunk,
        RemoveMessage,
        SystemMessage,
        SystemMessageChunk,
        ToolMessage,
        ToolMessageChunk,
    )
}
_NAMES: Mapping[type, str] = {kind: name for name, kind in _CLASSES.items()}
_FIELDS: Mapping[type, AbstractSet[str]] = {kind: frozenset(kind.model_fields) for kind in _NAMES}
_fields = attrgetter("__dict__")
_extra = attrgetter("__pydantic_extra__")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """``content`` tells it from others in this process; ``hint`` is where to look for it in a list."""

    key: Key
    content: int
    hint: object
    length: int


@dataclass(slots=True, eq=False)
class KnownChunks:
    """The parts of one thread that are in its rows. Only what is committed may be noted."""

    stored: set[Key] = field(default_factory=set)
    _by_content: dict[int, Key] = field(default_factory=dict)
    _lengths: dict[object, int] = field(default_factory=dict)

    def note(self, keys: Iterable[Key], chunks: Iterable[Chunk]) -> None:
        """They are in the rows."""
        if len(self.stored) > _MAX_CHUNKS:
            self.stored.clear()
            self._by_content.clear()
            self._lengths.clear()
        self.stored.update(keys)
        for chunk in chunks:
            self.stored.add(chunk.key)
            self._by_content[chunk.content] = chunk.key
            self._lengths[chunk.hint] = chunk.length

    def recognize(self, serde: SerializerProtocol, items: Sequence[object], at: int) -> Chunk | None:
        """The known chunk that the list has here, if it has one."""
        hint = _hint(items[at], at)
        length = self._lengths.get(hint, 0)
        if not length or at + length > len(items):
            return None
        content = hash(write_chunk(serde, items[at : at + length]))
        key = self._by_content.get(content)
        return None if key is None else Chunk(key=key, content=content, hint=hint, length=length)


def cut_chunk(
    serde: SerializerProtocol, items: Sequence[object], at: int, known: KnownChunks
) -> tuple[Chunk, Written] | None:
    """A new chunk that begins here; None when too little is left for one."""
    length = _length(serde, items, at, known)
    if length is None:
        return None
    written = write_chunk(serde, items[at : at + length])
    return _described(key_of(written), written, items[at], at, length), written


def write_chunk(serde: SerializerProtocol, items: Sequence[object]) -> Written:
    """Type and bytes, which are equal only for what will be read as equal."""
    try:
        names = [_NAMES[kind] for kind in map(type, items)]
    except KeyError:
        return serde.dumps_typed(items)
    if any(map(_extra, items)):
        return serde.dumps_typed(items)
    return _MESSAGES, serde.dumps_typed([names, list(map(_fields, items))])[1]


def read_part(serde: SerializerProtocol, written: Written) -> Any:  # noqa: ANN401 -- whatever was in the state
    """What a chunk, or another part, was written from; as objects that nobody else has."""
    kind, data = written
    if kind != _MESSAGES:
        return serde.loads_typed(written)
    names, all_fields = serde.loads_typed(("msgpack", data))
    return [_message(_CLASSES[name], fields) for name, fields in zip(names, all_fields, strict=True)]


def read_chunk(serde: SerializerProtocol, key: Key, written: Written, at: int) -> tuple[Chunk, list[object]]:
    """The items of a chunk that a list has at ``at``."""
    items = cast("list[object]", read_part(serde, written))
    return _described(key, written, items[0], at, len(items)), items


def key_of(written: Written) -> Key:
    """Under what a part is stored."""
    kind, data = written
    return blake2b(data, digest_size=KEY_BYTES, key=kind.encode()).digest()


def _message(kind: type[BaseMessage], fields: dict[str, Any]) -> BaseMessage:
    """As pickle would bring it back: it was checked when it was made."""
    if fields.keys() != _FIELDS[kind]:
        return kind.model_construct(None, **fields)  # of another version: what is new there gets its default
    message = kind.__new__(kind)
    message.__setstate__(
        {
            "__dict__": fields,
            "__pydantic_fields_set__": set(fields),
            "__pydantic_extra__": {},
            "__pydantic_private__": None,
        }
    )
    return message


def _described(key: Key, written: Written, first: object, at: int, length: int) -> Chunk:
    return Chunk(key=key, content=hash(written), hint=_hint(first, at), length=length)


def _hint(first: object, at: int) -> object:
    return (first.id if isinstance(first, BaseMessage) else None) or at


def _length(serde: SerializerProtocol, items: Sequence[object], at: int, known: KnownChunks) -> int | None:
    size = 0
    for end in range(at, len(items)):
        if end > at and known.recognize(serde, items, end) is not None:
            return end - at
        more = len(write_chunk(serde, items[end : end + 1])[1])
        if more >= LARGE:
            return max(1, end - at)
        size += more
        if size >= LARGE:
            return end + 1 - at
    return None
