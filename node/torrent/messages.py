"""The messages of `/llama-torrent/2.0`: what two peers can say about one file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

import msgspec

from node.torrent.limits import BLOCK_BYTES, LEAF_BYTES
from node.torrent.sizes import Block

PROTOCOL = "/llama-torrent/2.0"
VERSION = 2


class FrameType(IntEnum):
    HELLO = 0x01
    OPEN = 0x02
    OPEN_OK = 0x03
    HASH_REQUEST = 0x04
    HASHES = 0x05
    REQUEST = 0x06
    DATA = 0x07
    REJECT = 0x08
    CANCEL = 0x09
    HAVE = 0x0A
    CHOKE = 0x0B
    UNCHOKE = 0x0C
    PING = 0x0D
    ERROR = 0x0E
    BYE = 0x0F
    PONG = 0x10


class ErrorCode(IntEnum):
    """Why a stream ends with ERROR."""

    PROTOCOL = 1
    LIMIT = 2
    UNKNOWN_FILE = 3
    BUSY = 4
    GONE = 5
    INTERNAL = 6


class Why(IntEnum):
    """Why a block was rejected."""

    NOT_HERE = 1
    BUSY = 2
    CHOKED = 3
    CORRUPT = 4
    BAD_BLOCK = 5
    CANCELLED = 6


class WireError(Exception):
    """The peer broke the protocol: send ERROR(code, text), reset the stream, count a strike."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.frames: list[Frame] = []


class Hello(msgspec.Struct, frozen=True):
    """First frame of both sides. max_inflight and max_block in bytes."""

    v: int
    agent: Annotated[str, msgspec.Meta(max_length=96)]
    features: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=32)], ...], msgspec.Meta(max_length=32)
    ]
    max_inflight: Annotated[int, msgspec.Meta(ge=BLOCK_BYTES, le=1 << 32)]
    max_block: Annotated[int, msgspec.Meta(ge=LEAF_BYTES, le=1 << 32)]


@dataclass(frozen=True, slots=True)
class Open:
    """Ask for a file: info hash and root (32 bytes each), size in bytes, log2 of piece length."""

    info_hash: bytes
    root: bytes
    size: int
    piece_log2: int


@dataclass(frozen=True, slots=True)
class OpenOk:
    """What the peer has: `everything`, or a bit per piece (first piece: highest bit of byte 0)."""

    everything: bool
    bits: bytes = b""

    def pieces(self, count: int) -> list[int] | None:
        """The pieces it has of `count`, None for all; WireError when the bits do not fit."""
        if self.everything:
            return None
        if not self.bits:
            return []
        if len(self.bits) != -(-count // 8):
            raise WireError(ErrorCode.PROTOCOL, f"{len(self.bits)} bytes of bits for {count}")
        if count % 8 and self.bits[-1] & (0xFF >> count % 8):
            raise WireError(ErrorCode.PROTOCOL, "spare bits are set")
        return [piece for piece in range(count) if self.bits[piece >> 3] & (0x80 >> (piece & 7))]


@dataclass(frozen=True, slots=True)
class HashRequest:
    """Ask for `count` nodes of `layer` (0: leaves) from `index` with `proof` layers of uncles."""

    layer: int
    index: int
    count: int
    proof: int


@dataclass(frozen=True, slots=True)
class Hashes:
    """The answer to `request`: count x 32 bytes of nodes, then the uncles."""

    request: HashRequest
    nodes: bytes
    uncles: bytes


@dataclass(frozen=True, slots=True)
class Request:
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Data:
    """The bytes of a block; `data` is a buffer of its own, not shared with the parser."""

    piece: int
    offset: int
    data: bytes | bytearray | memoryview

    @property
    def block(self) -> Block:
        """Which block it is."""
        return Block(self.piece, self.offset, len(self.data))


@dataclass(frozen=True, slots=True)
class Reject:
    """Blocks that will not come, each with its `Why` (unknown numbers are kept)."""

    blocks: tuple[tuple[Block, int], ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Have:
    pieces: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Choke:
    """Ask nothing for at least `retry_ms`."""

    retry_ms: int


@dataclass(frozen=True, slots=True)
class Unchoke:
    """Ask again; `slots` is how many peers are served at once."""

    slots: int


@dataclass(frozen=True, slots=True)
class Ping:
    token: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    token: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """ERROR: the peer ends the stream. `text` is cleaned when it was received."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Bye:
    """An orderly end; the end of the stream without it is a failure."""


Message = (
    Hello
    | Open
    | OpenOk
    | HashRequest
    | Hashes
    | Request
    | Data
    | Reject
    | Cancel
    | Have
    | Choke
    | Unchoke
    | Ping
    | Pong
    | Failure
    | Bye
)


@dataclass(frozen=True, slots=True)
class Frame:
    """A message and the request id of its header."""

    req_id: int
    message: Message
