"""The frames of `/llama-torrent/2.0`: limits, encoding and decoding of the messages.

A frame is a header of 12 bytes, big-endian (u32 payload length, u8 type, u8 flags = 0, u16 0,
u32 request id), and its payload. The answers HASHES, DATA, REJECT, OPEN_OK and PONG carry the
request id of what they answer. `LENGTHS` bounds every payload before it is read, the decoders
bound what is in it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from node.clean import clean
from node.torrent.limits import (
    BLOCK_BYTES,
    HASH_BYTES,
    LEAF_BYTES,
    MAX_BLOCKS_PER_FRAME,
    MAX_ERROR_BYTES,
    MAX_FILE_BYTES,
    MAX_HASHES,
    MAX_HAVE_PER_FRAME,
    MAX_HELLO_BYTES,
    MAX_PIECE_BYTES,
    MAX_PIECES,
    MAX_SLOTS,
    MAX_UNCLES,
    MIN_HASHES,
    RETRY_MS,
)
from node.torrent.merkle import Buffer, uncle_count
from node.torrent.messages import (
    VERSION,
    Bye,
    Cancel,
    Choke,
    Data,
    ErrorCode,
    Failure,
    FrameType,
    Hashes,
    HashRequest,
    Have,
    Hello,
    Message,
    Open,
    OpenOk,
    Ping,
    Pong,
    Reject,
    Request,
    Unchoke,
    WireError,
)
from node.torrent.sizes import Block

HEADER = struct.Struct(">IBBHI")
MAX_LAYER = 26
"""The layer of the root of a file of MAX_FILE_BYTES."""

_BLOCK = struct.Struct(">III")
_REJECT = struct.Struct(">IIIB")
_OPEN = struct.Struct(">32s32sQB")
_HASH = struct.Struct(">BIHB")
DATA_HEAD = struct.Struct(">II")
_U32 = struct.Struct(">I")
_U16 = struct.Struct(">H")

LENGTHS: dict[FrameType, tuple[int, int, int, int]] = {
    # least, most, and: (length - head) is a multiple of step
    FrameType.HELLO: (2, MAX_HELLO_BYTES, 0, 1),
    FrameType.OPEN: (_OPEN.size, _OPEN.size, 0, 1),
    FrameType.OPEN_OK: (1, 1 + MAX_PIECES // 8, 0, 1),
    FrameType.HASH_REQUEST: (_HASH.size, _HASH.size, 0, 1),
    FrameType.HASHES: (
        _HASH.size + MIN_HASHES * HASH_BYTES,
        _HASH.size + (MAX_HASHES + MAX_UNCLES) * HASH_BYTES,
        _HASH.size,
        HASH_BYTES,
    ),
    FrameType.REQUEST: (_BLOCK.size, MAX_BLOCKS_PER_FRAME * _BLOCK.size, 0, _BLOCK.size),
    FrameType.DATA: (DATA_HEAD.size + 1, DATA_HEAD.size + BLOCK_BYTES, 0, 1),
    FrameType.REJECT: (_REJECT.size, MAX_BLOCKS_PER_FRAME * _REJECT.size, 0, _REJECT.size),
    FrameType.CANCEL: (_BLOCK.size, MAX_BLOCKS_PER_FRAME * _BLOCK.size, 0, _BLOCK.size),
    FrameType.HAVE: (_U32.size, MAX_HAVE_PER_FRAME * _U32.size, 0, _U32.size),
    FrameType.CHOKE: (_U32.size, _U32.size, 0, 1),
    FrameType.UNCHOKE: (_U32.size, _U32.size, 0, 1),
    FrameType.PING: (8, 8, 0, 1),
    FrameType.PONG: (8, 8, 0, 1),
    FrameType.ERROR: (_U16.size, _U16.size + MAX_ERROR_BYTES, 0, 1),
    FrameType.BYE: (0, 0, 0, 1),
}

_TYPES: dict[type[Message], FrameType] = {
    Hello: FrameType.HELLO,
    Open: FrameType.OPEN,
    OpenOk: FrameType.OPEN_OK,
    HashRequest: FrameType.HASH_REQUEST,
    Hashes: FrameType.HASHES,
    Request: FrameType.REQUEST,
    Data: FrameType.DATA,
    Reject: FrameType.REJECT,
    Cancel: FrameType.CANCEL,
    Have: FrameType.HAVE,
    Choke: FrameType.CHOKE,
    Unchoke: FrameType.UNCHOKE,
    Ping: FrameType.PING,
    Pong: FrameType.PONG,
    Failure: FrameType.ERROR,
    Bye: FrameType.BYE,
}


def encode(message: Message, req_id: int = 0) -> bytes:
    """One whole frame. ValueError when the message breaks a limit or does not decode again."""
    kind = _TYPES[type(message)]
    try:
        payload = _payload(message)
    except struct.error as error:
        raise ValueError(f"a field of {kind.name} is out of range") from error
    try:
        check_length(kind, len(payload))
        if kind is not FrameType.DATA:
            decode(kind, payload)
    except WireError as error:
        raise ValueError(error.text) from error
    return HEADER.pack(len(payload), kind, 0, 0, req_id) + payload


def data_head(piece: int, offset: int, length: int, req_id: int) -> bytes:
    """The 20 bytes before the bytes of a block, for sending those without a copy."""
    if not 0 < length <= BLOCK_BYTES:
        raise ValueError(f"a block of {length} bytes")
    head = HEADER.pack(DATA_HEAD.size + length, FrameType.DATA, 0, 0, req_id)
    return head + DATA_HEAD.pack(piece, offset)


def bits_of(pieces: Sequence[int] | frozenset[int], count: int) -> OpenOk:
    """The OPEN_OK for a holder of `pieces` of `count`."""
    if len(pieces) == count:
        return OpenOk(True)
    if not pieces:
        return OpenOk(False)
    bits = bytearray(-(-count // 8))
    for piece in pieces:
        bits[piece >> 3] |= 0x80 >> (piece & 7)
    return OpenOk(False, bytes(bits))


def _payload(message: Message) -> bytes:
    match message:
        case Hello():
            return msgspec.json.encode(message)
        case Open():
            return _OPEN.pack(message.info_hash, message.root, message.size, message.piece_log2)
        case OpenOk():
            kind = 1 if message.everything else 2 if message.bits else 0
            return bytes([kind]) + message.bits
        case HashRequest():
            return _HASH.pack(message.layer, message.index, message.count, message.proof)
        case Hashes():
            return _payload(message.request) + message.nodes + message.uncles
        case Request() | Cancel():
            return b"".join([_BLOCK.pack(*block) for block in message.blocks])
        case Data():
            return DATA_HEAD.pack(message.piece, message.offset) + bytes(message.data)
        case Reject():
            return b"".join([_REJECT.pack(*block, why) for block, why in message.blocks])
        case Have():
            return b"".join([_U32.pack(piece) for piece in message.pieces])
        case Choke():
            return _U32.pack(message.retry_ms)
        case Unchoke():
            return _U32.pack(message.slots)
        case Ping() | Pong():
            return message.token
        case Failure():
            text = message.text.encode("utf-8", "replace")[:MAX_ERROR_BYTES]
            return _U16.pack(message.code) + text
        case Bye():
            return b""


def check_length(kind: FrameType, length: int) -> None:
    """WireError unless a payload of `length` bytes is possible for this type."""
    least, most, head, step = LENGTHS[kind]
    if not least <= length <= most:
        raise WireError(
            ErrorCode.LIMIT, f"{kind.name} of {length} bytes, {least} to {most} are allowed"
        )
    if (length - head) % step:
        raise WireError(ErrorCode.PROTOCOL, f"{kind.name} of {length} bytes ends inside an item")


def decode(kind: FrameType, payload: Buffer) -> Message:
    """The message of a payload whose length was checked; WireError for values out of bounds."""
    match kind:
        case FrameType.HELLO:
            return _hello(payload)
        case FrameType.OPEN:
            return _open(payload)
        case FrameType.OPEN_OK:
            return _open_ok(payload)
        case FrameType.HASH_REQUEST:
            return _hash_request(payload)
        case FrameType.HASHES:
            return _hashes(payload)
        case FrameType.REQUEST:
            return Request(_blocks(payload))
        case FrameType.CANCEL:
            return Cancel(_blocks(payload))
        case FrameType.REJECT:
            items = [_REJECT.unpack_from(payload, at) for at in range(0, len(payload), 13)]
            return Reject(
                tuple((check_block(item[0], item[1], item[2]), item[3]) for item in items)
            )
        case FrameType.DATA:
            piece, offset = DATA_HEAD.unpack_from(payload)
            data = memoryview(payload)[DATA_HEAD.size :]
            check_block(piece, offset, len(data))
            return Data(piece, offset, data)
        case FrameType.HAVE:
            pieces = struct.unpack(f">{len(payload) // 4}I", payload)
            if max(pieces) >= MAX_PIECES:
                raise WireError(ErrorCode.LIMIT, f"piece {max(pieces)} in HAVE")
            return Have(pieces)
        case FrameType.CHOKE:
            return Choke(_bounded(payload, *RETRY_MS, "retry_ms"))
        case FrameType.UNCHOKE:
            return Unchoke(_bounded(payload, 1, MAX_SLOTS, "slots"))
        case FrameType.PING:
            return Ping(bytes(payload))
        case FrameType.PONG:
            return Pong(bytes(payload))
        case FrameType.ERROR:
            text = bytes(payload[_U16.size :]).decode("utf-8", "replace")
            return Failure(_U16.unpack_from(payload)[0], clean(text, MAX_ERROR_BYTES))
        case FrameType.BYE:
            return Bye()


def _hello(payload: Buffer) -> Hello:
    try:
        found = msgspec.json.decode(payload, type=Hello)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(ErrorCode.PROTOCOL, f"HELLO: {clean(error, 120)}") from error
    if found.v != VERSION:
        raise WireError(ErrorCode.PROTOCOL, f"version {found.v}, this side speaks {VERSION}")
    return msgspec.structs.replace(
        found,
        agent=clean(found.agent, 96),
        features=tuple(clean(item, 32) for item in found.features),
    )


def _open(payload: Buffer) -> Open:
    info_hash, root, size, log2 = _OPEN.unpack(payload)
    if not 1 <= size <= MAX_FILE_BYTES:
        raise WireError(ErrorCode.LIMIT, f"a file of {size} bytes")
    if not LEAF_BYTES <= 1 << min(log2, 63) <= MAX_PIECE_BYTES:
        raise WireError(ErrorCode.LIMIT, f"pieces of 2^{log2} bytes")
    if -(-size >> log2) > MAX_PIECES:
        raise WireError(ErrorCode.LIMIT, f"{-(-size >> log2)} pieces")
    return Open(info_hash, root, size, log2)


def _open_ok(payload: Buffer) -> OpenOk:
    kind = payload[0]
    if kind > 2 or (kind == 2) != (len(payload) > 1):
        raise WireError(ErrorCode.PROTOCOL, f"OPEN_OK of kind {kind} with {len(payload)} bytes")
    return OpenOk(kind == 1, bytes(payload[1:]))


def _hash_request(payload: Buffer) -> HashRequest:
    layer, index, count, proof = _HASH.unpack_from(payload)
    if layer > MAX_LAYER or proof > MAX_LAYER:
        raise WireError(ErrorCode.LIMIT, f"layer {layer} with {proof} proof layers")
    if count & (count - 1) or not MIN_HASHES <= count <= MAX_HASHES:
        raise WireError(ErrorCode.LIMIT, f"{count} hashes")
    if index % count:
        raise WireError(ErrorCode.PROTOCOL, f"index {index} is not a multiple of {count}")
    return HashRequest(layer, index, count, proof)


def _hashes(payload: Buffer) -> Hashes:
    request = _hash_request(payload)
    end = _HASH.size + request.count * HASH_BYTES
    if len(payload) != end + uncle_count(request.count, request.proof) * HASH_BYTES:
        raise WireError(ErrorCode.PROTOCOL, f"HASHES of {len(payload)} bytes for its request")
    return Hashes(request, bytes(payload[_HASH.size : end]), bytes(payload[end:]))


def _blocks(payload: Buffer) -> tuple[Block, ...]:
    return tuple([check_block(*item) for item in _BLOCK.iter_unpack(payload)])


def check_block(piece: int, offset: int, length: int) -> Block:
    """The block, when some file could have it; WireError otherwise."""
    if piece >= MAX_PIECES or offset >= MAX_PIECE_BYTES or not 0 < length <= BLOCK_BYTES:
        raise WireError(ErrorCode.LIMIT, f"block {piece}:{offset}+{length}")
    if offset % LEAF_BYTES or offset + length > MAX_PIECE_BYTES:
        raise WireError(ErrorCode.PROTOCOL, f"block {piece}:{offset}+{length} is not aligned")
    return Block(piece, offset, length)


def _bounded(payload: Buffer, least: int, most: int, what: str) -> int:
    value: int = _U32.unpack(payload)[0]
    if not least <= value <= most:
        raise WireError(ErrorCode.LIMIT, f"{what} {value}, {least} to {most} are allowed")
    return value
