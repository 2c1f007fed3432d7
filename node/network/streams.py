"""Streams over the connection of our choice, and bounded reads from them.

With QUIC and TCP open to one peer, py-libp2p picks a connection by its own rules; its QUIC costs
ten times the round trip and loses data with a slow reader. Everything of ours asks for TCP first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.transport.quic.exceptions import QUICStreamClosedError
from libp2p.transport.quic.stream import QUICStream

from node.events import Transport
from node.network.host import NEGOTIATE_S, quiet_reset

TCP_FIRST: tuple[Transport, ...] = ("tcp", "quic")


def has_better(host: BasicHost, peer: ID, transport: Transport) -> bool:
    """Whether a stream kept on `transport` should move: it is on QUIC and TCP is open now.

    First contact is over QUIC, so the first streams are too; left alone there, QUIC idles out.
    """
    return transport == "quic" and any(
        connection_transport(item) == "tcp" for item in live_connections(host, peer)
    )


class StreamUnavailable(Exception):
    """No stream could be opened: not connected, refused, or too slow. The text says which."""


def connection_transport(connection: INetConn) -> Transport:
    """Which transport an open connection uses."""
    return "quic" if type(connection.muxed_conn).__name__.startswith("QUIC") else "tcp"


def live_connections(host: BasicHost, peer: ID) -> list[INetConn]:
    """The open connections to `peer`, oldest first."""
    return [item for item in host.get_network().get_connections(peer) if not item.is_closed]


async def open_stream(
    host: BasicHost,
    peer: ID,
    protocol: str,
    *,
    timeout: float = NEGOTIATE_S,
    prefer: Sequence[Transport] = TCP_FIRST,
) -> tuple[INetStream, Transport]:
    """Open a stream of `protocol` on an existing connection and say which transport carries it.

    Raises StreamUnavailable within `timeout` seconds when there is none.
    """
    connections = sorted(
        live_connections(host, peer),
        key=lambda item: list(prefer).index(connection_transport(item)),
    )
    if not connections:
        raise StreamUnavailable("not connected")
    reason = "no connection worked"
    with trio.move_on_after(timeout) as deadline:
        for connection in connections:
            try:
                stream = await connection.new_stream()
            except Exception as error:
                reason = f"cannot open a stream ({type(error).__name__})"
                continue
            done = False
            try:
                selected = await host.multiselect_client.select_one_of(
                    [TProtocol(protocol)], MultiselectCommunicator(stream), int(NEGOTIATE_S)
                )
                stream.set_protocol(selected)
                done = True
                return stream, connection_transport(connection)
            except Exception as error:
                reason = f"{protocol} was not accepted ({type(error).__name__})"
            finally:
                if not done:
                    await quiet_reset(stream)
    if deadline.cancelled_caught:
        reason = f"no answer within {timeout:.1f} s"
    raise StreamUnavailable(reason)


async def end_writing(stream: INetStream) -> None:
    """Half-close: tell the other side that no more comes, and go on reading."""
    assert isinstance(stream, NetStream)
    await stream.close_write()


async def read_exactly(stream: INetStream | BufferedStream, size: int) -> bytes:
    """Read exactly `size` bytes; EOFError when the stream ends first."""
    parts: list[bytes] = []
    missing = size
    while missing:
        part = await stream.read(missing)
        if not part:
            raise EOFError(f"the stream ended {missing} bytes early")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


class BufferedStream:
    """A stream for small messages: large reads, and a short prefix sent with what follows.

    Stock Yamux sends an encrypted window update for every read and a frame for every write; a
    length prefix read byte by byte and written apart costs more than its message.
    """

    PREFIX = 8

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        self._unread = bytearray()
        self._unsent = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def read(self, n: int | None = None) -> bytes:
        """Up to `n` bytes; b"" at the end."""
        if not self._unread:
            self._unread += await self._stream.read(65536)
        size = len(self._unread) if n is None else n
        part = bytes(self._unread[:size])
        del self._unread[:size]
        return part

    async def write(self, data: bytes) -> None:
        """Send `data`; at most PREFIX bytes wait for the next write."""
        if len(data) <= self.PREFIX and not self._unsent:
            self._unsent = data
            return
        data, self._unsent = self._unsent + data, b""
        await self._stream.write(data)


class TooLong(Exception):
    """More bytes than the limit allows."""


def _is_end(stream: INetStream, error: Exception) -> bool:
    """Whether a failed read only means that the other side has finished.

    A QUIC stream finished on both sides reports its end as a reset whose cause is "closed", and
    so it does one that really was reset.
    """
    if isinstance(error, StreamEOF):
        return True
    muxed = getattr(stream, "muxed_stream", None)
    reset = isinstance(muxed, QUICStream) and muxed.is_reset()
    return isinstance(error.__cause__, QUICStreamClosedError) and not reset


def _left_behind(stream: INetStream) -> bytes:
    """What lies unread in a QUIC stream that reported its end.

    py-libp2p looks into the buffer first and for the end afterwards; what arrives with the end in
    between stays there, and every tenth message would lose its last packet.
    """
    muxed = getattr(stream, "muxed_stream", None)
    return bytes(muxed._receive_buffer) if isinstance(muxed, QUICStream) else b""


async def read_to_end(stream: INetStream, limit: int) -> bytes:
    """Read until the other side half-closes; TooLong as soon as `limit` bytes are passed."""
    parts: list[bytes] = []
    size = 0
    while True:
        try:
            part = await stream.read(min(65536, limit - size + 1))
        except Exception as error:
            if not _is_end(stream, error):
                raise
            part = b""
        ended = not part
        parts.append(part or _left_behind(stream))
        size += len(parts[-1])
        if size > limit:
            raise TooLong(f"more than {limit} bytes")
        if ended:
            return b"".join(parts)
