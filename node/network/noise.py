"""Noise whose writes survive cancellation.

py-libp2p encrypts (the nonce counts up) and then sends; a task cancelled in between, by a timeout
or because enough other peers answered, leaves the two sides with different nonces, and the other
side closes the whole connection with everything on it. A started write is therefore finished, out
of reach of outer cancellation; closing the connection still ends one that hangs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.peer.id import ID
from libp2p.security.noise.transport import Transport as NoiseTransport


def steady(session: ISecureConn) -> ISecureConn:
    """The same session; its writes are finished once begun."""
    write: Callable[[bytes], Awaitable[None]] = session.write

    async def finish(data: bytes) -> None:
        scope = trio.CancelScope()
        scope.shield = True
        with scope:
            await write(data)

    session.write = finish  # type: ignore[method-assign]
    return session


class SteadyNoise(NoiseTransport):
    """The standard Noise transport with steady sessions."""

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return steady(await super().secure_inbound(conn))

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return steady(await super().secure_outbound(conn, peer_id))

    async def secure_unknown(self, conn: IRawConnection) -> ISecureConn:
        """Outbound without an expected peer id; the remote still proves its own."""
        return steady(await self.get_pattern().handshake_outbound(conn, None))
