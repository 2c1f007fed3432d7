"""The state file beside an unfinished download: which of its pieces are durable.

Little-endian, three parts:

    header   128 bytes: magic "LSRESUM2", u16 version, u16 flags, info hash 32, root 32, u64 size,
             u32 piece length, u32 pieces, u64 device, u64 inode, u64 generation, padding,
             u32 crc32 of what precedes
    layer    pieces x 32 bytes, the proven piece layer, then u32 crc32 of it
    journal  append-only records: u32 magic, u32 count, u64 generation, count x u32 piece,
             u32 crc32 of what precedes in the record

Device and inode are those of the part file. A piece stands in a record only after its bytes were
durable. Reading stops at the first record that is torn, so whatever tail a crash left is ignored.
Only bytes here, no files.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from node.torrent.limits import CHECKPOINT_BYTES, HASH_BYTES, LEAF_BYTES, MAX_PIECES
from node.torrent.sizes import Layout

MAGIC = b"LSRESUM2"
VERSION = 2
RECORD_MAGIC = 0x4C535243
HEADER = struct.Struct("<8sHH32s32sQIIQQQ8xI")
_RECORD = struct.Struct("<IIQ")
_CRC = struct.Struct("<I")
RESTARTED = 1
"""Flag: a process took this download over, so the file is hashed once more before its end."""
BAD = 2
"""Flag: a sync failed, so no record is believed."""

assert HEADER.size == 128


class StateDamagedError(Exception):
    """The state file says nothing that can be believed; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a state file is about. Hashes are 32 bytes; device and inode are the part file's."""

    info_hash: bytes
    root: bytes
    layout: Layout
    device: int
    inode: int
    generation: int
    flags: int


@dataclass(frozen=True, slots=True)
class SavedState:
    """A state file as read: its header, piece layer and the whole records of its journal."""

    header: Header
    layer: bytes
    records: tuple[tuple[int, ...], ...]

    @property
    def pieces(self) -> frozenset[int]:
        """Every piece of the journal."""
        return frozenset(piece for record in self.records for piece in record)


def body_bytes(layout: Layout) -> int:
    """Bytes of header and layer: where the journal begins."""
    return HEADER.size + layout.pieces * HASH_BYTES + _CRC.size


def max_bytes(layout: Layout) -> int:
    """No state file of this layout is longer: each piece in a record of its own, and a torn one."""
    per_record = _RECORD.size + _CRC.size
    return body_bytes(layout) + layout.pieces * (per_record + 4) + per_record + layout.pieces * 4


MAX_STATE_BYTES = max_bytes(Layout(MAX_PIECES * LEAF_BYTES, LEAF_BYTES))
"""No state file of any download is longer."""


def write_header(header: Header) -> bytes:
    """The 128 bytes of a header."""
    raw = HEADER.pack(
        MAGIC,
        VERSION,
        header.flags,
        header.info_hash,
        header.root,
        header.layout.size,
        header.layout.piece_length,
        header.layout.pieces,
        header.device,
        header.inode,
        header.generation,
        0,
    )
    return raw[: -_CRC.size] + _CRC.pack(zlib.crc32(raw[: -_CRC.size]))


def write_record(generation: int, pieces: Sequence[int]) -> bytes:
    """One journal record."""
    body = _RECORD.pack(RECORD_MAGIC, len(pieces), generation)
    body += struct.pack(f"<{len(pieces)}I", *pieces)
    return body + _CRC.pack(zlib.crc32(body))


def write_state(header: Header, layer: bytes, pieces: Iterable[int]) -> bytes:
    """A whole compacted state file; `pieces` in records of one checkpoint's size each."""
    parts = [write_header(header), layer, _CRC.pack(zlib.crc32(layer))]
    ordered = sorted(pieces)
    step = max(1, CHECKPOINT_BYTES // header.layout.piece_length)
    for start in range(0, len(ordered), step):
        parts.append(write_record(header.generation, ordered[start : start + step]))
    return b"".join(parts)


def read_header(raw: bytes) -> Header:
    """The header at the start of `raw`; StateDamagedError when it is none of ours."""
    if len(raw) < HEADER.size:
        raise StateDamagedError("shorter than its header")
    (
        magic,
        version,
        flags,
        info_hash,
        root,
        size,
        piece_length,
        pieces,
        device,
        inode,
        generation,
        crc,
    ) = HEADER.unpack_from(raw)
    if magic != MAGIC:
        raise StateDamagedError("not a state file")
    if crc != zlib.crc32(raw[: HEADER.size - _CRC.size]):
        raise StateDamagedError("its header does not match its checksum")
    if version != VERSION:
        raise StateDamagedError(f"version {version}, this program writes {VERSION}")
    if any(raw[HEADER.size - 12 : HEADER.size - 4]):
        raise StateDamagedError("its header has bytes where none belong")
    try:
        layout = Layout(size, piece_length)
    except ValueError as error:
        raise StateDamagedError(f"its header makes no sense ({error})") from error
    if layout.pieces != pieces or pieces > MAX_PIECES:
        raise StateDamagedError(f"{pieces} pieces in its header")
    return Header(info_hash, root, layout, device, inode, generation, flags)


def read_state(raw: bytes) -> SavedState:
    """A state file; StateDamagedError when header or layer are damaged, torn records ignored."""
    header = read_header(raw)
    start = body_bytes(header.layout)
    if len(raw) < start:
        raise StateDamagedError("shorter than its piece layer")
    layer = raw[HEADER.size : start - _CRC.size]
    if _CRC.unpack_from(raw, start - _CRC.size)[0] != zlib.crc32(layer):
        raise StateDamagedError("its piece layer does not match its checksum")
    records: list[tuple[int, ...]] = []
    at = start
    while True:
        record = _record_at(raw, at, header)
        if record is None:
            break
        records.append(record)
        at += _RECORD.size + 4 * len(record) + _CRC.size
    return SavedState(header, layer, tuple(records))


def _record_at(raw: bytes, at: int, header: Header) -> tuple[int, ...] | None:
    if len(raw) < at + _RECORD.size:
        return None
    magic, count, generation = _RECORD.unpack_from(raw, at)
    end = at + _RECORD.size + 4 * count
    if (
        magic != RECORD_MAGIC
        or generation != header.generation
        or not 0 < count <= header.layout.pieces
        or len(raw) < end + _CRC.size
        or _CRC.unpack_from(raw, end)[0] != zlib.crc32(raw[at:end])
    ):
        return None
    pieces: tuple[int, ...] = struct.unpack_from(f"<{count}I", raw, at + _RECORD.size)
    if max(pieces) >= header.layout.pieces:
        return None
    return pieces
