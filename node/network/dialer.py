"""Opening connections: QUIC first for first contact, TCP beside it, each with its own deadline.

py-libp2p's `connect()` waits its happy-eyeballs delay of 250 ms per address even when a dial
already succeeded, and remembers a failed peer for 60 s. This dials one address at a time.
"""

from __future__ import annotations

import trio
from libp2p.abc import IMuxedConn
from libp2p.host.basic_host import BasicHost
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.transport.quic.connection import QUICConnection
from libp2p.transport.quic.transport import QUICTransport
from libp2p.transport.quic.utils import quic_multiaddr_to_endpoint
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from node.events import Transport
from node.network.addresses import transport_of
from node.network.noise import SteadyNoise
from node.shielding import grace

DIAL_S = 4.0
UDP_ANSWER_S = 0.5


class DialFailed(Exception):
    """A connection attempt failed. `refused` means that nothing listens there any more."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.refused = refused


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue and len(found) < 32:
        item = queue.pop()
        if item is None or item in found:
            continue
        found.append(item)
        if isinstance(item, BaseExceptionGroup):
            queue.extend(item.exceptions)
        queue.extend((item.__cause__, item.__context__))
    return found


def explain(error: BaseException) -> DialFailed:
    """The plain reason behind py-libp2p's wrapped errors."""
    causes = _causes(error)
    if any(isinstance(item, ConnectionRefusedError) for item in causes):
        return DialFailed("connection refused", refused=True)
    texts = " ".join(str(item) for item in causes)
    if "refused" in texts.lower():
        return DialFailed("connection refused", refused=True)
    if "mismatch" in texts.lower():
        return DialFailed("another node answers at this address", refused=True)
    if any(isinstance(item, trio.TooSlowError | TimeoutError) for item in causes):
        return DialFailed("no answer")
    for item in causes:
        if isinstance(item, OSError) and item.strerror:
            return DialFailed(item.strerror.lower())
    return DialFailed(f"handshake failed ({type(causes[-1]).__name__})")


async def udp_refused(address: Multiaddr) -> bool:
    """Whether the machine at a QUIC address says that the port is closed.

    Sends one packet that no QUIC endpoint answers (RFC 9000, section 5.2: too short to be one).
    No answer within half a second means that nothing is known.
    """
    host, port = quic_multiaddr_to_endpoint(address)
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
    with trio.socket.socket(family, trio.socket.SOCK_DGRAM) as probe:
        try:
            with trio.move_on_after(UDP_ANSWER_S):
                await probe.connect((host, port))
                await probe.send(b"\0")
                await probe.recv(1)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


class Dialer:
    """Dials for one host. Every failure is a DialFailed with a plain reason."""

    def __init__(self, host: BasicHost) -> None:
        self._host = host
        network = host.get_network()
        assert isinstance(network, Swarm)
        self._swarm = network

    def can_dial(self, address: Multiaddr) -> bool:
        """Whether this host has the transport for `address`."""
        return self._swarm.transport_manager.transport_for_dialing(address) is not None

    async def dial(self, peer: ID, address: Multiaddr, timeout: float = DIAL_S) -> None:
        """Open one connection to `peer` at `address`."""
        try:
            with trio.fail_after(timeout):
                await self._swarm.dial_addr(address, peer)
        except Exception as error:
            raise explain(error) from error

    async def dial_unknown(self, address: Multiaddr, timeout: float = DIAL_S) -> ID:
        """Open a connection to whoever listens at `address` and return their proven peer id.

        The handshake authenticates the other side; only the comparison with an expected id is
        left out, because an operator may give a bootstrap address without one.
        """
        try:
            with trio.fail_after(timeout):
                if transport_of(address) == "quic":
                    muxed, peer = await self._quic_unknown(address)
                else:
                    muxed, peer = await self._tcp_unknown(address)
                if peer == self._host.get_id():
                    await muxed.close()
                    raise DialFailed("this node itself listens there", refused=True)
                with trio.CancelScope(shield=True):
                    await self._swarm.add_conn(muxed, direction="outbound")
                return peer
        except DialFailed:
            raise
        except Exception as error:
            raise explain(error) from error

    async def _tcp_unknown(self, address: Multiaddr) -> tuple[IMuxedConn, ID]:
        raw = await TCP().dial(address)
        try:
            upgrader = self._swarm.upgrader
            transport = await upgrader.security_multistream.select_transport(raw, True)
            assert isinstance(transport, SteadyNoise)
            secured = await transport.secure_unknown(raw)
            peer = secured.get_remote_peer()
            return await upgrader.upgrade_connection(secured, peer), peer
        except BaseException:
            with grace(1.0):
                await raw.close()
            raise

    async def _quic_unknown(self, address: Multiaddr) -> tuple[IMuxedConn, ID]:
        transport = self._swarm.transport_manager.transport_for_dialing(address)
        nursery = self._swarm.background_nursery
        if not isinstance(transport, QUICTransport) or nursery is None:
            raise DialFailed("QUIC is switched off on this node")
        connection = _quic_connection(transport, address, self._host.get_id())
        await connection.connect(nursery)
        peer = connection.remote_peer_id()
        if peer is None:
            await connection.close()
            raise DialFailed("the other side did not prove who it is")
        connection.peer_id = peer
        return connection, peer

    async def resolve(self, address: Multiaddr) -> list[Multiaddr]:
        """Resolve a DNS address to IP addresses; IP addresses come back as they are."""
        parts = str(address).split("/")
        if parts[1] in ("ip4", "ip6"):
            return [address]
        family = {"dns4": trio.socket.AF_INET, "dns6": trio.socket.AF_INET6}.get(parts[1], 0)
        try:
            with trio.fail_after(DIAL_S):
                found = await trio.socket.getaddrinfo(
                    parts[2], int(parts[4]), family=family, type=trio.socket.SOCK_STREAM
                )
        except (OSError, trio.TooSlowError) as error:
            raise DialFailed(f"the name {parts[2]} cannot be resolved") from error
        result = []
        for kind, _, _, _, sockaddr in found:
            version = "ip6" if kind == trio.socket.AF_INET6 else "ip4"
            result.append(Multiaddr("/".join(["", version, str(sockaddr[0]), *parts[3:]])))
        return list({str(item): item for item in result}.values())[:4]


def _quic_connection(transport: QUICTransport, address: Multiaddr, local: ID) -> QUICConnection:
    import copy

    from aioquic.quic.connection import QuicConnection
    from libp2p.custom_types import TProtocol

    config = copy.copy(transport._quic_configs[TProtocol("quic-v1_client")])
    config.is_client = True
    return QUICConnection(
        quic_connection=QuicConnection(configuration=config),
        remote_addr=quic_multiaddr_to_endpoint(address),
        remote_peer_id=None,
        local_peer_id=local,
        is_initiator=True,
        maddr=address,
        transport=transport,
        security_manager=transport._security_manager,
    )


def dial_order(addresses: list[Multiaddr], transport: str) -> list[tuple[Transport, Multiaddr]]:
    """Addresses in the order to try: QUIC before TCP in dual mode, only ours otherwise."""
    kinds: dict[str, tuple[Transport, ...]] = {
        "dual": ("quic", "tcp"),
        "quic": ("quic",),
        "tcp": ("tcp",),
    }
    return [
        (kind, address)
        for kind in kinds[transport]
        for address in addresses
        if transport_of(address) == kind
    ]
