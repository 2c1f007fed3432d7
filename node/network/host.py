"""The libp2p host of a node: how it is built, and the guards around its pitfalls.

Two facts about py-libp2p 0.8 shape this file. An exception in any stream handler ends the whole
host, so every handler runs inside one guard. `swarm.listen` returns quietly when a port is taken,
so what really listens is checked afterwards.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p import new_host
from libp2p.abc import INetConn, INetStream, ISecureTransport
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.rcmgr.manager import ResourceLimits, ResourceManager
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID
from libp2p.transport.quic.config import QUICTransportConfig
from libp2p.transport.quic.transport import QUICTransport
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from node.errors import PlainError
from node.network.addresses import announced, listen_addresses, transport_of
from node.network.fast import Suite, install, offered, security
from node.network.identity import Identity
from node.network.noise import SteadyNoise
from node.network.peerstore import BoundedPeerStore
from node.shielding import grace

MAX_CONNECTIONS = 512
MAX_STREAMS = 8192
QUIC_IDLE_S = 30.0
NEGOTIATE_S = 5.0

StreamHandler = Callable[[INetStream], Awaitable[None]]
Report = Callable[[str, BaseException], None]


def _connection_config() -> ConnectionConfig:
    # min/low 0 keeps the auto-connector from dialling dead peers behind our back.
    return ConnectionConfig(
        max_connections=MAX_CONNECTIONS,
        min_connections=0,
        low_watermark=0,
        high_watermark=MAX_CONNECTIONS,
        max_connections_per_peer=6,
        dial_timeout=5.0,
        inbound_upgrade_timeout=5.0,
        outbound_upgrade_timeout=5.0,
        outbound_stream_protocol_negotiation_timeout=NEGOTIATE_S,
        inbound_stream_protocol_negotiation_timeout=NEGOTIATE_S,
    )


def _resource_manager() -> ResourceManager:
    # The breaker and the degradation logic would refuse honest peers after a few failures.
    return ResourceManager(
        limits=ResourceLimits(
            max_connections=MAX_CONNECTIONS, max_memory_mb=1024, max_streams=MAX_STREAMS
        ),
        enable_metrics=False,
        enable_memory_limits=False,
        enable_circuit_breaker=False,
        enable_graceful_degradation=False,
        enable_rate_limiting=False,
    )


def _security(
    identity: Identity, stock: bool, suites: tuple[Suite, ...] | None
) -> dict[TProtocol, ISecureTransport]:
    key = create_noise_key_pair().private_key
    if stock:
        return {NOISE_PROTOCOL_ID: SteadyNoise(identity.key_pair, noise_privkey=key)}
    return security(identity.key_pair, key, offered() if suites is None else suites)


def build_host(
    identity: Identity,
    transport: str,
    *,
    stock: bool = False,
    suites: tuple[Suite, ...] | None = None,
) -> BasicHost:
    """A host with Noise and Yamux over TCP, QUIC, or both ("dual"); it does not listen yet.

    Noise and Yamux are our own (node.network.fast) or, with `stock`, py-libp2p's. `suites` are
    the Noise suites to offer in that order; by default what suits this machine.
    """
    transports: list[Any] = []
    if transport in ("dual", "quic"):
        config = QUICTransportConfig(idle_timeout=QUIC_IDLE_S)
        transports.append(QUICTransport(identity.key_pair.private_key, config=config))
    if transport in ("dual", "tcp"):
        transports.append(TCP())
    host = new_host(
        key_pair=identity.key_pair,
        peerstore_opt=BoundedPeerStore(),
        sec_opt=_security(identity, stock, suites),
        transports=transports,
        connection_config=_connection_config(),
        resource_manager=_resource_manager(),
        addrs_factory=announced,
        disable_identify_address_discovery=True,
    )
    assert isinstance(host, BasicHost)
    network = host.get_network()
    assert isinstance(network, Swarm)
    if not stock:
        install(host)
    network.retry_config = RetryConfig(max_retries=0)  # retries and backoff are the peer table's
    network.dial_peer = _dial_nobody  # type: ignore[method-assign]
    return host


async def _dial_nobody(peer_id: ID) -> list[INetConn]:
    """Instead of py-libp2p's own dialling: every stream it wants to a lost peer would dial it.

    Gossip's retries alone would keep dialling the dead; the peer table dials, with its backoff.
    """
    raise SwarmException(f"not connected to {peer_id}")


def guard_handlers(host: BasicHost, report: Report) -> None:
    """Run every stream handler inside one guard: what escapes it is reported, the stream reset.

    py-libp2p raises a handler's exception out of `host.run`, which would end the node.
    """
    inner = host._swarm_stream_handler

    async def guarded(stream: INetStream) -> None:
        try:
            await inner(stream)
        except trio.Cancelled:
            raise
        except BaseExceptionGroup as group:
            cancelled, rest = group.split(trio.Cancelled)
            if rest is not None:
                report(_name(stream), rest)
                await quiet_reset(stream)
            if cancelled is not None:
                raise cancelled from None
        except Exception as error:
            report(_name(stream), error)
            await quiet_reset(stream)

    host.get_network().set_stream_handler(guarded)


def _name(stream: INetStream) -> str:
    return str(stream.get_protocol() or "unnegotiated stream")


async def quiet_reset(stream: INetStream) -> None:
    """Reset a stream whose other end may be gone already; nothing can be done about a failure."""
    with grace(1.0):
        try:
            await stream.reset()
        except Exception:
            return


async def quiet_close(stream: INetStream) -> None:
    """Close a stream; a failure means it is closed already."""
    with grace(1.0):
        try:
            await stream.close()
        except Exception:
            return


@asynccontextmanager
async def running_host(
    host: BasicHost, listen: str, port: int, transport: str
) -> AsyncIterator[list[Multiaddr]]:
    """Run the host and listen; yields the addresses others can dial, without /p2p.

    Raises PlainError when an address cannot be listened on, naming the port.
    """
    chosen = port or _common_port(listen, transport)
    wanted = listen_addresses(listen, chosen, transport)
    for address in wanted:
        if not _is_free(address, listen, chosen):
            raise _cannot_listen(address, listen, port)
    async with host.run(wanted):
        actual = host.get_transport_addrs()
        kinds = {transport_of(item) for item in actual}
        for address in wanted:
            if transport_of(address) not in kinds:
                raise _cannot_listen(address, listen, port)
        yield announced(actual)


async def close_connections(host: BasicHost, seconds: float) -> None:
    """Close every connection at once, in at most `seconds`.

    py-libp2p closes them one after another, each with a pause of 0.1 s: a node with sixty would
    take six seconds to leave.
    """
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for connection in host.get_network().get_connections():
                nursery.start_soon(_close_connection, connection)


async def _close_connection(connection: INetConn) -> None:
    try:
        await connection.close()
    except Exception:
        return  # closed by the other side, or its socket broke: gone either way


def _common_port(listen: str, transport: str) -> int:
    """A port number free for UDP and TCP alike, so that one address is enough to find a node.

    0 (any) when one transport is used alone, or when none was found.
    """
    if transport != "dual":
        return 0
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    for _ in range(16):
        with (
            socket.socket(family, socket.SOCK_STREAM) as tcp,
            socket.socket(family, socket.SOCK_DGRAM) as udp,
        ):
            try:
                tcp.bind((listen, 0))
                port = int(tcp.getsockname()[1])
                udp.bind((listen, port))
            except OSError:
                continue
            return port
    return 0


def _is_free(address: Multiaddr, listen: str, port: int) -> bool:
    """Whether the port can be had alone: py-libp2p would share it silently (SO_REUSEPORT)."""
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    udp = transport_of(address) == "quic"
    with socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as probe:
        if not udp:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen, port))
            if not udp:
                probe.listen(1)
        except OSError:
            return False
    return True


def _cannot_listen(address: Multiaddr, listen: str, port: int) -> PlainError:
    kind = "UDP" if transport_of(address) == "quic" else "TCP"
    if port:
        return PlainError(
            f"{kind} port {port} on {listen} is taken by another program or not allowed.",
            "Choose another one with --port, or 0 for any free port.",
        )
    return PlainError(
        f"This machine cannot listen on {listen} ({kind}).",
        "Give one of its own addresses with --listen, or 0.0.0.0 for all of them.",
    )


def set_handler(host: BasicHost, protocol: str, handler: StreamHandler) -> None:
    """Serve `protocol` with `handler`."""
    host.set_stream_handler(TProtocol(protocol), handler)
