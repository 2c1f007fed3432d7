"""Bad peers of the fast muxer: broken frames, floods, limits, and the ends of connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from fast_kit import (
    IDENTITIES,
    memory_conns,
    muxers,
    read_all,
    session_pair,
    stream_pair,
    tight_conns,
)
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
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
from node.network.fast.stream import FastStream

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
        assert await read_all(stream) == b"hi"
        assert muxer.is_established
        assert await _frames(session) == [(PING, ACK, 0, 42), (WINDOW_UPDATE, ACK, 5, 0)]


async def test_too_many_streams_are_refused_one_by_one() -> None:
    async with muxers(memory_conns(), (None, Limits(max_inbound=2))) as (one, two):
        pairs = [await stream_pair(one, two) for _ in range(2)]
        refused = await one.open_stream()
        with pytest.raises(MuxedStreamReset):
            await refused.read(1)
        await pairs[0][0].write(b"works")
        assert await pairs[0][1].read(5) == b"works"
        await pairs[0][1].reset()
        await trio.testing.wait_all_tasks_blocked()
        await stream_pair(one, two)


async def test_streams_the_other_side_never_finished_make_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with muxers(memory_conns(), (None, Limits(max_inbound=2))) as (one, two):
        for _ in range(2):
            _, theirs = await stream_pair(one, two)
            await theirs.close()
        await trio.sleep(LINGER_S + 1)
        mine, theirs = await stream_pair(one, two)
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
        pairs = [await stream_pair(one, two) for _ in range(4)]
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
        assert await read_all(stream) == b"done"
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
