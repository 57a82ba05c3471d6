"""Takes what is large out of a checkpoint and puts it back: parts that checkpoints of a thread share are stored once.

``checkpoints`` calls it on the way to and from the rows; LangGraph's serializer still turns every part into bytes.

A list of messages is cut into chunks, each stored under the hash of its bytes (``checkpoint_chunks``); a checkpoint
keeps the keys and, as they are, the few messages behind the last cut. Other values are stored under their hash when
they are large. What is small stays in its row, which then is as LangGraph's own saver writes it.

Nothing is taken for unchanged because it is the same object, which an author's code may have altered: what is known
is recognized by its content.
"""

import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, cast

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import Checkpoint
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.types import Send

from roadworthy.runtimes.langgraph.checkpoint_chunks import (
    KEY_BYTES,
    LARGE,
    Chunk,
    Key,
    KnownChunks,
    Written,
    cut_chunk,
    key_of,
    read_chunk,
    read_part,
)

Path: TypeAlias = tuple[Any, ...]
# Where a part belongs, how it goes in there, and which parts of the row's it is made of.
Taken: TypeAlias = tuple[Sequence[Any], int, Sequence[int]]

# In the column ``type``. Rows of any other type are LangGraph's own.
SHARED: Final = "shared+msgpack"

_COUNT = struct.Struct(">I")
# Bytes. A list of many tiny things is cheaper to store whole than to look through.
_SMALLEST_ITEM = 64
_MAX_THREADS = 256

_LIST, _VALUE = 0, 1


class Knowledge:
    """Known chunks of the threads used last. Belongs to the event loop.

    ``version`` is the file's, as SQLite counts changes by other processes: with it all knowledge is void.
    """

    def __init__(self, version: int) -> None:
        self.version = version
        self._threads: OrderedDict[str, KnownChunks] = OrderedDict()

    def of(self, thread: str) -> KnownChunks:
        """What is known of a thread. Take it before the rows are looked at or written, note in it afterwards."""
        known = self._threads.setdefault(thread, KnownChunks())
        self._threads.move_to_end(thread)
        if len(self._threads) > _MAX_THREADS:
            self._threads.popitem(last=False)
        return known

    def forget(self, thread: str) -> None:
        """Right before parts may be deleted. What is noted later in what was handed out before counts for nothing."""
        self._threads.pop(thread, None)

    def start_again(self, version: int) -> None:
        """Another process has changed the file."""
        self.version = version
        self._threads.clear()


class Encoded(NamedTuple):
    """A row's type and bytes, and the parts to store with it. ``reuses``: it stands on parts stored before."""

    kind: str
    data: bytes
    blobs: Sequence[tuple[Key, Written]] = ()
    chunks: Sequence[Chunk] = ()
    reuses: bool = False


def encode_checkpoint(serde: SerializerProtocol, checkpoint: Checkpoint, known: KnownChunks) -> Encoded:
    """A checkpoint without what it shares."""
    if not known.stored:
        # Most threads are short. What is small as a whole has no large parts.
        kind, data = serde.dumps_typed(checkpoint)
        if len(data) < LARGE:
            return Encoded(kind, data)
    taking = _Taking(serde, known)
    values = {name: taking.small(value, (name,)) for name, value in checkpoint["channel_values"].items()}
    return taking.encoded({**checkpoint, "channel_values": values} if taking.parts else checkpoint)


def encode_write(serde: SerializerProtocol, value: object, known: KnownChunks) -> Encoded:
    """What a task wrote to one channel, without what it shares with checkpoints."""
    kind, data = serde.dumps_typed(value)
    if len(data) < LARGE:
        return Encoded(kind, data)
    taking = _Taking(serde, known)
    boxed = [taking.small(value, (0,))]
    return taking.encoded(boxed) if taking.parts else Encoded(kind, data)


def keys_of(kind: str, data: bytes) -> Sequence[Key]:
    """The parts that a row stands on."""
    if kind != SHARED:
        return ()
    (count,) = _COUNT.unpack_from(data)
    start = _COUNT.size
    return [data[at : at + KEY_BYTES] for at in range(start, start + count * KEY_BYTES, KEY_BYTES)]


def decode_checkpoint(
    serde: SerializerProtocol, kind: str, data: bytes, blobs: Mapping[Key, Written], known: KnownChunks
) -> Checkpoint:
    """The reverse of ``encode_checkpoint``. ``blobs``: at least those of ``keys_of``."""
    if kind != SHARED:
        return serde.loads_typed((kind, data))
    checkpoint, parts, keys = _opened(serde, data)
    _put_back(serde, checkpoint["channel_values"], parts, [(key, blobs[key]) for key in keys], known)
    return checkpoint


def decode_write(
    serde: SerializerProtocol, kind: str, data: bytes, blobs: Mapping[Key, Written], known: KnownChunks
) -> object:
    """The reverse of ``encode_write``."""
    if kind != SHARED:
        return serde.loads_typed((kind, data))
    boxed, parts, keys = _opened(serde, data)
    _put_back(serde, boxed, parts, [(key, blobs[key]) for key in keys], known)
    return boxed[0]


