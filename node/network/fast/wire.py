"""The bytes below a session: a TCP socket, written without a scheduler step, or anything else.

py-libp2p's raw connections take a lock and a scheduler step per write and return a fresh bytes
object per read. For a TCP socket both are avoided; a raw connection of another kind (a relay, a
test's pipe) is used as it is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import trio
from libp2p.abc import IRawConnection
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection

from node.network.fast.noise_messages import Buffer

# Unsent bytes the kernel takes before it says "full". trio sets 16 KiB, less than one message.
UNSENT_BYTES = 256 * 1024


class Wire(Protocol):
    """Ordered bytes both ways. Failures are ConnectionClosedError."""

    def write_now(self, parts: Sequence[Buffer]) -> int:
        """Write what fits without waiting; how many bytes that were, perhaps 0."""
        ...

    async def write_some(self, parts: Sequence[Buffer]) -> int:
        """Wait until at least one byte was written; how many. Cancellation loses no bytes."""
        ...

    async def read_into(self, space: memoryview) -> int:
        """Wait for bytes; how many were put into `space`, 0 at the end."""
        ...

    async def close(self) -> None:
        """Close; a waiting read or write ends."""
        ...


class SocketWire:
    """A trio TCP socket."""

    def __init__(self, conn: IRawConnection, stream: trio.SocketStream) -> None:
        self._conn = conn
        self._socket = stream.socket
        with suppress(OSError, AttributeError):
            stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    def write_now(self, parts: Sequence[Buffer]) -> int:
        try:
            # A closed socket has the file descriptor -1, so this never writes to another file.
            return os.writev(self._socket.fileno(), parts)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise ConnectionClosedError(str(error), transport="tcp") from error

    async def write_some(self, parts: Sequence[Buffer]) -> int:
        while not (written := self.write_now(parts)):
            try:
                await trio.lowlevel.wait_writable(self._socket.fileno())
            except (trio.ClosedResourceError, OSError) as error:
                raise ConnectionClosedError("closed on this side", transport="tcp") from error
        return written

    async def read_into(self, space: memoryview) -> int:
        try:
            return await self._socket.recv_into(space)
        except (trio.ClosedResourceError, OSError) as error:
            raise ConnectionClosedError(str(error), transport="tcp") from error

    async def close(self) -> None:
        await self._conn.close()


class ConnWire:
    """Any raw connection of py-libp2p."""

    def __init__(self, conn: IRawConnection) -> None:
        self._conn = conn

    def write_now(self, parts: Sequence[Buffer]) -> int:
        return 0

    async def write_some(self, parts: Sequence[Buffer]) -> int:
        data = b"".join(parts)
        # How much of a cancelled write went out is unknown, so a begun one is finished; closing
        # the connection ends one that hangs.
        with trio.CancelScope(shield=True):
            try:
                await self._conn.write(data)
            except (IOException, OSError, trio.BrokenResourceError, trio.ClosedResourceError) as e:
                raise ConnectionClosedError(str(e)) from e
        return len(data)

    async def read_into(self, space: memoryview) -> int:
        try:
            data = await self._conn.read(len(space))
        except (IOException, OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(str(error)) from error
        if data:
            space[: len(data)] = data
        return len(data)

    async def close(self) -> None:
        await self._conn.close()


def wire_of(conn: IRawConnection) -> Wire:
    """The fastest wire for a raw connection."""
    if type(conn) is RawConnection and type(conn.stream) is TrioTCPStream:
        stream = conn.stream.stream
        if isinstance(stream, trio.SocketStream):
            return SocketWire(conn, stream)
    return ConnWire(conn)
