"""Puts the fast pair into a py-libp2p host.

Noise goes in through `sec_opt`. For Yamux `muxer_opt` is ignored (py-libp2p names its own class
in `MuxerMultistream.new_conn`), so that method is replaced on the host's instance.
"""

from __future__ import annotations

from libp2p.abc import IMuxedConn, IRawConnection, ISecureConn
from libp2p.host.basic_host import BasicHost
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX

from node.network.fast.muxer import FastYamux, Limits
from node.network.fast.session import FastSession
from node.network.noise import SteadyNoise


class FastNoise(SteadyNoise):
    """The standard Noise transport; sessions are FastSession once the handshake is done."""

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return _fast(conn, await NoiseTransport.secure_inbound(self, conn))

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return _fast(conn, await NoiseTransport.secure_outbound(self, conn, peer_id))

    async def secure_unknown(self, conn: IRawConnection) -> ISecureConn:
        """Outbound without an expected peer id; the remote still proves its own."""
        return _fast(conn, await self.get_pattern().handshake_outbound(conn, None))


def _fast(conn: IRawConnection, stock: ISecureConn) -> FastSession:
    assert isinstance(stock, SecureSession)
    return FastSession.after_handshake(conn, stock)


def install(host: BasicHost, limits: Limits | None = None) -> None:
    """Have `host` use FastYamux on every connection whose security is FastNoise."""
    network = host.get_network()
    assert isinstance(network, Swarm)
    muxers = network.upgrader.muxer_multistream
    stock = muxers.new_conn

    async def new_conn(conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        if not isinstance(conn, FastSession):
            return await stock(conn, peer_id)
        protocol, other = await muxers._selector.select(
            conn, conn.is_initiator, muxers.negotiate_timeout
        )
        muxed: IMuxedConn = (
            FastYamux(conn, peer_id, limits=limits) if protocol == YAMUX else other(conn, peer_id)
        )
        return muxers._annotate_connection(muxed, conn, protocol)

    muxers.new_conn = new_conn  # type: ignore[method-assign]
