"""When a peer counts as silent: to the second, sooner with proof, later where we were late."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from hosts import Other, hosts
from multiaddr import Multiaddr
from trio.testing import MockClock

from node import events as ev
from node.network.dialer import udp_refused
from node.network.known import Known
from node.network.liveness import Liveness
from node.network.streams import StreamUnavailable

PEER = "12D3KooWJRSrypvnpHgc6ZAgyCni4KcSmbV7uGRaMw5LgMKT18fq"


class Table:
    """One peer whose pings are never answered, and what is said of it."""

    def __init__(self, transports: tuple[str, ...], proof: str | None = None) -> None:
        self.transports = transports
        self.proof = proof
        self.asked = 0
        self.events: list[ev.Event] = []
        self.entry = Known(PEER, cast(Any, None), cast(Any, SimpleNamespace(measure=self._never)))
        connector = SimpleNamespace(
            transport="dual",
            live_transports=lambda entry: self.transports,
            refused=self._refused,
        )
        self.liveness = Liveness(
            cast(Any, connector),
            {PEER: self.entry},
            self.events.append,
            ping_s=5.0,
            silence_s=15.0,
            connect=self._no,
            disconnect=self._drop,
        )
        self.liveness.watched = lambda: {PEER}
        self.dropped = False

    async def _never(self, timeout: float) -> tuple[float, str]:
        await trio.sleep(2 * timeout)
        raise StreamUnavailable("no answer")

    async def _refused(self, entry: Known) -> str | None:
        self.asked += 1
        return self.proof

    async def _no(self, peer_id: str) -> bool:
        return False

    async def _drop(self, peer_id: str) -> None:
        self.dropped = True
        self.transports = ()

    def silent(self) -> ev.PeerSilent | None:
        found = [item for item in self.events if isinstance(item, ev.PeerSilent)]
        assert len(found) <= 1
        return found[0] if found else None

    async def silent_at(self, limit: float = 100.0) -> float:
        """Seconds from now until the peer is said to be silent."""
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.liveness.run)
            with trio.fail_after(limit):
                while self.silent() is None:
                    await trio.sleep(0.125)
            nursery.cancel_scope.cancel()
        return trio.current_time() - begun


@pytest.mark.parametrize("transports", [("tcp",), ("tcp", "quic"), ("quic",), ()])
async def test_the_silence_limit_is_kept_to_the_second(
    transports: tuple[str, ...], autojump_clock: MockClock
) -> None:
    """Whatever the rhythm of the pings: 20 runs of it, since the rhythm is random."""
    for _ in range(20):
        table = Table(transports)
        table.liveness.heard(PEER)
        assert 15.0 <= await table.silent_at() <= 15.3
        assert table.dropped == bool(transports)


async def test_a_closed_port_is_proof_and_nobody_waits(autojump_clock: MockClock) -> None:
    table = Table(("quic",), proof="connection refused")
    table.liveness.heard(PEER)
    # The first ping goes out at once and fails after its second try.
    assert await table.silent_at() <= 4.3
    said = table.silent()
    assert said is not None and said.reason == "connection refused"
    assert table.dropped


async def test_a_peer_with_tcp_is_not_probed_its_closed_connection_tells(
    autojump_clock: MockClock,
) -> None:
    table = Table(("tcp", "quic"), proof="connection refused")
    table.liveness.heard(PEER)
    assert await table.silent_at() >= 15.0
    assert table.asked == 0


async def test_a_peer_that_speaks_while_it_is_probed_is_not_silent(
    autojump_clock: MockClock,
) -> None:
    table = Table(("quic",), proof="connection refused")
    table.liveness.heard(PEER)

    async def speaks(entry: Known) -> str:
        await trio.sleep(0.25)
        table.liveness.heard(PEER)
        return "connection refused"

    cast(Any, table.liveness._connector).refused = speaks
    with trio.move_on_after(40):
        await table.liveness.run()
    assert table.silent() is None


async def test_a_peer_heard_in_time_is_not_silent(autojump_clock: MockClock) -> None:
    table = Table(("tcp",))
    table.liveness.heard(PEER)
    with trio.move_on_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(table.liveness.run)
            while True:
                await trio.sleep(14.5)
                table.liveness.heard(PEER)
    assert table.silent() is None


async def test_a_node_that_was_late_itself_waits_longer_but_not_for_ever(
    mock_clock: MockClock,
) -> None:
    """Seconds in which this node heard nobody do not count, those since the peer was heard."""
    mock_clock.jump(1000)
    table = Table(("tcp",))
    liveness, entry = table.liveness, table.entry

    def late(seconds: float) -> None:
        due = trio.current_time()
        mock_clock.jump(seconds)
        liveness._note_lateness(due)

    due = trio.current_time()
    mock_clock.jump(6)
    liveness.heard(PEER)
    heard = trio.current_time()
    mock_clock.jump(1)
    liveness._note_lateness(due)  # seven seconds late, of them one since the peer was heard
    assert liveness._patience(entry) == pytest.approx(heard + 15 + 1)
    late(0.25)  # as late as any loop is now and then
    assert liveness._patience(entry) == pytest.approx(heard + 15 + 1)
    late(3.0)
    assert liveness._patience(entry) == pytest.approx(heard + 15 + 1 + 3)
    late(20.0)
    assert liveness._patience(entry) == pytest.approx(heard + 30)
    liveness.heard(PEER)
    assert liveness._patience(entry) == pytest.approx(trio.current_time() + 15)
    mock_clock.jump(31)
    liveness._note_lateness(trio.current_time())
    assert not liveness._late, "what is over is forgotten"


async def test_who_listens_on_udp_and_who_does_not() -> None:
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as taken:
        await taken.bind(("127.0.0.1", 0))
        address = Multiaddr(f"/ip4/127.0.0.1/udp/{taken.getsockname()[1]}/quic-v1")
        assert not await udp_refused(address)
        packet = await taken.recv(16)
        assert len(packet) == 1
    assert await udp_refused(address)


@pytest.mark.swarm
@pytest.mark.parametrize("transport", ["quic", "dual"])
async def test_a_closed_quic_port_is_refused_at_once_and_not_after_a_deadline(
    other: Callable[[str], Other], transport: str
) -> None:
    there = other("quic")
    async with hosts(1, transport) as [a]:
        a.knows(there.peer_id, there.addresses)
        there.kill()
        began = time.monotonic()
        assert not await a.peers.connect(there.peer_id, force=True)
        assert time.monotonic() - began < 2
        [failed] = a.events(ev.PeerDialFailed)
        assert (failed.transport, failed.reason) == ("quic", "connection refused")
        assert [item.reason for item in a.events(ev.PeerSilent)] == ["connection refused"]


@pytest.mark.swarm
@pytest.mark.parametrize("transport", ["quic", "dual"])
async def test_a_killed_peer_of_which_only_quic_is_open_is_silent_in_seconds(
    other: Callable[[str], Other], transport: str
) -> None:
    """QUIC says nothing of a killed process; the probe of its port does, and finds a live one."""
    there = other("quic")
    async with hosts(1, transport, ping_s=1.0) as [a]:
        await a.connect(there)
        a.peers.watched = lambda: {there.peer_id}
        assert await a.peers.check(there.peer_id)
        for address in there.addresses:
            assert not await udp_refused(address), "the probe calls a live peer dead"
        assert await a.peers.check(there.peer_id), "the probe disturbed the peer"
        there.kill()
        killed = time.monotonic()
        await a.until(lambda: bool(a.events(ev.PeerSilent)))
        assert time.monotonic() - killed < 12
        [said] = a.events(ev.PeerSilent)
        assert said.reason == "connection refused"
        assert said.silent_s < 12
