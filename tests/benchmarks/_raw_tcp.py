"""The transfer over plain TCP, without encryption and authentication: for measuring only."""

from __future__ import annotations

import os
import socket as stdlib_socket
from pathlib import Path

import trio

from node.torrent.hashing import FileHashes
from node.torrent.transfer.server import Limits, serve
from node.torrent.transfer.shared import OpenFile
from node.torrent.transfer.streams import Stream
from node.torrent.transfer.upload import Uploads


class TcpStream:
    """A trio socket as a stream of the transfer."""

    def __init__(self, socket: trio.socket.SocketType) -> None:
        self._trio = socket
        # Straight calls first: trio's own yield before each of them.
        self._socket = stdlib_socket.socket(fileno=os.dup(socket.fileno()))
        self._socket.setblocking(False)

    async def read(self, n: int) -> bytes:
        return await self._trio.recv(n)

    async def read_into(self, view: memoryview) -> int:
        while True:
            try:
                return self._socket.recv_into(view)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        done = 0
        while done < len(view):
            try:
                done += self._socket.send(view[done:])
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)

    async def close(self) -> None:
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
        self._trio.close()

    async def reset(self) -> None:
        await self.close()


class OneFile:
    """A library of one file."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file

    def find(self, info_hash: bytes, root: bytes) -> OpenFile | None:
        return self._file if root == self._file.root else None


async def connect(port: int) -> Stream:
    """A stream to a server on this machine."""
    socket = trio.socket.socket()
    socket.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
    await socket.connect(("127.0.0.1", port))
    return TcpStream(socket)


async def serve_forever(listener: trio.SocketListener, hashes: FileHashes, path: str) -> None:
    """Serve `path` to everybody who connects; it was just hashed."""
    library = OneFile(OpenFile(Path(path), hashes, checked=True))
    uploads = Uploads()

    async def one(stream: trio.SocketStream) -> None:
        await serve(TcpStream(stream.socket), library, Limits(), uploads, peer_id="receiver")

    await trio.serve_listeners(one, [listener])
