"""Dialling known peers: QUIC for first contact, TCP beside it, backoff after a failure."""

from __future__ import annotations

import random
import time

import trio
from libp2p.host.basic_host import BasicHost
from multiaddr import Multiaddr

from node import events as ev
from node.network.dialer import Dialer, DialFailed, dial_order, udp_refused
from node.network.known import REDIAL_FIRST_S, Emit, Known
from node.network.streams import connection_transport, live_connections

QUIC_HEAD_START_S = 0.4
REDIAL_MAX_S = 30.0
# A handshake costs tens of milliseconds of CPU on each side. With all of them at once in a large
# swarm none would end before its deadline, and all would be tried again.
DIALS_AT_ONCE = 4


class Connector:
    """Opens connections of one host to known peers and says what came of it."""

    def __init__(self, host: BasicHost, dialer: Dialer, emit: Emit, transport: str) -> None:
        self._host = host
        self._dialer = dialer
        self._emit = emit
        self.transport = transport
        self._slots = trio.Semaphore(DIALS_AT_ONCE)

    def live_transports(self, entry: Known) -> tuple[ev.Transport, ...]:
        """The transports of the peer's open connections, TCP first."""
        kinds = {connection_transport(item) for item in live_connections(self._host, entry.id)}
        return tuple(sorted(kinds, reverse=True))

    async def connect(self, entry: Known, *, force: bool = False) -> str | None:
        """Make sure a connection to the peer is open; respects the redial backoff.

        In dual mode the first contact is over QUIC; `live_transports` tells whether TCP is still
        to be added. Returns why nothing listens there any more if that is what every dial of
        this call met, else None.
        """
        if live_connections(self._host, entry.id):
            return None
        if entry.dialing is not None:
            await entry.dialing.wait()
            return None
        if not force and trio.current_time() < entry.redial_at:
            return None
        entry.dialing = trio.Event()
        try:
            async with self._slots:
                # It may have dialled us while we waited for our turn.
                if live_connections(self._host, entry.id):
                    return None
                return await self._dial_all(entry)
        finally:
            entry.dialing.set()
            entry.dialing = None

    async def _dial_all(self, entry: Known) -> str | None:
        order = dial_order(entry.addresses, self.transport)
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
                self._failed(entry, kind, address, error, entry.redial_s if last else 0.0)
                continue
            entry.redial_s = REDIAL_FIRST_S
            return None
        entry.redial_at = trio.current_time() + entry.redial_s
        entry.redial_s = min(entry.redial_s * 2, REDIAL_MAX_S)
        return reason if refused else None

    def _failed(
        self,
        entry: Known,
        kind: ev.Transport,
        address: Multiaddr,
        error: DialFailed,
        retry_in_s: float = 0.0,
    ) -> None:
        self._emit(
            ev.PeerDialFailed(
                at=time.time(),
                peer_id=entry.peer_id,
                address=str(address),
                transport=kind,
                reason=error.reason,
                retry_in_s=round(retry_in_s, 1),
            )
        )

    async def _dial_quic(self, entry: Known, address: Multiaddr) -> None:
        """Dial over QUIC; where it does not answer soon, try TCP beside it.

        A handshake of py-libp2p's QUIC can get stuck, and does not see that the port is closed:
        either would cost its whole deadline. TCP answers or refuses at once, a bare packet may
        be refused.
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

        async def closed_port() -> None:
            nonlocal failure
            if await udp_refused(address):
                failure = DialFailed("connection refused", refused=True)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(closed_port)
            if self.transport == "dual":
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

    async def add_tcp(self, entry: Known) -> None:
        """Open TCP beside QUIC, where this node may, in turn with the other dials."""
        if self.transport == "dual":
            async with self._slots:
                await self._add_tcp(entry)

    async def _add_tcp(self, entry: Known) -> list[DialFailed]:
        """Open TCP beside QUIC, for bulk and for everything that needs short round trips.

        Returns what failed.
        """
        failures: list[DialFailed] = []
        for kind, address in dial_order(entry.addresses, "tcp"):
            if "tcp" in self.live_transports(entry):
                return failures
            try:
                await self._dial_one(entry, kind, address)
                return failures
            except DialFailed as error:
                failures.append(error)
                self._failed(entry, kind, address, error)
        return failures

    async def refused(self, entry: Known) -> str | None:
        """Whether nothing listens any more where the peer listened; the plain reason if so.

        A killed process leaves its QUIC connections open at the other end: only a new packet
        gets the operating system's answer that the port is closed.
        """
        if self.transport != "quic":
            failures = await self._add_tcp(entry)
            if failures or "tcp" in self.live_transports(entry):
                all_refused = all(item.refused for item in failures)
                return failures[-1].reason if failures and all_refused else None
        addresses = [item for _, item in dial_order(entry.addresses, "quic")]
        for address in addresses:
            if not await udp_refused(address):
                return None
        return "connection refused" if addresses else None
