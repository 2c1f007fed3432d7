"""Fuzzing the two parsers and the muxer behind them: any bytes, any splits, mutated streams."""

from __future__ import annotations

import random

import trio
from fast_kit import IDENTITIES, memory_conns, session_pair
from hypothesis import given, settings, strategies as st

from node.network.fast import FastYamux, Limits
from node.network.fast.frames import (
    FIN,
    HEADER_SIZE,
    INITIAL_WINDOW,
    MORE,
    FrameError,
    FrameReader,
    pack_header,
)
from node.network.fast.noise_messages import (
    LARGE_BUFFER,
    MAX_PLAINTEXT,
    SMALL_BUFFER,
    BadMessage,
    Opener,
    Sealer,
)

KEY = bytes(range(32))

valid_frame = st.tuples(
    st.sampled_from([0, 0, 0, 1, 2, 3]),
    st.integers(0, 15),
    st.integers(0, 9),
    st.one_of(st.integers(0, 40), st.integers(0, 70_000)),
    st.integers(0, 255),
)
any_frame = st.tuples(
    st.integers(0, 5),
    st.integers(0, 65535),
    st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1)),
    st.integers(0, 255),
)
Parts = list[tuple[int, int, int, int, int]]


def _encode(frames: Parts) -> bytes:
    parts = []
    for kind, flags, stream, length, fill in frames:
        payload = bytes([fill]) * min(length, 70_000) if kind == 0 else b""
        parts.append(pack_header(0, kind, flags, stream, length) + payload)
    return b"".join(parts)


def _split(data: bytes, seed: int) -> list[bytes]:
    chance, pieces, start = random.Random(seed), [], 0
    while start < len(data):
        size = chance.choice((1, 2, 5, 11, 12, 13, 100, 5000, 65519, 200_000))
        pieces.append(data[start : start + size])
        start += size
    return pieces


def _whole_frames(pieces: list[bytes]) -> list[tuple[int, int, int, int, bytes]]:
    """Events with the pieces of a payload put together again."""
    reader = FrameReader()
    found: list[tuple[int, int, int, int, bytes]] = []
    for piece in pieces:
        for kind, flags, stream, length, payload in reader.feed(piece):
            if kind == MORE:
                last = found[-1]
                assert last[2] == stream
                found[-1] = (*last[:1], last[1] | flags, *last[2:4], last[4] + bytes(payload))
            else:
                found.append((kind, flags, stream, length, bytes(payload)))
        assert reader.held < HEADER_SIZE
    return found


@given(st.lists(valid_frame, max_size=12), st.integers(0, 1000))
def test_frames_are_the_same_whatever_the_splits(frames: Parts, seed: int) -> None:
    data = _encode(frames)
    expected = [
        (kind, flags, stream, length, bytes([fill]) * length if kind == 0 else b"")
        for kind, flags, stream, length, fill in frames
    ]
    assert _whole_frames([data]) == expected
    assert _whole_frames(_split(data, seed)) == expected


@given(st.lists(valid_frame, min_size=1, max_size=6), st.integers(0, 1000))
def test_fin_comes_with_the_last_byte(frames: Parts, seed: int) -> None:
    reader = FrameReader()
    received = 0
    for piece in _split(_encode([(0, FIN, 3, item[3], item[4]) for item in frames]), seed):
        for _, flags, _, _, payload in reader.feed(piece):
            received += len(payload)
            if flags & FIN:
                assert received == frames[0][3]
                return
    raise AssertionError("no FIN")


@given(st.binary(max_size=500), st.integers(0, 1000))
def test_any_bytes_are_frames_or_a_frame_error(data: bytes, seed: int) -> None:
    reader = FrameReader()
    total = 0
    try:
        for piece in _split(data, seed):
            total += sum(len(event[4]) for event in reader.feed(piece))
    except FrameError:
        return
    assert total <= len(data)
    assert reader.held < HEADER_SIZE


