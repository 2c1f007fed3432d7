"""Read the header of a GGUF file that may be damaged or hostile.

llama.cpp stops the whole process on some bad files, so whatever is handed to it was read here
first. Nothing is allocated by a declared length before that length was checked against the file
and against a limit. Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from node.clean import clean
from node.errors import PlainError
from node.shards.tensor_types import TENSOR_TYPES, TensorType

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
DEFAULT_ALIGNMENT: Final = 32

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = (
    range(13)
)
SCALARS: Final[dict[int, struct.Struct]] = {
    UINT8: struct.Struct("<B"),
    INT8: struct.Struct("<b"),
    UINT16: struct.Struct("<H"),
    INT16: struct.Struct("<h"),
    UINT32: struct.Struct("<I"),
    INT32: struct.Struct("<i"),
    FLOAT32: struct.Struct("<f"),
    BOOL: struct.Struct("<?"),
    UINT64: struct.Struct("<Q"),
    INT64: struct.Struct("<q"),
    FLOAT64: struct.Struct("<d"),
}

MAX_HEADER_BYTES: Final = 64 << 20
MAX_KEYS: Final = 4096
MAX_TENSORS: Final = 32768
MAX_KEY_BYTES: Final = 1024
MAX_TEXT_BYTES: Final = 4 << 20
MAX_TENSOR_NAME_BYTES: Final = 63
MAX_DIMENSIONS: Final = 4
MAX_ALIGNMENT: Final = 1 << 20
# Longer values are stepped over, not kept: nobody here reads a vocabulary or a chat template.
KEPT_TEXT_BYTES: Final = 64 << 10
KEPT_ITEMS: Final = 4096

_READ_AHEAD: Final = 256 << 10

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One metadata record. `start` and `end` are the file offsets of the whole record.

    value: a scalar, a tuple for a short array of numbers, or None where it was stepped over.
    count: number of items of an array, 1 for anything else.
    """

    key: str
    type: int
    element_type: int
    count: int
    value: Scalar | tuple[Scalar, ...] | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor. `shape` is in GGUF order (row length first); `offset` counts from the file's
    first byte; `nbytes` is the exact encoded size without padding."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """A validated header: every tensor lies inside the file, where llama.cpp expects it."""

    path: Path
    size: int
    alignment: int
    data_start: int
    metadata: dict[str, KeyValue]
    tensors: dict[str, Tensor]

    def text(self, key: str) -> str | None:
        """The string stored under `key`, or None where absent or of another type."""
        record = self.metadata.get(key)
        return record.value if record is not None and isinstance(record.value, str) else None

    def integer(self, key: str) -> int | None:
        """The integer stored under `key`, or None where absent or of another type."""
        record = self.metadata.get(key)
        if record is None or isinstance(record.value, bool) or not isinstance(record.value, int):
            return None
        return record.value


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of the GGUF file at `path`.

    Reads no tensor data. Raises PlainError for a missing, unreadable, foreign, damaged or
    truncated file, and never anything else.
    """
    path = Path(path)
    name = clean(path.name, 120)
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise PlainError(  # opening a named pipe would wait for ever
                f"{clean(path, 300)} is not a regular file.", "Name a GGUF file."
            )
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            return _Reader(file, path, name, status.st_size).read()
    except FileNotFoundError:
        raise PlainError(
            f"There is no file {clean(path, 300)}.", "Check the path, or split a model into it."
        ) from None
    except IsADirectoryError:
        raise PlainError(
            f"{clean(path, 300)} is a folder, not a GGUF file.", "Name the file inside it."
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PlainError(
            f"{clean(path, 300)} cannot be read: {clean(reason)}.", "Check its permissions."
        ) from None


class _Reader:
    """A forward-only cursor over the header, which reads ahead in bounded steps."""

    def __init__(self, file: BinaryIO, path: Path, name: str, size: int) -> None:
        self._file = file
        self._path = path
        self._name = name
        self._size = size
        self._buffer = bytearray()
        self._position = 0

    def read(self) -> Header:
        if self._size < 4 or self._take(4) != MAGIC:
            raise PlainError(
                f"{self._name} is not a GGUF file.",
                "Convert the model to GGUF first, or name another file.",
            )
        version = self._scalar(UINT32)
        if version not in VERSIONS:
            self._damaged(f"its format version is {version}, and versions 2 and 3 are known")
        tensor_count = self._count(UINT64, MAX_TENSORS, "tensors")
        key_count = self._count(UINT64, MAX_KEYS, "metadata keys")
        metadata: dict[str, KeyValue] = {}
        for _ in range(key_count):
            record = self._key_value()
            if record.key in metadata:
                self._damaged(f"it holds the key '{clean(record.key, 60)}' twice")
            metadata[record.key] = record
        alignment = self._alignment(metadata.get("general.alignment"))
        rows = [self._tensor_row() for _ in range(tensor_count)]
        data_start = _padded(self._position, alignment)
        tensors = self._place(rows, data_start, alignment)
        return Header(self._path, self._size, alignment, data_start, metadata, tensors)

    def _place(
        self, rows: list[tuple[str, tuple[int, ...], TensorType, int]], data_start: int, align: int
    ) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        expected = 0
        needed = data_start if rows else self._position
        for name, shape, kind, offset in rows:
            shown = clean(name, 63)
            if name in tensors:
                self._damaged(f"it holds the tensor '{shown}' twice")
            if offset != expected:
                self._damaged(f"tensor '{shown}' is not where its predecessors end")
            nbytes = kind.nbytes * (shape[0] // kind.block)
            for length in shape[1:]:
                nbytes *= length
            tensors[name] = Tensor(name, shape, kind, data_start + offset, nbytes)
            needed = data_start + offset + nbytes
            expected = _padded(offset + nbytes, align)
        if needed > self._size:
            self._truncated(needed, "tensors need")
        return tensors

    def _tensor_row(self) -> tuple[str, tuple[int, ...], TensorType, int]:
        name = self._text(MAX_TENSOR_NAME_BYTES, "a tensor name")
        shown = clean(name, 63)
        rank = self._scalar(UINT32)
        if not 1 <= rank <= MAX_DIMENSIONS:
            self._damaged(f"tensor '{shown}' has {rank} dimensions")
        shape = tuple(int(self._scalar(UINT64)) for _ in range(int(rank)))
        elements = 1
        for length in shape:
            elements *= length
        if not 0 < elements < 1 << 48:
            self._damaged(f"tensor '{shown}' has an impossible shape")
        number = self._scalar(UINT32)
        kind = TENSOR_TYPES.get(int(number))
        if kind is None:
            self._damaged(f"tensor '{shown}' has the unknown type {number}")
        if shape[0] % kind.block:
            self._damaged(f"a row of tensor '{shown}' is not whole blocks of {kind.name}")
        return name, shape, kind, int(self._scalar(UINT64))

    def _key_value(self) -> KeyValue:
        start = self._position
        key = self._text(MAX_KEY_BYTES, "a metadata key")
        if not key:
            self._damaged("a metadata key is empty")
        kind = int(self._scalar(UINT32))
        value: Scalar | tuple[Scalar, ...] | None
        element, count = kind, 1
        if kind == ARRAY:
            element = int(self._scalar(UINT32))
            count = int(self._scalar(UINT64))
            value = self._array(key, element, count)
        elif kind == STRING:
            length = self._peek_length()
            keep = length <= KEPT_TEXT_BYTES
            raw = self._bytes(MAX_TEXT_BYTES, f"the value of '{clean(key, 60)}'")
            value = raw.decode("utf-8", "replace") if keep else None
        elif kind in SCALARS:
            value = self._scalar(kind)
        else:
            self._damaged(f"the key '{clean(key, 60)}' has the unknown type {kind}")
        return KeyValue(key, kind, element, count, value, start, self._position)

    def _array(self, key: str, element: int, count: int) -> tuple[Scalar, ...] | None:
        if element == STRING:
            self._skip_texts(count)
            return None
        layout = SCALARS.get(element)
        if layout is None:
            self._damaged(f"the array '{clean(key, 60)}' holds the unknown type {element}")
        nbytes = layout.size * count
        self._need(nbytes)
        start = self._position
        self._position += nbytes
        if count > KEPT_ITEMS:
            return None
        return tuple(row[0] for row in layout.iter_unpack(self._buffer[start : start + nbytes]))

    def _skip_texts(self, count: int) -> None:
        # The one loop that runs once per vocabulary entry; everything in it is a local.
        if count * 8 > self._size - self._position:
            self._truncated(self._position + count * 8, "header needs")
        buffer, position = self._buffer, self._position
        unpack = SCALARS[UINT64].unpack_from
        filled = len(buffer)
        for _ in range(count):
            if position + 8 > filled:
                self._position = position
                self._need(8)
                filled = len(buffer)
            length = unpack(buffer, position)[0]
            if length > MAX_TEXT_BYTES:
                self._damaged(f"a text in it declares {length} bytes")
            position += 8 + length
        self._position = min(position, filled)
        self._need(position - self._position)
        self._position = position

    def _alignment(self, record: KeyValue | None) -> int:
        if record is None:
            return DEFAULT_ALIGNMENT
        value = record.value
        if (
            record.type != UINT32
            or not isinstance(value, int)
            or not 0 < value <= MAX_ALIGNMENT
            or value & (value - 1)
        ):
            self._damaged("its alignment is not a power of two")
        return value

    def _count(self, kind: int, limit: int, what: str) -> int:
        count = int(self._scalar(kind))
        if count > limit:
            self._damaged(f"it declares {count} {what}, and {limit} is the limit")
        return count

    def _scalar(self, kind: int) -> int | float | bool:
        layout = SCALARS[kind]
        self._need(layout.size)
        value: int | float | bool = layout.unpack_from(self._buffer, self._position)[0]
        self._position += layout.size
        return value

    def _peek_length(self) -> int:
        self._need(8)
        length: int = SCALARS[UINT64].unpack_from(self._buffer, self._position)[0]
        return length

    def _bytes(self, limit: int, what: str) -> bytes:
        length = int(self._scalar(UINT64))
        if length > limit:
            self._damaged(f"{what} declares {length} bytes, and {limit} is the limit")
        return self._take(length)

    def _text(self, limit: int, what: str) -> str:
        try:
            return self._bytes(limit, what).decode("utf-8")
        except UnicodeDecodeError:
            self._damaged(f"{what} is not text")

    def _take(self, count: int) -> bytes:
        self._need(count)
        start = self._position
        self._position += count
        return bytes(self._buffer[start : self._position])

    def _need(self, count: int) -> None:
        """Have `count` more bytes in the buffer, or say why that cannot be."""
        end = self._position + count
        if end <= len(self._buffer):
            return
        if end > self._size:
            self._truncated(end, "header needs at least")
        if end > MAX_HEADER_BYTES:
            self._damaged(f"its header is larger than {MAX_HEADER_BYTES >> 20} MiB")
        self._buffer += self._file.read(max(end - len(self._buffer), _READ_AHEAD))
        if end > len(self._buffer):
            self._truncated(end, "header needs at least")

    def _truncated(self, needed: int, what: str) -> NoReturn:
        raise PlainError(
            f"{self._name} ends at {self._size:,} bytes but its {what} {needed:,}.",
            "Copy or download the file again: it is not complete.",
        )

    def _damaged(self, reason: str) -> NoReturn:
        raise PlainError(f"{self._name} is damaged: {reason}.", "Copy or download the file again.")


def _padded(offset: int, alignment: int) -> int:
    return (offset + alignment - 1) // alignment * alignment
