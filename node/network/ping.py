"""Round trips on a kept-open ping stream, one per peer.

py-libp2p's PingService measures whole milliseconds and holds one lock for all peers, so that one
dead peer fails the pings to the live ones. Here every peer has its own stream and its own clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import trio
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID

from node.events import Transport
from node.network.host import quiet_reset, set_handler
from node.network.streams import StreamUnavailable, has_better, open_stream, read_exactly

PROTOCOL = "/ipfs/ping/1.0.0"
PING_BYTES = 32
IDLE_S = 120.0


class PingStream:
    """A ping stream to one peer, opened when needed and again after a failure."""

    def __init__(self, host: BasicHost, peer: ID) -> None:
        self._host = host
        self._peer = peer
        self._stream: INetStream | None = None
        self._transport: Transport = "tcp"

    async def measure(self, timeout: float) -> tuple[float, Transport]:
        """One round trip in milliseconds and the transport it took.

        Raises StreamUnavailable when the peer does not answer within `timeout` seconds. A stream
        that went stale (QUIC ends idle ones) is replaced once before that counts as a failure.
        """
        if self._stream is not None and has_better(self._host, self._peer, self._transport):
            await self.close()
        kept = self._stream is not None
        try:
            return await self._once(timeout)
        except StreamUnavailable:
            if not kept:
                raise
            return await self._once(timeout)

    async def _once(self, timeout: float) -> tuple[float, Transport]:
        try:
            with trio.fail_after(timeout):
                if self._stream is None:
                    self._stream, self._transport = await open_stream(
                        self._host, self._peer, PROTOCOL, timeout=timeout
                    )
                payload = os.urandom(PING_BYTES)
                start = time.perf_counter()
                await self._stream.write(payload)
                echo = await read_exactly(self._stream, PING_BYTES)
                took = (time.perf_counter() - start) * 1000
            if echo != payload:
                raise StreamUnavailable("the peer answers pings wrongly")
            return took, self._transport
        except StreamUnavailable:
            await self.close()
            raise
        except trio.TooSlowError as error:
            await self.close()
            raise StreamUnavailable(f"no answer within {timeout:.1f} s") from error
        except Exception as error:
            await self.close()
            raise StreamUnavailable(f"the ping stream broke ({type(error).__name__})") from error

    async def close(self) -> None:
        """Drop the stream; the next measure opens another."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await quiet_reset(stream)


def serve_ping(host: BasicHost, heard: Callable[[ID], None]) -> None:
    """Echo pings; each one also proves that its sender is alive."""

    async def handle(stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id
        while True:
            with trio.move_on_after(IDLE_S) as idle:
                try:
                    payload = await read_exactly(stream, PING_BYTES)
                    await stream.write(payload)
                except Exception:
                    break
                heard(peer)
            if idle.cancelled_caught:
                break
        await quiet_reset(stream)

    set_handler(host, PROTOCOL, handle)
