"""Write the header of a GGUF file, version 3, little-endian.

Records of another file can be passed through as raw bytes, so that nothing of the metadata of a
model is decoded, rounded or lost on its way into a shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from node.shards.header import ARRAY, BOOL, FLOAT32, INT32, MAGIC, SCALARS, STRING, UINT32, UINT64
from node.shards.tensor_types import TensorType

VERSION = 3

_ITEM_TYPES: dict[type, int] = {bool: BOOL, int: INT32, float: FLOAT32, str: STRING}


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """A tensor to be written: its name, its shape (row length first) and its encoding."""

    name: str
    shape: tuple[int, ...]
    type: TensorType

    @property
    def nbytes(self) -> int:
        """Encoded size in bytes, without padding."""
        total = self.shape[0] // self.type.block * self.type.nbytes
        for length in self.shape[1:]:
            total *= length
        return total


def padding(offset: int, alignment: int) -> int:
    """How many zero bytes bring `offset` to the next multiple of `alignment`."""
    return -offset % alignment


def text(key: str, value: str) -> bytes:
    """A string record."""
    return _string(key) + _u32(STRING) + _string(value)


def scalar(key: str, value: int | float | bool, kind: int = UINT32) -> bytes:
    """A scalar record of the GGUF type `kind`; struct.error where the value does not fit."""
    return _string(key) + _u32(kind) + SCALARS[kind].pack(value)


def array(key: str, values: Sequence[int | float | bool | str], kind: int | None = None) -> bytes:
    """An array record; `kind` is its element type, by default i32, f32, bool or string."""
    if kind is None:
        kind = _ITEM_TYPES[type(values[0])]
    if kind == STRING:
        body = b"".join(_string(str(value)) for value in values)
    else:
        body = b"".join(map(SCALARS[kind].pack, values))
    return _string(key) + _u32(ARRAY) + _u32(kind) + _u64(len(values)) + body


def header(records: Sequence[bytes], tensors: Iterable[TensorPlan], alignment: int) -> bytes:
    """The whole header up to the first tensor's first byte, padding included."""
    rows = []
    offset = 0
    for tensor in tensors:
        rows.append(
            _string(tensor.name)
            + _u32(len(tensor.shape))
            + b"".join(map(_u64, tensor.shape))
            + _u32(tensor.type.number)
            + _u64(offset)
        )
        offset += tensor.nbytes + padding(tensor.nbytes, alignment)
    start = MAGIC + _u32(VERSION) + _u64(len(rows)) + _u64(len(records))
    out = b"".join((start, *records, *rows))
    return out + bytes(padding(len(out), alignment))


def _string(value: str) -> bytes:
    raw = value.encode("utf-8")
    return _u64(len(raw)) + raw


def _u32(value: int) -> bytes:
    return SCALARS[UINT32].pack(value)


def _u64(value: int) -> bytes:
    return SCALARS[UINT64].pack(value)
