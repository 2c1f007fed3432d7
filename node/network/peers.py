"""The peer table: who is known, connected, answering, silent, or left alone for a while.

A dead peer must not slow anything down: with one killed QUIC peer a stock DHT operation takes
20 s. So the peers that matter are pinged on open streams every few seconds, one that fails twice
is quarantined (no DHT work is sent to it) and probed with backoff, and after the silence limit it
counts as silent and its shards go OFFLINE. A refused redial after a lost connection is proof
enough to say so at once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

import trio
from libp2p.abc import INetConn, INotifee
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from node import events as ev
from node.network.dialer import DIAL_S, Dialer, DialFailed, dial_order
from node.network.ping import PingStream, serve_ping
from node.network.streams import StreamUnavailable, connection_transport, live_connections

MAX_KNOWN = 1024
PING_TIMEOUT_S = 2.0
QUARANTINE_FIRST_S = 5.0
QUARANTINE_MAX_S = 60.0
REDIAL_FIRST_S = 1.0
QUIC_HEAD_START_S = 0.4
LATE_S = 0.5
# A handshake costs tens of milliseconds of CPU on each side. With all of them at once in a large
# swarm none would end before its deadline, and all would be tried again.
DIALS_AT_ONCE = 4
REDIAL_MAX_S = 30.0

Source = Literal["bootstrap", "dht", "mdns", "machine", "gossip", "cache", "inbound"]
Emit = Callable[[ev.Event], None]


@dataclass(eq=False)
class Known:
    """One peer. Times are trio's monotonic seconds; 0 means never."""

    peer_id: str
    id: ID
    ping: PingStream
    addresses: list[Multiaddr] = field(default_factory=list)
    heard: float = 0.0
    failures: int = 0
    silent: bool = False
    quarantined_until: float = 0.0
    quarantine_s: float = QUARANTINE_FIRST_S
    redial_at: float = 0.0
    redial_s: float = REDIAL_FIRST_S
    dialing: trio.Event | None = None
    transports: tuple[ev.Transport, ...] = ()
    busy: bool = False


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
        self._transport = transport
        self._ping_s = ping_s
        self._silence_s = silence_s
        self._known: dict[str, Known] = {}
        self._nursery: trio.Nursery | None = None
        self._connected: list[Callable[[str, bool], None]] = []
        self._lost: list[Callable[[str], None]] = []
        self._closing = trio.Event()
        self._waiting: dict[str, trio.Event] = {}
        self._late_until = 0.0
        self._rotation = 0
        self._slots = trio.Semaphore(DIALS_AT_ONCE)
        self.watched: Callable[[], Collection[str]] = lambda: ()
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
        if entry is not None and self._nursery is not None and self._transport == "dual":
            self._nursery.start_soon(self._add_tcp_in_turn, entry)

    async def ensure_tcp(self, peer_id: str, timeout: float) -> None:
        """Open TCP beside QUIC where this node may, waiting at most `timeout` seconds for it."""
        entry = self._known.get(peer_id)
        if entry is not None and self._transport == "dual":
            with trio.move_on_after(timeout):
                await self._add_tcp_in_turn(entry)

    def on_lost(self, listener: Callable[[str], None]) -> None:
        """Have `listener(peer_id)` called when a peer falls silent."""
        self._lost.append(listener)

    # ------------------------------------------------------------ connecting

    async def connect(self, peer_id: str, *, force: bool = False) -> bool:
        """Make sure a connection to a known peer is open; respects the redial backoff.

        In dual mode the first contact is over QUIC and a TCP connection is opened beside it in
        the background. Returns whether the peer is connected.
        """
        entry = self._known.get(peer_id)
        if entry is None:
            return False
        if live_connections(self._host, entry.id):
            return True
        if entry.dialing is not None:
            await entry.dialing.wait()
            return bool(live_connections(self._host, entry.id))
        if not force and trio.current_time() < entry.redial_at:
            return False
        entry.dialing = trio.Event()
        try:
            async with self._slots:
                # It may have dialled us while we waited for our turn.
                if live_connections(self._host, entry.id):
                    return True
                return await self._dial_all(entry)
        finally:
            entry.dialing.set()
            entry.dialing = None

    async def _dial_all(self, entry: Known) -> bool:
        order = dial_order(entry.addresses, self._transport)
        reason, refused = "no address to dial", False
        for index, (kind, address) in enumerate(order):
            try:
                if kind == "quic":
                    await self._dial_quic(entry, address)
                else:
                    await self._dial_one(entry, kind, address)
            except DialFailed as error:
                reason, refused = error.reason, refused or error.refused
                last = index == len(order) - 1
                if last:
                    entry.redial_at = trio.current_time() + entry.redial_s * random.uniform(
                        0.8, 1.2
                    )
                self._emit(
                    ev.PeerDialFailed(
                        at=time.time(),
                        peer_id=entry.peer_id,
                        address=str(address),
                        transport=kind,
                        reason=reason,
                        retry_in_s=round(entry.redial_s, 1) if last else 0.0,
                    )
                )
                continue
            entry.redial_s = REDIAL_FIRST_S
            if kind == "quic":
                self.add_tcp_soon(entry.peer_id)
            return True
        entry.redial_at = trio.current_time() + entry.redial_s
        entry.redial_s = min(entry.redial_s * 2, REDIAL_MAX_S)
        if refused:
            self._fall_silent(entry, reason)
        return False

    async def _dial_quic(self, entry: Known, address: Multiaddr) -> None:
        """Dial over QUIC; where it does not answer soon, try TCP beside it.

        UDP tells nothing of a node that is gone, and a handshake of py-libp2p's QUIC can get
        stuck: either would cost its whole deadline. TCP answers or refuses at once.
        """
        failure: DialFailed | None = None

        async def tcp_later() -> None:
            nonlocal failure
            await trio.sleep(QUIC_HEAD_START_S)
            reasons = await self._add_tcp(entry)
            if live_connections(self._host, entry.id):
                nursery.cancel_scope.cancel()
            elif reasons and all(item.refused for item in reasons):
                failure = reasons[-1]
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            if self._transport == "dual":
                nursery.start_soon(tcp_later)
            try:
                await self._dial_one(entry, "quic", address)
            except DialFailed as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None and not live_connections(self._host, entry.id):
            raise failure

    async def _dial_one(self, entry: Known, kind: ev.Transport, address: Multiaddr) -> None:
        self._emit(
            ev.PeerDialing(
                at=time.time(), peer_id=entry.peer_id, address=str(address), transport=kind
            )
        )
        await self._dialer.dial(entry.id, address)

    async def _add_tcp_in_turn(self, entry: Known) -> None:
        async with self._slots:
            await self._add_tcp(entry)

    async def _add_tcp(self, entry: Known) -> list[DialFailed]:
        """Open TCP beside QUIC, for bulk and for everything that needs short round trips.

        Returns what failed.
        """
        failures: list[DialFailed] = []
        for kind, address in dial_order(entry.addresses, "tcp"):
            if "tcp" in self._live_transports(entry):
                return failures
            try:
                await self._dial_one(entry, kind, address)
                return failures
            except DialFailed as error:
                failures.append(error)
                self._emit(
                    ev.PeerDialFailed(
                        at=time.time(),
                        peer_id=entry.peer_id,
                        address=str(address),
                        transport=kind,
                        reason=error.reason,
                    )
                )
        return failures

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

    # ------------------------------------------------------------ hearing

    def heard(self, peer_id: str, rtt_ms: float | None = None, transport: str = "tcp") -> None:
        """A peer proved that it is alive, by answering a ping or by speaking to us."""
        entry = self._known.get(peer_id)
        if entry is None:
            return
        now = trio.current_time()
        quiet = now - entry.heard
        entry.heard, entry.failures = now, 0
        if entry.quarantined_until:
            entry.quarantined_until, entry.quarantine_s = 0.0, QUARANTINE_FIRST_S
            self._emit(ev.PeerReleased(at=time.time(), peer_id=peer_id))
        if rtt_ms is not None or entry.silent or quiet > self._ping_s:
            entry.silent = False
            self._emit(
                ev.PeerHeard(
                    at=time.time(),
                    peer_id=peer_id,
                    rtt_ms=rtt_ms,
                    transport="quic" if transport == "quic" else "tcp",
                )
            )

    def _fall_silent(self, entry: Known, reason: str) -> None:
        self._quarantine(entry, reason)
        if entry.silent:
            return
        entry.silent = True
        since = trio.current_time() - entry.heard if entry.heard else 0.0
        self._emit(
            ev.PeerSilent(
                at=time.time(), peer_id=entry.peer_id, silent_s=round(since, 1), reason=reason
            )
        )
        for listener in self._lost:
            listener(entry.peer_id)

    def _quarantine(self, entry: Known, reason: str) -> None:
        now = trio.current_time()
        if entry.quarantined_until > now:
            return
        entry.quarantined_until = now + entry.quarantine_s
        until = time.time() + entry.quarantine_s
        entry.quarantine_s = min(entry.quarantine_s * 2, QUARANTINE_MAX_S)
        self._emit(
            ev.PeerQuarantined(at=time.time(), peer_id=entry.peer_id, until=until, reason=reason)
        )

    async def check(self, peer_id: str) -> bool:
        """Ping a peer now; returns whether it answered. Failures lead to quarantine, silence."""
        entry = self._known.get(peer_id)
        if entry is None or entry.busy:
            return False
        entry.busy = True
        try:
            if not live_connections(self._host, entry.id) and not await self.connect(peer_id):
                self._judge(entry, "not connected")
                return False
            try:
                rtt_ms, transport = await entry.ping.measure(PING_TIMEOUT_S)
            except StreamUnavailable as error:
                entry.failures += 1
                if entry.failures >= 2 and trio.current_time() >= self._late_until:
                    self._quarantine(entry, str(error))
                self._judge(entry, str(error))
                return False
            self.heard(peer_id, rtt_ms, transport)
            return True
        finally:
            entry.busy = False

    def _judge(self, entry: Known, reason: str) -> None:
        quiet = trio.current_time() - entry.heard
        # A node that is itself too busy to hear waits longer before it calls others silent.
        patience = 2 if trio.current_time() < self._late_until else 1
        if quiet >= self._silence_s * patience:
            self._fall_silent(entry, reason)
            if self._nursery is not None and live_connections(self._host, entry.id):
                self._nursery.start_soon(self.disconnect, entry.peer_id)

    # ------------------------------------------------------------ running

    async def run(self) -> None:
        """Ping the watched peers every `ping_s`, and one other peer in rotation."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await self._sweep(nursery)
            finally:
                self._nursery = None  # a closed one takes no more tasks: others ask before

    async def _sweep(self, nursery: trio.Nursery) -> None:
        while True:
            watched = set(self.watched())
            others = [
                item.peer_id
                for item in self._known.values()
                if item.peer_id not in watched and item.transports
            ]
            if others:
                self._rotation = (self._rotation + 1) % len(others)
                watched.add(others[self._rotation])
            for peer_id in watched:
                nursery.start_soon(self.check, peer_id)
            due = trio.current_time() + self._ping_s * random.uniform(0.85, 1.15)
            await trio.sleep_until(due)
            if trio.current_time() - due > LATE_S:
                self._late_until = trio.current_time() + 2 * self._ping_s

    def check_soon(self, peer_id: str) -> None:
        """Ping a peer as soon as the loop gets to it."""
        if self._nursery is not None:
            self._nursery.start_soon(self.check, peer_id)

    # ------------------------------------------------------------ what the swarm tells

    def _live_transports(self, entry: Known) -> tuple[ev.Transport, ...]:
        kinds = {connection_transport(item) for item in live_connections(self._host, entry.id)}
        return tuple(sorted(kinds, reverse=True))

    async def connected(self, network: object, conn: INetConn) -> None:
        peer_id = str(conn.muxed_conn.peer_id)
        outbound = "OUTBOUND" in str(getattr(conn, "direction", "")).upper()
        entry = self.learn(peer_id, [], "inbound")
        if entry is None:
            return
        first = not entry.transports
        transport = connection_transport(conn)
        entry.transports = self._live_transports(entry) or (transport,)
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
        entry.transports = self._live_transports(entry)
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
        if before and transport == "tcp" and self._nursery is not None:
            # Ask at once whether it is only the connection that died. QUIC merely idles out.
            self._nursery.start_soon(self._tcp_lost, entry)

    async def _tcp_lost(self, entry: Known) -> None:
        """A killed process closes its TCP connections and leaves QUIC open: dial TCP to know."""
        if live_connections(self._host, entry.id) and self._transport == "dual":
            failures = await self._add_tcp(entry)
            if failures and all(item.refused for item in failures):
                self._fall_silent(entry, failures[-1].reason)
                await self.disconnect(entry.peer_id)
                return
        await self.check(entry.peer_id)

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
