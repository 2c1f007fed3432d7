"""Frames: what is encoded is what is parsed, however it was split; anything else is refused."""

from __future__ import annotations

import random
import struct
import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from node.torrent import frames, messages as f
from node.torrent.limits import (
    BLOCK_BYTES,
    HASH_BYTES,
    LEAF_BYTES,
    MAX_FRAME_BYTES,
    MAX_PIECES,
    MIB,
)
from node.torrent.merkle import uncle_count
from node.torrent.sizes import Block
from node.torrent.wire import FrameParser

hash32 = st.binary(min_size=32, max_size=32)
blocks = st.builds(
    Block,
    st.integers(0, MAX_PIECES - 1),
    st.integers(0, 32 * MIB // LEAF_BYTES - 16).map(lambda n: n * LEAF_BYTES),
    st.integers(1, BLOCK_BYTES),
)
block_lists = st.lists(blocks, min_size=1, max_size=64).map(tuple)


@st.composite
def hash_requests(draw: st.DrawFn) -> f.HashRequest:
    count = 1 << draw(st.integers(1, 9))
    return f.HashRequest(
        draw(st.integers(0, 20)), draw(st.integers(0, 999)) * count, count, draw(st.integers(0, 20))
    )


@st.composite
def hashes(draw: st.DrawFn) -> f.Hashes:
    request = draw(hash_requests())
    noise = random.Random(draw(st.integers(0, 99)))
    uncles = uncle_count(request.count, request.proof)
    return f.Hashes(
        request,
        noise.randbytes(request.count * HASH_BYTES),
        noise.randbytes(uncles * HASH_BYTES),
    )


messages = st.one_of(
    st.builds(
        f.Hello,
        v=st.just(2),
        agent=st.text("ab /.1", max_size=96),
        features=st.lists(st.text("xyz-", max_size=32), max_size=32).map(tuple),
        max_inflight=st.integers(BLOCK_BYTES, 1 << 32),
        max_block=st.integers(LEAF_BYTES, 1 << 32),
    ),
    st.builds(f.Open, hash32, hash32, st.integers(1, 8 * 1024 * MIB), st.integers(18, 25)),
    st.just(f.OpenOk(True)),
    st.builds(f.OpenOk, st.just(False), st.binary(max_size=MAX_PIECES // 8)),
    hash_requests(),
    hashes(),
    st.builds(f.Request, block_lists),
    st.builds(f.Cancel, block_lists),
    st.builds(
        f.Reject,
        st.lists(st.tuples(blocks, st.integers(0, 255)), min_size=1, max_size=64).map(tuple),
    ),
    st.builds(
        f.Have,
        st.lists(st.integers(0, MAX_PIECES - 1), min_size=1, max_size=1024).map(tuple),
    ),
    st.builds(f.Choke, st.integers(100, 60_000)),
    st.builds(f.Unchoke, st.integers(1, 4096)),
    st.builds(f.Ping, st.binary(min_size=8, max_size=8)),
    st.builds(f.Pong, st.binary(min_size=8, max_size=8)),
    st.builds(f.Failure, st.integers(0, 65535), st.text("ab c", max_size=256)),
    st.just(f.Bye()),
    st.builds(
        f.Data,
        st.integers(0, MAX_PIECES - 1),
        st.integers(0, 100).map(lambda n: n * LEAF_BYTES),
        st.binary(min_size=1, max_size=300),
    ),
)
frame_lists = st.lists(st.tuples(st.integers(0, 2**32 - 1), messages), max_size=6)


def split(raw: bytes, rng: random.Random) -> list[bytes]:
    chunks = []
    at = 0
    while at < len(raw):
        step = rng.choice([1, 2, 7, 12, 13, 100, 5000, 70_000])
        chunks.append(raw[at : at + step])
        at += step
    return chunks


def hello(**changes: object) -> bytes:
    fields = {
        "v": 2,
        "agent": "x",
        "features": [],
        "max_inflight": BLOCK_BYTES,
        "max_block": BLOCK_BYTES,
    }
    return framed(1, msgspec.json.encode({**fields, **changes}))


def framed(kind: int, payload: bytes, *, flags: int = 0, reserved: int = 0) -> bytes:
    return struct.pack(">IBBHI", len(payload), kind, flags, reserved, 7) + payload


@given(sent=frame_lists, seed=st.integers(0, 999))
@settings(max_examples=200, deadline=None)
def test_round_trip_over_any_split(sent: list[tuple[int, f.Message]], seed: int) -> None:
    raw = b"".join(frames.encode(message, req_id) for req_id, message in sent)
    parser = FrameParser()
    got: list[f.Frame] = []
    for chunk in split(raw, random.Random(seed)):
        buffer = bytearray(chunk)
        got += parser.feed(buffer)
        buffer[:] = bytes(len(buffer))  # nothing of the chunk is kept
    assert [(frame.req_id, frame.message) for frame in got] == sent
    assert not parser.partial


@given(raw=st.binary(max_size=400), seed=st.integers(0, 99))
@settings(max_examples=300)
def test_any_bytes_give_frames_or_one_wire_error(raw: bytes, seed: int) -> None:
    parser = FrameParser()
    for chunk in split(raw, random.Random(seed)):
        try:
            parser.feed(chunk)
        except f.WireError as error:
            with pytest.raises(f.WireError) as again:
                parser.feed(b"")
            assert again.value is error
            return


@given(
    sent=frame_lists.filter(bool),
    flips=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
@settings(max_examples=300, deadline=None)
def test_mutated_frames_never_break_the_parser(
    sent: list[tuple[int, f.Message]], flips: list[tuple[int, int]], seed: int
) -> None:
    raw = bytearray(b"".join(frames.encode(message, req_id) for req_id, message in sent))
    for at, value in flips:
        raw[at % len(raw)] = value
    parser = FrameParser()
    got: list[f.Frame] = []
    try:
        for chunk in split(bytes(raw), random.Random(seed)):
            got += parser.feed(chunk)
    except f.WireError as error:
        got += error.frames
        assert len(error.text) < 400 and error.text.isprintable()
    for frame in got:
        # Whatever got through obeys every limit: it encodes again.
        frames.encode(frame.message, frame.req_id)


def test_blocks_arrive_whole_and_in_buffers_of_their_own() -> None:
    data = random.Random(1).randbytes(BLOCK_BYTES)
    raw = frames.data_head(5, 3 * BLOCK_BYTES, len(data), 9) + data
    assert raw == frames.encode(f.Data(5, 3 * BLOCK_BYTES, data), 9)
    parser = FrameParser()
    got = []
    for at in range(0, 2 * len(raw), 65_519):
        got += parser.feed((raw + raw)[at : at + 65_519])
    assert [frame.message.block for frame in got] == [Block(5, 3 * BLOCK_BYTES, BLOCK_BYTES)] * 2  # type: ignore[union-attr]
    assert [bytes(frame.message.data) for frame in got] == [data, data]  # type: ignore[union-attr]
    assert got[0].message.data.obj is not got[1].message.data.obj  # type: ignore[union-attr]


@pytest.mark.parametrize("length", [MAX_FRAME_BYTES + 1, 1 << 24, 2**32 - 1])
@pytest.mark.parametrize("kind", [*f.FrameType, 0x55])
def test_no_frame_above_the_limit_is_allocated(kind: int, length: int) -> None:
    parser = FrameParser()
    header = struct.pack(">IBBHI", length, kind, 0, 0, 0)
    tracemalloc.start()
    try:
        with pytest.raises(f.WireError) as caught:
            parser.feed(header)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == f.ErrorCode.LIMIT
    assert peak < 64 * 1024


@pytest.mark.parametrize("kind", list(f.FrameType))
def test_the_limit_of_every_type_is_checked_at_the_header(kind: f.FrameType) -> None:
    least, most, _, _ = frames.LENGTHS[kind]
    for length in (most + 1, least - 1):
        if length < 0:
            continue
        with pytest.raises(f.WireError):
            FrameParser().feed(struct.pack(">IBBHI", length, kind, 0, 0, 0))
    assert most <= MAX_FRAME_BYTES


@pytest.mark.parametrize(
    "raw",
    [
        framed(0, b""),
        framed(0x11, b""),
        framed(0x0F, b"", flags=1),
        framed(0x0F, b"", reserved=1),
        framed(2, bytes(64) + (0).to_bytes(8, "big") + b"\x14"),
        framed(2, bytes(64) + (2**63).to_bytes(8, "big") + b"\x14"),
        framed(2, bytes(64) + (1 << 36).to_bytes(8, "big") + b"\x12"),
        framed(2, bytes(64) + (1).to_bytes(8, "big") + b"\xff"),
        framed(2, bytes(64) + (1).to_bytes(8, "big") + b"\x0d"),
        framed(3, b"\x03"),
        framed(3, b"\x01x"),
        framed(3, b"\x02"),
        framed(3, b"\x00x"),
        framed(4, struct.pack(">BIHB", 0, 0, 3, 0)),
        framed(4, struct.pack(">BIHB", 0, 0, 0, 0)),
        framed(4, struct.pack(">BIHB", 0, 0, 1, 0)),
        framed(4, struct.pack(">BIHB", 0, 0, 1024, 0)),
        framed(4, struct.pack(">BIHB", 0, 1, 2, 0)),
        framed(4, struct.pack(">BIHB", 99, 0, 2, 0)),
        framed(4, struct.pack(">BIHB", 0, 0, 2, 255)),
        framed(5, struct.pack(">BIHB", 0, 0, 4, 0) + bytes(64)),
        framed(5, struct.pack(">BIHB", 0, 0, 2, 1) + bytes(64)),
        framed(6, bytes(13)),
        framed(6, struct.pack(">III", 0, 0, 0)),
        framed(6, struct.pack(">III", 0, 0, BLOCK_BYTES + 1)),
        framed(6, struct.pack(">III", 0, 1, LEAF_BYTES)),
        framed(6, struct.pack(">III", MAX_PIECES, 0, LEAF_BYTES)),
        framed(6, struct.pack(">III", 0, 2**32 - LEAF_BYTES, LEAF_BYTES)),
        framed(7, struct.pack(">II", 2**32 - 1, 0) + b"x"),
        framed(9, struct.pack(">III", 0, 32 * MIB - LEAF_BYTES, BLOCK_BYTES)),
        framed(10, b"\xff\xff\xff\xff"),
        framed(11, struct.pack(">I", 0)),
        framed(11, struct.pack(">I", 2**32 - 1)),
        framed(12, struct.pack(">I", 0)),
        framed(1, b"[]"),
        framed(1, b"{}"),
        framed(1, b"\xff\xff"),
        framed(1, b"[" * 4096),
        framed(1, b'{"x":' + b"[" * 4000),
        hello(v=1),
        hello(agent="x" * 97),
        hello(features=["x"] * 33),
        hello(max_inflight=0),
        hello(max_block=2**80),
        hello(max_block="big"),
        hello(agent=None),
    ],
)
def test_absurd_values_are_refused(raw: bytes) -> None:
    with pytest.raises(f.WireError) as caught:
        FrameParser().feed(raw)
    assert caught.value.text.isprintable()


def test_frames_before_an_error_are_not_lost() -> None:
    raw = frames.encode(f.Ping(bytes(8)), 1) + framed(0x55, b"")
    with pytest.raises(f.WireError) as caught:
        FrameParser().feed(raw)
    assert caught.value.frames == [f.Frame(1, f.Ping(bytes(8)))]


def test_strings_of_peers_are_cleaned() -> None:
    [frame] = FrameParser().feed(hello(agent="a\x1b[2Jb", features=["\u202ex"], unknown=1))
    assert isinstance(frame.message, f.Hello)
    assert frame.message.agent == "a\ufffd[2Jb" and frame.message.features == ("\ufffdx",)
    [frame] = FrameParser().feed(framed(14, b"\x00\x05\x1b]0;x\x07\xff"))
    assert frame.message == f.Failure(5, "\ufffd]0;x\ufffd\ufffd")


@pytest.mark.parametrize(
    "message",
    [
        f.Request(()),
        f.Request(tuple(Block(0, 0, LEAF_BYTES) for _ in range(65))),
        f.Request((Block(0, 5, LEAF_BYTES),)),
        f.Request((Block(-1, 0, LEAF_BYTES),)),
        f.Have(()),
        f.Data(0, 0, bytes(BLOCK_BYTES + 1)),
        f.Data(0, 0, b""),
        f.Ping(b"short"),
        f.Choke(5),
        f.Open(bytes(32), bytes(32), 2**64, 20),
        f.Hello(2, "x" * 5000, (), BLOCK_BYTES, BLOCK_BYTES),
        f.Hashes(f.HashRequest(0, 0, 4, 0), bytes(64), b""),
    ],
)
def test_we_do_not_send_what_we_would_refuse(message: f.Message) -> None:
    with pytest.raises(ValueError):
        frames.encode(message)


@given(count=st.integers(1, 200), data=st.data())
def test_the_bits_of_open_ok(count: int, data: st.DataObject) -> None:
    pieces = data.draw(st.sets(st.integers(0, count - 1)))
    answer = frames.bits_of(frozenset(pieces), count)
    found = answer.pieces(count)
    assert (set(range(count)) if found is None else set(found)) == pieces


@pytest.mark.parametrize(("bits", "count"), [(b"\xff", 9), (b"\xff\xff", 8), (b"\xff", 7)])
def test_bits_that_do_not_fit_are_refused(bits: bytes, count: int) -> None:
    with pytest.raises(f.WireError):
        f.OpenOk(False, bits).pieces(count)


def test_blocks_go_straight_to_their_place() -> None:
    room = bytearray(4 * LEAF_BYTES)
    asked: list[tuple[Block, int]] = []

    def place(block: Block, req_id: int) -> memoryview | None:
        asked.append((block, req_id))
        if block.piece == 9:
            return None
        if block.piece == 8:
            raise f.WireError(f.ErrorCode.PROTOCOL, "not asked for")
        return memoryview(room)[block.offset : block.offset + block.length]

    parser = FrameParser(place=place)
    data = random.Random(2).randbytes(2 * LEAF_BYTES)
    raw = frames.encode(f.Data(1, LEAF_BYTES, data), 5)
    assert parser.feed(raw[:19]) == [] and asked == [] and parser.kind is f.FrameType.DATA
    assert parser.feed(raw[19:1000]) == []
    assert asked == [(Block(1, LEAF_BYTES, len(data)), 5)] and parser.block == asked[0][0]
    assert bytes(room[LEAF_BYTES : LEAF_BYTES + 980]) == data[:980]
    [frame] = parser.feed(raw[1000:])
    assert isinstance(frame.message, f.Data) and frame.message.block == asked[0][0]
    assert bytes(room) == bytes(LEAF_BYTES) + data + bytes(LEAF_BYTES)
    [frame] = parser.feed(frames.encode(f.Data(9, 0, data)))
    assert isinstance(frame.message, f.Data) and bytes(frame.message.data) == data
    with pytest.raises(f.WireError, match="not asked"):
        parser.feed(frames.data_head(8, 0, LEAF_BYTES, 1))


def test_a_begun_frame_shows() -> None:
    parser = FrameParser()
    raw = frames.encode(f.Have((1, 2, 3)), 1)
    assert not parser.partial and parser.kind is None
    parser.feed(raw[:5])
    assert parser.partial and parser.kind is None
    parser.feed(raw[5:15])
    assert parser.partial and parser.kind is f.FrameType.HAVE
    assert parser.feed(raw[15:]) == [f.Frame(1, f.Have((1, 2, 3)))]
    assert not parser.partial
