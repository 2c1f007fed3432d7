"""Pings: one stream and one clock per peer, so that a dead one costs the others nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from hosts import Other, hosts, parsed
from libp2p.abc import INetStream

from node import events as ev
from node.network import liveness as liveness_module, ping
from node.network.ping import PingStream
from node.network.streams import StreamUnavailable, read_exactly


@pytest.mark.parametrize("transport", ["tcp", "quic"])
async def test_a_round_trip_is_measured_below_a_millisecond(transport: str) -> None:
    """py-libp2p's ping() tells whole milliseconds: 0 on a LAN."""
    async with hosts(2, transport) as [a, b]:
        await a.connect(b)
        stream = PingStream(a.host, parsed(b))
        taken = [(await stream.measure(20.0))[0] for _ in range(20)]
    assert all(item > 0 for item in taken)
    assert len({round(item * 1000) for item in taken}) > 5  # microseconds differ
    assert any(item != round(item) for item in taken)


async def test_one_stream_is_kept_for_all_pings() -> None:
    async with hosts(2) as [a, b]:
        await a.connect(b)
        stream = PingStream(a.host, parsed(b))
        await stream.measure(20.0)
        kept = stream._stream
        for _ in range(5):
            await stream.measure(20.0)
        assert stream._stream is kept
        assert kept is not None


@pytest.mark.swarm
async def test_a_dead_peer_does_not_delay_or_fail_the_pings_to_live_ones(
    other: Callable[[str], Other],
) -> None:
    """PingService holds one lock: one dead peer failed the pings to four live ones."""
    dead = other("tcp")
    async with hosts(3) as [a, b, c]:
        for peer in (b, c, dead):
            await a.connect(peer)
        assert await a.peers.check(dead.peer_id)
        dead.stop()
        alive: dict[str, bool] = {}
        taken: dict[str, float] = {}

        async def check(peer_id: str) -> None:
            began = trio.current_time()
            alive[peer_id] = await a.peers.check(peer_id)
            taken[peer_id] = trio.current_time() - began

        async with trio.open_nursery() as nursery:
            nursery.start_soon(check, dead.peer_id)
            entry = a.peers.get(dead.peer_id)
            assert entry is not None
            while not entry.busy:  # the ping to the dead one is under way first
                await trio.lowlevel.checkpoint()
            nursery.start_soon(check, b.peer_id)
            nursery.start_soon(check, c.peer_id)
        assert alive == {b.peer_id: True, c.peer_id: True, dead.peer_id: False}
        assert taken[dead.peer_id] >= liveness_module.PING_TIMEOUT_S
        assert max(taken[b.peer_id], taken[c.peer_id]) < 0.9 * liveness_module.PING_TIMEOUT_S


@pytest.mark.swarm
async def test_a_peer_that_fails_twice_is_left_alone_and_released_when_it_answers(
    other: Callable[[str], Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = other("tcp")
    async with hosts(1) as [a]:
        await a.connect(there)
        assert await a.peers.check(there.peer_id)
        there.stop()
        monkeypatch.setattr(liveness_module, "PING_TIMEOUT_S", 0.5)
        assert not await a.peers.check(there.peer_id)
        assert a.peers.usable(there.peer_id)  # once is no pattern
        assert not await a.peers.check(there.peer_id)
        assert not a.peers.usable(there.peer_id)
        [quarantined] = a.events(ev.PeerQuarantined)
        assert quarantined.peer_id == there.peer_id
        there.resume()
        with trio.fail_after(30):
            while not await a.peers.check(there.peer_id):
                await trio.lowlevel.checkpoint()
        assert a.peers.usable(there.peer_id)
        assert [item.peer_id for item in a.events(ev.PeerReleased)] == [there.peer_id]


async def test_a_stale_stream_is_replaced_before_it_counts_as_a_failure() -> None:
    """QUIC resets a stream that was idle for 30 s; the peer is alive all the same."""
    async with hosts(2) as [a, b]:
        await a.connect(b)
        stream = PingStream(a.host, parsed(b))
        await stream.measure(20.0)
        first = stream._stream
        assert first is not None
        await first.reset()
        taken, _ = await stream.measure(20.0)
        assert taken > 0
        assert stream._stream is not first


async def test_a_peer_that_answers_wrongly_does_not_count_as_alive() -> None:
    async with hosts(2) as [a, b]:

        async def lie(stream: INetStream) -> None:
            await read_exactly(stream, ping.PING_BYTES)
            await stream.write(b"\0" * ping.PING_BYTES)

        b.serve(ping.PROTOCOL, lie)
        await a.connect(b)
        with pytest.raises(StreamUnavailable, match="wrongly"):
            await PingStream(a.host, parsed(b)).measure(20.0)


async def test_an_idle_ping_stream_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that opens ping streams and says nothing must not hold them for ever."""
    monkeypatch.setattr(ping, "IDLE_S", 0.1)
    async with hosts(2) as [a, b]:
        await a.connect(b)
        stream = await a.stream(b, ping.PROTOCOL)
        with trio.fail_after(20), pytest.raises(Exception):  # noqa: B017 - any end will do
            await read_exactly(stream, 1)


async def test_in_dual_mode_pings_move_to_tcp_once_it_is_open() -> None:
    """QUIC costs ten times the round trip and, left alone with a stream, idles out."""
    async with hosts(2, "dual") as [a, b]:
        await a.connect(b)
        await a.until(lambda: len(a.connections(b)) >= 2)
        stream = PingStream(a.host, parsed(b))
        assert (await stream.measure(20.0))[1] == "tcp"


@pytest.mark.parametrize("transport", ["tcp", "quic", "dual"])
async def test_first_contact_and_what_is_opened_beside_it(transport: str) -> None:
    async with hosts(2, transport) as [a, b]:
        await a.connect(b)
        if transport == "dual":
            await a.until(lambda: len(a.events(ev.PeerConnected)) == 2)
        kinds = [item.transport for item in a.events(ev.PeerConnected)]
        assert kinds == {"tcp": ["tcp"], "quic": ["quic"], "dual": ["quic", "tcp"]}[transport]