def _open(opener: Opener, data: bytes, seed: int) -> list[bytes]:
    """Put `data` through the opener in reads of random sizes."""
    chance, found, start = random.Random(seed), list[bytes](), 0
    while start < len(data):
        space = opener.space()
        assert len(space)
        piece = data[start : start + min(len(space), chance.choice((1, 3, 4096, 70_000, 1 << 20)))]
        space[: len(piece)] = piece
        space.release()
        start += len(piece)
        found += opener.filled(len(piece))
        assert opener.capacity <= LARGE_BUFFER
    return found


plaintexts = st.lists(
    st.tuples(st.one_of(st.integers(0, 50), st.integers(0, MAX_PLAINTEXT)), st.integers(0, 255)),
    max_size=20,
)


def _seal(parts: list[tuple[int, int]]) -> tuple[list[bytes], bytes]:
    sealer = Sealer(KEY)
    messages = [bytes([fill]) * size for size, fill in parts]
    return messages, b"".join(b"".join(sealer.seal(item)) for item in messages)


@given(plaintexts, st.integers(0, 1000))
def test_messages_are_the_same_whatever_the_reads(parts: list[tuple[int, int]], seed: int) -> None:
    messages, data = _seal(parts)
    assert _open(Opener(KEY), data, seed) == messages


@given(st.binary(max_size=300), st.integers(0, 1000))
def test_any_bytes_are_no_message(data: bytes, seed: int) -> None:
    opener = Opener(KEY)
    try:
        assert _open(opener, data, seed) == []
    except BadMessage:
        return


@given(plaintexts.filter(bool), st.integers(0, 10**9), st.integers(1, 255), st.integers(0, 1000))
def test_a_mutated_stream_yields_nothing_that_was_not_sent(
    parts: list[tuple[int, int]], position: int, change: int, seed: int
) -> None:
    messages, data = _seal(parts)
    mutated = bytearray(data)
    mutated[position % len(data)] ^= change
    opener, found = Opener(KEY), list[bytes]()
    try:
        for start in range(0, len(mutated), 1000):
            found += _open(opener, bytes(mutated[start : start + 1000]), seed)
    except BadMessage:
        pass
    assert found == messages[: len(found)]
    assert len(found) < len(messages)


def test_the_buffer_grows_with_the_traffic_and_shrinks_after_it() -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    assert opener.capacity == SMALL_BUFFER
    bulk = b"".join(b"".join(sealer.seal(bytes(MAX_PLAINTEXT))) for _ in range(40))
    start = 0
    while start < len(bulk):
        space = opener.space()
        size = min(len(space), len(bulk) - start)
        space[:size] = bulk[start : start + size]
        opener.filled(size)
        start += size
    assert opener.capacity == LARGE_BUFFER
    for _ in range(100):
        data = b"".join(sealer.seal(b"ping"))
        opener.space()[: len(data)] = data
        assert opener.filled(len(data)) == [b"ping"]
    assert opener.capacity == SMALL_BUFFER


@settings(deadline=None)
@given(
    st.lists(st.one_of(any_frame, valid_frame), max_size=40),
    st.integers(0, 1000),
    st.booleans(),
)
def test_any_frames_leave_the_muxer_within_its_limits(
    frames: Parts, seed: int, mutate: bool
) -> None:
    limits = Limits(max_inbound=3, max_unread=300_000)
    data = bytearray(_encode(frames))
    if mutate and data:
        data[seed % len(data)] ^= 1 + seed % 255

    async def feed() -> None:
        _, session = session_pair(memory_conns())
        muxer = FastYamux(session, IDENTITIES[0].id, limits=limits)
        try:
            for piece in _split(bytes(data), seed):
                for event in muxer._frames.feed(piece):
                    muxer._handle(event)
                    held = sum(stream.unread for stream in muxer.streams.values())
                    assert muxer._unread == held <= limits.max_unread
                    assert muxer._inbound == len(muxer.streams) <= limits.max_inbound
        except FrameError:
            pass
        for stream in list(muxer.streams.values()):
            if stream.unread:
                held = stream.unread
                assert len(await stream.read()) == held <= INITIAL_WINDOW

    trio.run(feed)
