"""The peer table: who is known, connected, answering, silent, or left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import trio
from libp2p.abc import INetConn, INotifee
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from node import events as ev
from node.network.connecting import Connector
from node.network.dialer import DIAL_S, Dialer, DialFailed
from node.network.known import REDIAL_FIRST_S, Emit, Known, Source
from node.network.liveness import Liveness
from node.network.ping import PingStream, serve_ping
from node.network.streams import connection_transport, live_connections

__all__ = ["MAX_KNOWN", "Emit", "Known", "Peers", "Source"]

MAX_KNOWN = 1024


class Peers(INotifee):
    """The peer table of one host. Everything runs in the host's trio loop."""

    def __init__(
        self,
        host: BasicHost,
        emit: Emit,
        *,
        transport: str,
        ping_s: float,
        silence_s: float,
    ) -> None:
        self._host = host
        self._emit = emit
        self._dialer = Dialer(host)
        self._known: dict[str, Known] = {}
        self._connector = Connector(host, self._dialer, emit, transport)
        self._liveness = Liveness(
            self._connector,
            self._known,
            emit,
            ping_s=ping_s,
            silence_s=silence_s,
            connect=self.connect,
            disconnect=self.disconnect,
        )
        self._connected: list[Callable[[str, bool], None]] = []
        self._closing = trio.Event()
        self._waiting: dict[str, trio.Event] = {}
        self.own_id = str(host.get_id())
        host.get_network().register_notifee(self)
        serve_ping(host, lambda peer: self.heard(str(peer)))

    # ------------------------------------------------------------ knowing

    def get(self, peer_id: str) -> Known | None:
        return self._known.get(peer_id)

    @property
    def known(self) -> list[Known]:
        return list(self._known.values())

    def learn(self, peer_id: str, addresses: list[Multiaddr], source: Source) -> Known | None:
        """Remember a peer and where it may be reached; None for this node itself."""
        if peer_id == self.own_id:
            return None
        entry = self._known.get(peer_id)
        if entry is None:
            if len(self._known) >= MAX_KNOWN and not self._make_room():
                return None
            identity = ID.from_base58(peer_id)
            entry = Known(peer_id=peer_id, id=identity, ping=PingStream(self._host, identity))
            self._known[peer_id] = entry
        if addresses and {str(a) for a in addresses} != {str(a) for a in entry.addresses}:
            entry.addresses = list(addresses)
            entry.redial_at, entry.redial_s = 0.0, REDIAL_FIRST_S
            self._host.get_peerstore().add_addrs(entry.id, addresses, 3600)
            texts = tuple(str(item) for item in addresses)
            self._emit(
                ev.PeerFound(at=time.time(), peer_id=peer_id, addresses=texts, source=source)
            )
        return entry

    def _make_room(self) -> bool:
        idle = [item for item in self._known.values() if not item.transports]
        if not idle:
            return False
        oldest = min(idle, key=lambda item: item.heard)
        self.forget(oldest.peer_id, "the peer table is full")
        return True

    def forget(self, peer_id: str, reason: str) -> None:
        """Drop a peer that said goodbye or is of no more use."""
        if self._known.pop(peer_id, None) is not None:
            self._emit(ev.PeerGone(at=time.time(), peer_id=peer_id, reason=reason))

    def usable(self, peer_id: str) -> bool:
        """Whether DHT and gossip work may be sent to this peer now."""
        entry = self._known.get(peer_id)
        return entry is None or (
            not entry.silent and entry.quarantined_until <= trio.current_time()
        )

    def is_connected(self, peer_id: str) -> bool:
        entry = self._known.get(peer_id)
        return entry is not None and bool(live_connections(self._host, entry.id))

    def connected_ids(self) -> list[str]:
        """The peers with at least one open connection."""
        return [item.peer_id for item in self._known.values() if item.transports]

    def on_connected(self, listener: Callable[[str, bool], None]) -> None:
        """Have `listener(peer_id, outbound)` called when a peer's first connection opens."""
        self._connected.append(listener)

    async def wait_connected(self, peer_id: str, timeout: float) -> bool:
        """Wait until the peer is connected, at most `timeout` seconds; whether it is."""
        if self.is_connected(peer_id):
            return True
        waiting = self._waiting.setdefault(peer_id, trio.Event())
        with trio.move_on_after(timeout):
            await waiting.wait()
            return True
        self._waiting.pop(peer_id, None)
        return False

    async def wait_lost(self, peer_id: str) -> None:
        """Wait until the peer is no longer connected."""
        while self.is_connected(peer_id):
            self._closing = self._closing if not self._closing.is_set() else trio.Event()
            await self._closing.wait()

    def add_tcp_soon(self, peer_id: str) -> None:
        """Open TCP beside QUIC in the background, where this node may."""
        entry = self._known.get(peer_id)
        if entry is not None and self._liveness.nursery is not None:
            self._liveness.nursery.start_soon(self._connector.add_tcp, entry)

    async def ensure_tcp(self, peer_id: str, timeout: float) -> None:
        """Open TCP beside QUIC where this node may, waiting at most `timeout` seconds for it."""
        entry = self._known.get(peer_id)
        if entry is not None:
            with trio.move_on_after(timeout):
                await self._connector.add_tcp(entry)

    # ------------------------------------------------------------ connecting

    async def connect(self, peer_id: str, *, force: bool = False) -> bool:
        """Make sure a connection to a known peer is open; respects the redial backoff.

        In dual mode the first contact is over QUIC and a TCP connection is opened beside it in
        the background. Returns whether the peer is connected.
        """
        entry = self._known.get(peer_id)
        if entry is None:
            return False
        if self._connector.live_transports(entry):
            return True
        proof = await self._connector.connect(entry, force=force)
        live = self._connector.live_transports(entry)
        if live == ("quic",):
            self.add_tcp_soon(peer_id)
        elif proof is not None and not live:
            self._liveness.fall_silent(entry, proof)
        return bool(live)

    async def dial_unknown(
        self, address: Multiaddr, source: Source, timeout: float = DIAL_S
    ) -> str:
        """Connect to whoever listens at `address`; returns the proven peer id.

        Raises DialFailed. Used for bootstrap addresses without a peer id.
        """
        reason = DialFailed("no transport for this address")
        for candidate in await self._dialer.resolve(address):
            if not self._dialer.can_dial(candidate):
                continue
            try:
                peer = await self._dialer.dial_unknown(candidate, timeout)
            except DialFailed as error:
                reason = error
                continue
            peer_id = str(peer)
            entry = self._known.get(peer_id)
            self.learn(peer_id, entry.addresses if entry else [candidate], source)
            return peer_id
        raise reason

    async def disconnect(self, peer_id: str) -> None:
        """Close every connection to a peer."""
        entry = self._known.get(peer_id)
        if entry is None:
            return
        await entry.ping.close()
        with trio.move_on_after(2.0):
            await self._host.disconnect(entry.id)

    # ------------------------------------------------------------ answering

    @property
    def watched(self) -> Callable[[], Collection[str]]:
        """Gives the ids of the peers that are pinged in every round."""
        return self._liveness.watched

    @watched.setter
    def watched(self, choose: Callable[[], Collection[str]]) -> None:
        self._liveness.watched = choose

    def on_lost(self, listener: Callable[[str], None]) -> None:
        """Have `listener(peer_id)` called when a peer falls silent."""
        self._liveness.on_lost(listener)

    def heard(self, peer_id: str, rtt_ms: float | None = None, transport: str = "tcp") -> None:
        """A peer proved that it is alive, by answering a ping or by speaking to us."""
        self._liveness.heard(peer_id, rtt_ms, transport)

    async def check(self, peer_id: str) -> bool:
        """Ping a peer now; returns whether it answered. Failures lead to quarantine, silence."""
        return await self._liveness.check(peer_id)

    def check_soon(self, peer_id: str) -> None:
        """Ping a peer as soon as the loop gets to it."""
        if self._liveness.nursery is not None:
            self._liveness.nursery.start_soon(self.check, peer_id)

    async def run(self) -> None:
        """Ping the watched peers every `ping_s`, and one other peer in rotation."""
        await self._liveness.run()

    # ------------------------------------------------------------ what the swarm tells

    async def connected(self, network: object, conn: INetConn) -> None:
        peer_id = str(conn.muxed_conn.peer_id)
        outbound = "OUTBOUND" in str(getattr(conn, "direction", "")).upper()
        entry = self.learn(peer_id, [], "inbound")
        if entry is None:
            return
        first = not entry.transports
        transport = connection_transport(conn)
        entry.transports = self._connector.live_transports(entry) or (transport,)
        entry.redial_at, entry.redial_s = 0.0, REDIAL_FIRST_S
        self._emit(
            ev.PeerConnected(
                at=time.time(),
                peer_id=peer_id,
                address=_remote_address(conn),
                transport=transport,
                direction="outbound" if outbound else "inbound",
            )
        )
        self.heard(peer_id)
        waiting = self._waiting.pop(peer_id, None)
        if waiting is not None:
            waiting.set()
        if first:
            for listener in self._connected:
                listener(peer_id, outbound)

    async def disconnected(self, network: object, conn: INetConn) -> None:
        peer_id = str(conn.muxed_conn.peer_id)
        entry = self._known.get(peer_id)
        self._closing.set()
        if entry is None:
            return
        before = entry.transports
        entry.transports = self._connector.live_transports(entry)
        transport = connection_transport(conn)
        if transport in entry.transports:
            return
        self._emit(
            ev.PeerDisconnected(
                at=time.time(),
                peer_id=peer_id,
                transport=transport,
                remaining=entry.transports,
            )
        )
        nursery = self._liveness.nursery
        if before and transport == "tcp" and nursery is not None:
            # Ask at once whether it is only the connection that died. QUIC merely idles out.
            nursery.start_soon(self._liveness.tcp_lost, entry)

    async def opened_stream(self, network: object, stream: object) -> None:
        return

    async def closed_stream(self, network: object, stream: object) -> None:
        return

    async def listen(self, network: object, multiaddr: object) -> None:
        return

    async def listen_close(self, network: object, multiaddr: object) -> None:
        return


def _remote_address(conn: INetConn) -> str:
    try:
        addresses = conn.get_transport_addresses()
    except Exception:
        return ""
    return str(addresses[0]) if addresses else ""
