"""Hypothesis strategies for what a peer may do after a valid handshake, right or wrong."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from node.torrent import frames, messages
from node.torrent.limits import BLOCK_BYTES, KIB, LEAF_BYTES
from node.torrent.messages import FrameType, Why
from node.torrent.sizes import Block, Layout

LAYOUT = Layout(3 * 512 * KIB + 100 * KIB + 5, 512 * KIB)
"""What the fuzzed transfers move: four pieces, the last one short, two blocks each."""


def raw(kind: int, payload: bytes, req_id: int = 7) -> bytes:
    """A frame of any bytes; `frames.encode` would refuse to build many of these."""
    return frames.HEADER.pack(len(payload), kind, 0, 0, req_id) + payload


def pack(blocks: list[Block]) -> bytes:
    return b"".join(struct.pack(">III", *block) for block in blocks)


numbers = st.one_of(
    st.integers(0, 8), st.sampled_from([511, 512, 32767, 32768, 1 << 31, (1 << 32) - 1])
)
real_blocks = st.sampled_from(
    [block for piece in range(LAYOUT.pieces) for block in LAYOUT.blocks(piece)]
)
odd_blocks = st.builds(
    Block,
    numbers,
    st.sampled_from([0, LEAF_BYTES, 5, BLOCK_BYTES, 512 * KIB, (1 << 32) - LEAF_BYTES]),
    st.sampled_from([0, 1, 5, LEAF_BYTES, 3 * LEAF_BYTES, BLOCK_BYTES, BLOCK_BYTES + 1]),
)
some_real = st.lists(real_blocks, min_size=1, max_size=8)
some_odd = st.lists(st.one_of(real_blocks, odd_blocks), min_size=1, max_size=8)
hash_requests = st.builds(
    lambda layer, index, count, proof: struct.pack(">BIHB", layer, index, count, proof),
    st.one_of(st.sampled_from([0, LAYOUT.piece_layer, LAYOUT.height]), st.integers(0, 30)),
    st.one_of(st.integers(0, 8).map(lambda i: i * 2), numbers),
    st.sampled_from([0, 1, 2, 3, 4, 8, 32, 512, 1024]),
    st.integers(0, 30),
)
leaves_of_pieces = st.integers(0, LAYOUT.pieces - 1).map(
    lambda piece: struct.pack(">BIHB", 0, piece * 32, 32, 4)
)
own_hello = frames.encode(messages.Hello(messages.VERSION, "fuzz", (), 16 << 20, BLOCK_BYTES))

good_client = st.one_of(
    some_real.map(lambda blocks: raw(FrameType.REQUEST, pack(blocks))),
    some_real.map(lambda blocks: raw(FrameType.CANCEL, pack(blocks))),
    leaves_of_pieces.map(lambda payload: raw(FrameType.HASH_REQUEST, payload)),
    st.just(raw(FrameType.PING, b"12345678")),
    st.floats(0.01, 3).map(lambda seconds: ("sleep", seconds)),
)
"""What a downloader may send."""

bad_frames = st.one_of(
    some_odd.map(lambda blocks: raw(FrameType.REQUEST, pack(blocks))),
    some_odd.map(lambda blocks: raw(FrameType.CANCEL, pack(blocks))),
    some_odd.map(
        lambda blocks: raw(FrameType.REJECT, b"".join(pack([b]) + b"\x01" for b in blocks))
    ),
    hash_requests.map(lambda payload: raw(FrameType.HASH_REQUEST, payload)),
    hash_requests.map(lambda payload: raw(FrameType.HASHES, payload + bytes(64))),
    st.lists(numbers, min_size=1, max_size=20).map(
        lambda pieces: raw(FrameType.HAVE, struct.pack(f">{len(pieces)}I", *pieces))
    ),
    st.builds(
        lambda block, size: raw(FrameType.DATA, struct.pack(">II", *block[:2]) + bytes(size)),
        st.one_of(real_blocks, odd_blocks),
        st.sampled_from([1, LEAF_BYTES, BLOCK_BYTES]),
    ),
    st.just(own_hello),
    st.binary(min_size=73, max_size=73).map(lambda payload: raw(FrameType.OPEN, payload)),
    st.binary(max_size=40).map(lambda payload: raw(FrameType.OPEN_OK, payload)),
    numbers.map(lambda number: raw(FrameType.CHOKE, struct.pack(">I", number))),
    numbers.map(lambda number: raw(FrameType.UNCHOKE, struct.pack(">I", number))),
    st.binary(max_size=300).map(lambda payload: raw(FrameType.ERROR, payload)),
    st.binary(max_size=9).map(lambda payload: raw(FrameType.PONG, payload)),
    st.binary(min_size=1, max_size=60),
    st.builds(
        lambda kind, size: struct.pack(">IBBHI", size, kind, 0, 0, 0),
        st.integers(0, 255),
        numbers,
    ),
    st.floats(3, 40).map(lambda seconds: ("sleep", seconds)),
    st.just(raw(FrameType.BYE, b"")),
)
"""What nobody should send, or not there."""

client_scripts = st.builds(
    lambda good, rest: [*good, *rest],
    st.lists(good_client, max_size=12),
    st.lists(st.one_of(good_client, bad_frames), max_size=6),
)

server_turns = st.one_of(
    st.sampled_from(
        [
            "serve",
            "serve",
            "serve",
            "serve",
            "wrong bytes",
            "one wrong leaf",
            "half a block, then close",
            "half a block, then silence",
            "nothing",
            "choke",
            "choke and unchoke",
            "twice",
            "in another order",
            "have",
            "ping",
            "reset",
        ]
    ),
    st.sampled_from(list(Why)).map(lambda why: ("reject", int(why))),
    st.just(("reject", 200)),
    st.floats(0.1, 20).map(lambda seconds: ("sleep", seconds)),
    bad_frames,
)
"""What a server does at a REQUEST; `bytes` are sent as they are, before the blocks."""

server_scripts = st.lists(server_turns, min_size=1, max_size=12)
