"""Streams of the fast muxer: windows, backpressure, cancellation, limits and bad peers."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from fast_kit import (
    IDENTITIES,
    memory_conns,
    muxers,
    read_hash,
    send_random,
    session_pair,
    tcp_conns,
    tight_conns,
)
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)

from node.network.fast import FastSession, FastYamux, Limits
from node.network.fast.frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    INITIAL_WINDOW,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    FrameReader,
    frame,
    pack_header,
)
from node.network.fast.muxer import LINGER_S
from node.network.fast.noise_messages import MAX_PLAINTEXT
from node.network.fast.stream import FastStream


async def _stream_pair(one: FastYamux, two: FastYamux) -> tuple[FastStream, FastStream]:
    return await one.open_stream(), await two.accept_stream()


async def _read_all(stream: FastStream) -> bytes:
    parts = []
    while True:
        try:
            parts.append(await stream.read(100_000))
        except MuxedStreamEOF:
            return b"".join(parts)


# ------------------------------------------------------------ windows


async def test_frames_fill_noise_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    async with muxers(memory_conns()) as (one, two):
        mine, theirs = await _stream_pair(one, two)
        sizes: list[int] = []
        seal = one.session.seal
        monkeypatch.setattr(
            one.session, "seal", lambda data: (sizes.append(len(data)), seal(data))[1]
        )
        await mine.write(bytes(3 * (MAX_PLAINTEXT - 12) + 5))
        assert sizes == [MAX_PLAINTEXT] * 3 + [17]
        await mine.close()
        assert len(await _read_all(theirs)) == 3 * (MAX_PLAINTEXT - 12) + 5


async def test_a_stalled_reader_blocks_the_writer_and_loses_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = Limits(max_window=INITIAL_WINDOW)
    async with muxers(memory_conns(), (limits, limits)) as (one, two):
        mine, theirs = await _stream_pair(one, two)
        data = os.urandom(2 * INITIAL_WINDOW + 12345)
        written = trio.Event()

        async def write() -> None:
            await mine.write(data)
            await mine.close()
            written.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.sleep(100)
            assert not written.is_set()
            assert theirs.unread == INITIAL_WINDOW
            other, there = await _stream_pair(one, two)
            await other.write(b"not held up")
            assert await there.read(100) == b"not held up"
            got = b""
            while len(got) < len(data):
                got += await theirs.read(7_000)
                if len(got) in range(300_000, 310_000):
                    await trio.sleep(50)
        assert got == data


async def test_credit_comes_back_per_half_window(autojump_clock: trio.testing.MockClock) -> None:
    async with muxers(memory_conns()) as (one, two):
        mine, theirs = await _stream_pair(one, two)
        await mine.write(bytes(INITIAL_WINDOW))
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(10)
        half = INITIAL_WINDOW // 2
        taken = 0
        while taken < half - 1000:
            taken += len(await theirs.read(1000))
        await trio.testing.wait_all_tasks_blocked()
        assert mine.send_window == 0
        while taken < half:
            taken += len(await theirs.read(1000))
        await trio.testing.wait_all_tasks_blocked()
        assert mine.send_window == taken >= half


async def test_the_window_grows_for_a_fast_reader_within_the_limits() -> None:
    limits = Limits(max_window=1 << 20, growth=(1 << 20) + 12345)
    async with muxers(memory_conns(), (None, limits)) as (one, two):
        pairs = [await _stream_pair(one, two) for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for mine, theirs in pairs:
                nursery.start_soon(mine.write, bytes(8 << 20))
                nursery.start_soon(read_hash, theirs.read, 8 << 20, MuxedStreamEOF)
        grown = sum(theirs.window - INITIAL_WINDOW for _, theirs in pairs)
        assert grown == limits.growth
        assert max(theirs.window for _, theirs in pairs) <= limits.max_window
        for mine, theirs in pairs:
            await mine.reset()
            await theirs.reset()
        assert not two.streams
        assert two.grow(INITIAL_WINDOW) == INITIAL_WINDOW


async def test_both_sides_write_over_a_connection_that_holds_nothing() -> None:
    async with muxers(tight_conns()) as (one, two):
        mine, theirs = await _stream_pair(one, two)
        sums: dict[str, str] = {}

        async def send(name: str, stream: FastStream, seed: int) -> None:
            sums[name] = await send_random(stream.write, 3_000_000, seed)

        async def receive(name: str, stream: FastStream) -> None:
            sums[name] = await read_hash(stream.read, 3_000_000, MuxedStreamEOF)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, "sent there", mine, 1)
            nursery.start_soon(send, "sent back", theirs, 2)
            nursery.start_soon(receive, "got there", theirs)
            nursery.start_soon(receive, "got back", mine)
        assert sums["sent there"] == sums["got there"]
        assert sums["sent back"] == sums["got back"]


async def test_one_byte_frames_do_not_cost_hundreds_of_bytes_each() -> None:
    async with muxers(memory_conns()) as (one, two):
        mine, theirs = await _stream_pair(one, two)
        for _ in range(50_000):
            await mine.write(b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert theirs.unread == 50_000
        assert len(theirs._chunks) < 10
        await mine.close()
        assert await _read_all(theirs) == b"x" * 50_000


# ------------------------------------------------------------ ends


async def test_half_close_reset_and_closed() -> None:
    async with muxers(memory_conns()) as (one, two):
        mine, theirs = await _stream_pair(one, two)
        await mine.write(b"question")
        await mine.close_write()
        with pytest.raises(MuxedStreamClosed):
            await mine.write(b"more")
        assert await _read_all(theirs) == b"question"
        await theirs.write(b"answer")
        await theirs.close()
        assert await _read_all(mine) == b"answer"
        assert not one.streams and not two.streams

        mine, theirs = await _stream_pair(one, two)
        await mine.write(b"last words")
        await mine.reset()
        await trio.testing.wait_all_tasks_blocked()
        assert await theirs.read() == b"last words"
        for stream in (mine, theirs):
            with pytest.raises(MuxedStreamReset):
                await stream.read(1)
            with pytest.raises(MuxedStreamReset):
                await stream.write(b"x")
        assert not one.streams and not two.streams


async def test_a_reset_wakes_a_blocked_writer_and_a_blocked_reader() -> None:
    async with muxers(memory_conns()) as (one, two):
        mine, theirs = await _stream_pair(one, two)
        ended: list[str] = []

        async def write() -> None:
            with pytest.raises(MuxedStreamReset):
                await mine.write(bytes(1 << 20))
            ended.append("write")

        async def read() -> None:
            with pytest.raises(MuxedStreamReset):
                await mine.read(1)
            ended.append("read")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await theirs.reset()
        assert sorted(ended) == ["read", "write"]


async def test_a_lost_connection_is_a_reset_after_what_arrived() -> None:
    async with muxers(memory_conns()) as (one, two):
        mine, theirs = await _stream_pair(one, two)
        await mine.write(b"half of it")
        await trio.testing.wait_all_tasks_blocked()
        await one.session.conn.close()
        await two.event_closed.wait()
        assert await theirs.read() == b"half of it"
        with pytest.raises(MuxedStreamReset):
            await theirs.read(1)
        with pytest.raises(MuxedConnUnavailable):
            await two.accept_stream()
        with pytest.raises(MuxedConnUnavailable):
            await two.open_stream()


async def test_close_sends_what_was_written_before() -> None:
    conns = await tcp_conns()
    async with muxers(conns) as (one, two):
        mine, theirs = await _stream_pair(one, two)
        data = os.urandom(INITIAL_WINDOW)
        await mine.write(data)
        await mine.close()
        closed: list[str] = []

        async def note() -> None:
            closed.append("one")

        one.on_close = note
        await one.close()
        assert await _read_all(theirs) == data
        await two.event_closed.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert closed == ["one"] and one.is_closed and not one.is_established


async def test_deadlines() -> None:
    async with muxers(memory_conns()) as (one, two):
        mine, _ = await _stream_pair(one, two)
        with pytest.raises(ValueError):
            mine.set_deadline(-1)
        mine._deadline = trio.current_time() + 0.05
        with pytest.raises(MuxedStreamError):
            await mine.read(1)
        mine.set_deadline(0)
        with trio.move_on_after(0.05) as scope:
            await mine.read(1)
        assert scope.cancelled_caught


# ------------------------------------------------------------ cancellation


@pytest.mark.parametrize("seed", [1, 2])
async def test_cancelling_readers_and_writers_at_random_hurts_nobody_else(seed: int) -> None:
    chance = random.Random(seed)
    async with muxers(await tcp_conns()) as (one, two):
        sums: dict[str, str] = {}
        cancelled = 0

        async def steady(index: int, source: FastYamux, target: FastYamux) -> None:
            mine, theirs = await source.open_stream(), await target.accept_stream()

            async def send() -> None:
                sums[f"{index} sent"] = await send_random(mine.write, 3_000_000, index)
                await mine.close()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                sums[f"{index} got"] = await read_hash(theirs.read, 4_000_000, MuxedStreamEOF)

        async def victim() -> None:
            nonlocal cancelled
            mine = await one.open_stream()
            theirs = two.streams.get(mine.stream_id)
            while theirs is None:
                await trio.lowlevel.checkpoint()
                theirs = two.streams.get(mine.stream_id)
            data = chance.randbytes(600_000)
            got = bytearray()

            async def write() -> None:
                await mine.write(data)

            async def read() -> None:
                while True:
                    got.extend(await theirs.read(50_000))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                nursery.start_soon(read)
                for _ in range(chance.randrange(1, 60)):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            cancelled += 1
            await mine.close()
            got.extend(await _read_all(theirs))
            assert data.startswith(got)
            await theirs.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(steady, 0, two, one)
            nursery.start_soon(steady, 1, one, two)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(40):
                async with trio.open_nursery() as victims:
                    for _ in range(3):
                        victims.start_soon(victim)
        assert cancelled == 120
        assert sums["0 sent"] == sums["0 got"] and sums["1 sent"] == sums["1 got"]
        assert one.is_established and two.is_established


async def test_a_cancelled_session_write_is_finished() -> None:
    left, right = session_pair(tight_conns())
    data = os.urandom(300_000)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            scope.cancel()

            async def read() -> None:
                assert await right.read(len(data)) == data
                assert await right.read(5) == b"after"

            nursery.start_soon(read)
            await left.write(data)
        await left.write(b"after")


# ------------------------------------------------------------ limits and bad peers


@asynccontextmanager
async def _raw_peer(limits: Limits | None = None) -> AsyncIterator[tuple[FastSession, FastYamux]]:
    """A session that speaks any frames it likes, and the muxer it speaks to."""
    left, right = session_pair(memory_conns())
    muxer = FastYamux(right, IDENTITIES[0].id, limits=limits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxer.start)
        await muxer.event_started.wait()
        yield left, muxer
        await muxer.close()


async def _frames(session: FastSession) -> list[tuple[int, int, int, int]]:
    """What the muxer has sent, to its end or until nothing more comes."""
    reader, found = FrameReader(), []
    with trio.move_on_after(0.2):
        while True:
            try:
                messages = await session.receive()
            except ConnectionClosedError:
                break
            for message in messages:
                found += [event[:4] for event in reader.feed(message)]
    return found


SYN_3 = frame(WINDOW_UPDATE, SYN, 3)
BAD = {
    "unknown version": b"\1" + bytes(11),
    "unknown type": frame(9, 0, 3),
    "longer than any window": frame(DATA, 0, 3, (16 << 20) + 1),
    "longer than the window": SYN_3 + frame(DATA, 0, 3, INITIAL_WINDOW + 1),
    "more than the window": SYN_3 + (frame(DATA, 0, 3, 60_000) + bytes(60_000)) * 5,
    "opened twice": SYN_3 + SYN_3,
    "an id of the other side": frame(WINDOW_UPDATE, SYN, 4),
    "no stream": frame(WINDOW_UPDATE, SYN, 0),
    "data of no stream": frame(DATA, 0, 0, 3) + b"abc",
}


@pytest.mark.parametrize("name", BAD)
async def test_a_broken_protocol_closes_the_connection_with_go_away(name: str) -> None:
    async with _raw_peer() as (session, muxer):
        await session.write(BAD[name])
        with trio.fail_after(5):
            await muxer.event_closed.wait()
        assert (GO_AWAY, 0, 0, 1) in await _frames(session)
        assert muxer.reason


async def test_harmless_oddities_are_ignored() -> None:
    async with _raw_peer() as (session, muxer):
        await session.write(
            frame(WINDOW_UPDATE, 0, 77, 5)
            + frame(DATA, 0, 77, 3)
            + b"abc"
            + frame(WINDOW_UPDATE, RST, 77)
            + frame(DATA, FIN, 77)
            + frame(WINDOW_UPDATE, ACK, 77)
            + frame(PING, ACK, 0, 9)
            + frame(WINDOW_UPDATE, SYN | RST, 9)
            + frame(PING, SYN, 0, 42)
            + pack_header(0, DATA, SYN | FIN, 5, 2)
            + b"hi"
        )
        stream = await muxer.accept_stream()
        assert await _read_all(stream) == b"hi"
        assert muxer.is_established
        assert await _frames(session) == [(PING, ACK, 0, 42), (WINDOW_UPDATE, ACK, 5, 0)]


async def test_too_many_streams_are_refused_one_by_one() -> None:
    async with muxers(memory_conns(), (None, Limits(max_inbound=2))) as (one, two):
        pairs = [await _stream_pair(one, two) for _ in range(2)]
        refused = await one.open_stream()
        with pytest.raises(MuxedStreamReset):
            await refused.read(1)
        await pairs[0][0].write(b"works")
        assert await pairs[0][1].read(5) == b"works"
        await pairs[0][1].reset()
        await trio.testing.wait_all_tasks_blocked()
        await _stream_pair(one, two)


async def test_streams_the_other_side_never_finished_make_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with muxers(memory_conns(), (None, Limits(max_inbound=2))) as (one, two):
        for _ in range(2):
            _, theirs = await _stream_pair(one, two)
            await theirs.close()
        await trio.sleep(LINGER_S + 1)
        mine, theirs = await _stream_pair(one, two)
        await mine.write(b"in")
        assert await theirs.read(2) == b"in"


async def test_opening_waits_while_too_many_are_open() -> None:
    async with muxers(memory_conns(), (Limits(max_outbound=2), None)) as (one, _):
        first = await one.open_stream()
        await one.open_stream()
        opened: list[FastStream] = []

        async def third() -> None:
            opened.append(await one.open_stream())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(third)
            await trio.testing.wait_all_tasks_blocked()
            assert not opened
            await first.close()
        assert len(opened) == 1


async def test_unread_data_of_all_streams_together_is_bounded() -> None:
    limits = Limits(max_unread=3 * INITIAL_WINDOW)
    async with muxers(memory_conns(), (None, limits)) as (one, two):
        pairs = [await _stream_pair(one, two) for _ in range(4)]
        for mine, _ in pairs:
            with trio.move_on_after(1):
                await mine.write(bytes(INITIAL_WINDOW))
        await trio.testing.wait_all_tasks_blocked()
        assert two._unread <= limits.max_unread
        assert [theirs.was_reset for _, theirs in pairs] == [False, False, False, True]
        assert len(await pairs[0][1].read(INITIAL_WINDOW)) == INITIAL_WINDOW
        await pairs[0][0].write(b"goes on")
        assert await pairs[0][1].read(7) == b"goes on"


async def test_a_peer_that_pings_and_never_reads_is_cut_off() -> None:
    left, right = session_pair(tight_conns())
    muxer = FastYamux(right, IDENTITIES[0].id)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxer.start)
        with pytest.raises(ConnectionClosedError):
            while True:
                await left.write(frame(PING, SYN, 0, 1) * 5000)
                assert muxer.session.queued < 3 << 20
        await left.close()
    assert muxer.is_closed and "does not read" in muxer.reason


async def test_go_away_lets_open_streams_finish() -> None:
    async with _raw_peer() as (session, muxer):
        await session.write(SYN_3 + frame(GO_AWAY, 0, 0, 0))
        stream = await muxer.accept_stream()
        with pytest.raises(MuxedConnUnavailable):
            await muxer.open_stream()
        await session.write(frame(DATA, FIN, 3, 4) + b"done")
        assert await _read_all(stream) == b"done"
        assert not muxer.is_closed
        await stream.close()
        with trio.fail_after(5):
            await muxer.event_closed.wait()


@pytest.mark.parametrize("position", [1, 2, 40, -1])
async def test_a_changed_byte_closes_the_connection(position: int) -> None:
    left_conn, right_conn = memory_conns()
    left, right = session_pair((left_conn, right_conn))
    muxer = FastYamux(right, IDENTITIES[0].id)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxer.start)
        await left.write(SYN_3)
        stream = await muxer.accept_stream()
        prefix, sealed = left._sealer.seal(frame(DATA, 0, 3, 100) + bytes(100))
        data = bytearray(prefix + sealed)
        data[position] ^= 1
        await left_conn.write(bytes(data) + bytes(70_000))
        with trio.fail_after(5):
            await muxer.event_closed.wait()
    with pytest.raises(MuxedStreamReset):
        await stream.read(1)
