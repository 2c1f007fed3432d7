"""Streams that carry files: whole buffers in and out, over TCP wherever the peer has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID

from node.network.fast.stream import FastStream
from node.network.host import quiet_close, quiet_reset, set_handler
from node.network.peers import Peers
from node.network.streams import StreamUnavailable, open_stream

WAIT_TCP_S = 3.0
EXPECTED_BYTES = 4 * 1024 * 1024
"""What may come at once on a stream this side opened: credit for the first requests' answers."""
"""How long a transfer waits for TCP to come up beside QUIC: first contact is over QUIC."""
OPEN_S = 8.0

Buffer = bytes | bytearray | memoryview


class BulkStream:
    """A negotiated stream as node.torrent.transfer.streams.Stream wants it.

    On the fast transport it goes past py-libp2p's NetStream, which yields twice for every call;
    what arrives is copied once, into the caller's buffer.
    """

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        muxed = getattr(stream, "muxed_stream", None)
        self._fast = muxed if isinstance(muxed, FastStream) else None

    async def read(self, n: int) -> Buffer:
        """1 to `n` bytes; empty at the end."""
        try:
            return await self._stream.read(n)
        except StreamEOF:
            return b""

    async def read_into(self, view: memoryview) -> int:
        """Bytes put at the beginning of `view`; 0 at the end."""
        if self._fast is not None:
            return await self._fast.read_into(view)
        data = await self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def expect(self, size: int) -> None:
        """Say that about so many bytes may be under way at once, where the stream can use it."""
        if self._fast is not None:
            self._fast.expect(size)

    async def write(self, data: Buffer) -> None:
        """Send all of `data`, waiting while the other side is full."""
        if self._fast is not None:
            await self._fast.write(data)
        else:
            await self._stream.write(bytes(data))

    async def close(self) -> None:
        """Half-close: what was written still arrives. Never raises."""
        await quiet_close(self._stream)

    async def reset(self) -> None:
        """End both directions. Never raises."""
        await quiet_reset(self._stream)


class BulkStreams:
    """Opens and serves streams of one protocol between this node and its peers."""

    def __init__(self, host: BasicHost, peers: Peers, protocol: str) -> None:
        self._host = host
        self._peers = peers
        self._protocol = protocol

    async def open(self, peer_id: str) -> BulkStream:
        """A stream to `peer_id`, connecting first if need be. Raises StreamUnavailable."""
        if not self._peers.is_connected(peer_id) and not await self._peers.connect(peer_id):
            raise StreamUnavailable("not connected")
        await self._peers.ensure_tcp(peer_id, WAIT_TCP_S)
        peer = ID.from_base58(peer_id)
        stream, _ = await open_stream(self._host, peer, self._protocol, timeout=OPEN_S)
        assert isinstance(stream, NetStream)
        bulk = BulkStream(stream)
        bulk.expect(EXPECTED_BYTES)
        return bulk

    def serve(self, handler: Callable[[BulkStream, str], Awaitable[object]]) -> None:
        """Have `handler(stream, peer id)` serve what peers open; it ends the stream itself."""

        async def accept(stream: INetStream) -> None:
            peer_id = str(stream.muxed_conn.peer_id)
            self._peers.heard(peer_id)
            await handler(BulkStream(stream), peer_id)

        set_handler(self._host, self._protocol, accept)


__all__ = ["BulkStream", "BulkStreams", "StreamUnavailable"]