class _Taking:
    """One row on its way out: what was taken out of it, and where from."""

    def __init__(self, serde: SerializerProtocol, known: KnownChunks) -> None:
        self.parts: list[Taken] = []
        self._serde = serde
        self._known = known
        self._numbers: dict[Key, int] = {}
        self._blobs: dict[Key, Written] = {}
        self._chunks: dict[Key, Chunk] = {}
        # The same list is often in several places, such as the arguments of Sends. Lists are alive meanwhile.
        self._lists: dict[int, tuple[list[int], int]] = {}

    def encoded(self, rest: object) -> Encoded:
        kind, data = self._serde.dumps_typed(rest)
        if not self.parts:
            return Encoded(kind, data)
        where = self._serde.dumps_typed(self.parts)[1]
        keys = list(self._numbers)
        return Encoded(
            kind=SHARED,
            data=b"".join((_COUNT.pack(len(keys)), *keys, _COUNT.pack(len(where)), where, data)),
            blobs=list(self._blobs.items()),
            chunks=list(self._chunks.values()),
            reuses=len(self._blobs) < len(keys),
        )

    def small(self, value: object, path: Path) -> object:
        """The value without its large parts."""
        match value:
            case None | bool() | int() | float():
                return value
            case str() | bytes() if len(value) < LARGE // 4:
                return value
            case [BaseMessage(), *_] if type(value) is list:
                return self._without_chunks(cast("list[object]", value), path)
            case [Send(), *_] if type(value) is list:
                return [self._small_send(item, (*path, at)) for at, item in enumerate(cast("list[object]", value))]
            case _:
                return self._small_other(value, path)

    def _small_send(self, item: object, path: Path) -> object:
        if type(item) is not Send or type(item.arg) is not dict:
            return item
        argument = cast("dict[object, object]", item.arg)
        if not _has_plain_keys(argument):
            return item
        return Send(item.node, self._small_dict(argument, path), timeout=item.timeout)

    def _small_other(self, value: object, path: Path) -> object:
        written = self._serde.dumps_typed(value)
        if len(written[1]) < LARGE:
            return value
        if type(value) is dict and _has_plain_keys(cast("dict[object, object]", value)):
            return self._small_dict(cast("dict[object, object]", value), path)
        if type(value) is list and len(written[1]) >= _SMALLEST_ITEM * len(cast("list[object]", value)):
            return self._without_chunks(cast("list[object]", value), path)
        self._take(written, path)
        return None

    def _small_dict(self, value: dict[object, object], path: Path) -> dict[object, object]:
        return {key: self._small_entry(item, (*path, key)) for key, item in value.items()}

    def _small_entry(self, value: object, path: Path) -> object:
        """As ``small``, but no deeper: a dict in a dict is one part or none."""
        if type(value) is not dict:
            return self.small(value, path)
        written = self._serde.dumps_typed(value)
        if len(written[1]) < LARGE:
            return cast("object", value)
        self._take(written, path)
        return None

    def _without_chunks(self, items: list[object], path: Path) -> list[object]:
        """The end of the list, which is in no chunk yet."""
        known = self._lists.get(id(items))
        numbers, end = known or self._cut(items)
        self._lists[id(items)] = (numbers, end)
        if numbers:
            self.parts.append((path, _LIST, numbers))
        return items[end:]

    def _cut(self, items: list[object]) -> tuple[list[int], int]:
        numbers: list[int] = []
        at = 0
        while at < len(items):
            chunk = self._known.recognize(self._serde, items, at)
            if chunk is None:
                cut = cut_chunk(self._serde, items, at, self._known)
                if cut is None:
                    break
                chunk, written = cut
                self._store(chunk.key, written)
                self._chunks[chunk.key] = chunk
            numbers.append(self._number(chunk.key))
            at += chunk.length
        return numbers, at

    def _take(self, written: Written, path: Path) -> None:
        key = key_of(written)
        self._store(key, written)
        self.parts.append((path, _VALUE, [self._number(key)]))

    def _store(self, key: Key, written: Written) -> None:
        if key not in self._known.stored:
            self._blobs[key] = written

    def _number(self, key: Key) -> int:
        return self._numbers.setdefault(key, len(self._numbers))


def _has_plain_keys(value: dict[object, object]) -> bool:
    """Whether they come back as they were, so that a place below can be named."""
    return all(type(key) is str for key in value)


def _opened(serde: SerializerProtocol, data: bytes) -> tuple[Any, Sequence[Taken], Sequence[Key]]:
    """What is left of the value, what was taken out, and the keys of the row's parts."""
    keys = keys_of(SHARED, data)
    at = _COUNT.size + KEY_BYTES * len(keys)
    (length,) = _COUNT.unpack_from(data, at)
    at += _COUNT.size
    left = serde.loads_typed(("msgpack", data[at + length :]))
    return left, serde.loads_typed(("msgpack", data[at : at + length])), keys


def _put_back(
    serde: SerializerProtocol,
    box: dict[Any, Any] | list[Any],
    taken: Sequence[Taken],
    parts: Sequence[tuple[Key, Written]],
    known: KnownChunks,
) -> None:
    for path, form, numbers in taken:
        place: Any = box
        for step in path[:-1]:
            place = place[step]
            if isinstance(place, Send):
                place = place.arg
        if form == _VALUE:
            place[path[-1]] = read_part(serde, parts[numbers[0]][1])
            continue
        # Each place gets objects of its own: graphs may alter them.
        items: list[object] = []
        for number in numbers:
            chunk, found = read_chunk(serde, *parts[number], at=len(items))
            known.note((), (chunk,))
            items += found
        place[path[-1]] = [*items, *place[path[-1]]]
