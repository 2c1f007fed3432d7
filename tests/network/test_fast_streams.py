"""Streams of the fast muxer: windows, backpressure, ends and cancellation."""

from __future__ import annotations

import os
import random

import pytest
import trio
from fast_kit import (
    memory_conns,
    muxers,
    read_all,
    read_hash,
    send_random,
    session_pair,
    stream_pair,
    tcp_conns,
    tight_conns,
)
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)

from node.network.fast import FastYamux, Limits
from node.network.fast.frames import (
    INITIAL_WINDOW,
)
from node.network.fast.noise_messages import MAX_PLAINTEXT
from node.network.fast.stream import FastStream

# ------------------------------------------------------------ windows


async def test_frames_fill_noise_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    async with muxers(memory_conns()) as (one, two):
        mine, theirs = await stream_pair(one, two)
        sizes: list[int] = []
        seal = one.session.seal
        monkeypatch.setattr(
            one.session, "seal", lambda data: (sizes.append(len(data)), seal(data))[1]
        )
        await mine.write(bytes(3 * (MAX_PLAINTEXT - 12) + 5))
        assert sizes == [MAX_PLAINTEXT] * 3 + [17]
        await mine.close()
        assert len(await read_all(theirs)) == 3 * (MAX_PLAINTEXT - 12) + 5


async def test_a_stalled_reader_blocks_the_writer_and_loses_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = Limits(max_window=INITIAL_WINDOW)
    async with muxers(memory_conns(), (limits, limits)) as (one, two):
        mine, theirs = await stream_pair(one, two)
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
            other, there = await stream_pair(one, two)
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
        mine, theirs = await stream_pair(one, two)
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
        pairs = [await stream_pair(one, two) for _ in range(3)]
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
        mine, theirs = await stream_pair(one, two)
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


async def test_an_expected_flood_gets_its_window_at_once_and_within_the_limits() -> None:
    limits = Limits(max_window=4 * 1024 * 1024, growth=6 * 1024 * 1024)
    async with muxers(memory_conns(), (limits, limits)) as (one, two):
        first, theirs = await stream_pair(one, two)
        first.expect(1024 * 1024)
        with trio.fail_after(5):
            while theirs.send_window < 1024 * 1024:
                await trio.lowlevel.checkpoint()
        assert first.window == first.credit == 1024 * 1024
        first.expect(1024)  # less than there is: nothing to say
        assert first.window == 1024 * 1024
        first.expect(64 * 1024 * 1024)
        assert first.window == limits.max_window
        second, _ = await stream_pair(one, two)
        second.expect(64 * 1024 * 1024)
        grown = first.window + second.window - 2 * INITIAL_WINDOW
        assert grown == limits.growth
        with trio.fail_after(5):
            while theirs.send_window < limits.max_window:
                await trio.lowlevel.checkpoint()


async def test_one_byte_frames_do_not_cost_hundreds_of_bytes_each() -> None:
    async with muxers(memory_conns()) as (one, two):
        mine, theirs = await stream_pair(one, two)
        for _ in range(50_000):
            await mine.write(b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert theirs.unread == 50_000
        assert len(theirs._chunks) < 10
        await mine.close()
        assert await read_all(theirs) == b"x" * 50_000


# ------------------------------------------------------------ ends


async def test_half_close_reset_and_closed() -> None:
    async with muxers(memory_conns()) as (one, two):
        mine, theirs = await stream_pair(one, two)
        await mine.write(b"question")
        await mine.close_write()
        with pytest.raises(MuxedStreamClosed):
            await mine.write(b"more")
        assert await read_all(theirs) == b"question"
        await theirs.write(b"answer")
        await theirs.close()
        assert await read_all(mine) == b"answer"
        assert not one.streams and not two.streams

        mine, theirs = await stream_pair(one, two)
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
        mine, theirs = await stream_pair(one, two)
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
        mine, theirs = await stream_pair(one, two)
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
        mine, theirs = await stream_pair(one, two)
        data = os.urandom(INITIAL_WINDOW)
        await mine.write(data)
        await mine.close()
        closed: list[str] = []

        async def note() -> None:
            closed.append("one")

        one.on_close = note
        await one.close()
        assert await read_all(theirs) == data
        await two.event_closed.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert closed == ["one"] and one.is_closed and not one.is_established


async def test_deadlines() -> None:
    async with muxers(memory_conns()) as (one, two):
        mine, _ = await stream_pair(one, two)
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
            got.extend(await read_all(theirs))
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
