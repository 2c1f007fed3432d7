"""Puts the fast pair into a py-libp2p host.

Noise goes in through `sec_opt`. For Yamux `muxer_opt` is ignored (py-libp2p names its own class
in `MuxerMultistream.new_conn`), so that method is replaced on the host's instance.
"""

from __future__ import annotations

from collections.abc import Iterable

from libp2p.abc import IMuxedConn, IRawConnection, ISecureConn, ISecureTransport
from libp2p.crypto.keys import KeyPair, PrivateKey
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.security.noise.patterns import IPattern, PatternXX
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX

from node.network.fast.muxer import FastYamux, Limits
from node.network.fast.session import FastSession
from node.network.fast.suites import CHACHA_POLY, Suite
from node.network.noise import SteadyNoise


class FastNoise(SteadyNoise):
    """Noise of one suite; sessions are FastSession once py-libp2p's handshake is done."""

    def __init__(
        self, key_pair: KeyPair, noise_privkey: PrivateKey, suite: Suite = CHACHA_POLY
    ) -> None:
        super().__init__(key_pair, noise_privkey=noise_privkey)
        self._suite = suite

    def get_pattern(self) -> IPattern:
        """The XX handshake, with the suite's cipher."""
        pattern = super().get_pattern()
        assert isinstance(pattern, PatternXX)
        pattern.protocol_name = self._suite.noise_name
        return pattern

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return self._fast(conn, await NoiseTransport.secure_inbound(self, conn))

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return self._fast(conn, await NoiseTransport.secure_outbound(self, conn, peer_id))

    async def secure_unknown(self, conn: IRawConnection) -> ISecureConn:
        """Outbound without an expected peer id; the remote still proves its own."""
        return self._fast(conn, await self.get_pattern().handshake_outbound(conn, None))

    def _fast(self, conn: IRawConnection, stock: ISecureConn) -> FastSession:
        assert isinstance(stock, SecureSession)
        return FastSession.after_handshake(conn, stock, self._suite)


def security(
    key_pair: KeyPair, noise_privkey: PrivateKey, suites: Iterable[Suite]
) -> dict[TProtocol, ISecureTransport]:
    """The security protocols of a host in the order in which it proposes them."""
    return {item.protocol: FastNoise(key_pair, noise_privkey, item) for item in suites}


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
