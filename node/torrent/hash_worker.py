"""The process behind `hash_helper`: hashes pieces that lie in memory shared with its parent.

Run by its path with `python -I -S hash_worker.py MEMORY SOCKET SIZE`, both inherited descriptors.
It says one byte when it is ready, answers each request in turn, and ends with the connection.
"""

from __future__ import annotations

import contextlib
import mmap
import socket
import struct
import sys
from pathlib import Path

REQUEST = struct.Struct("<QQB")
"""Offset and size of a piece in the memory, and the layer of its node."""
READY = b"\x01"


def work(memory: mmap.mmap, connection: socket.socket) -> None:
    """Answer requests until the parent closes the connection."""
    from node.torrent.merkle import climb, leaf_hashes

    view = memoryview(memory)
    connection.sendall(READY)
    while request := connection.recv(REQUEST.size, socket.MSG_WAITALL):
        offset, size, layer = REQUEST.unpack(request)
        connection.sendall(climb(leaf_hashes(view[offset : offset + size]), 0, layer))


def main() -> None:
    """Serve the parent that started this process."""
    descriptor, connection, size = (int(argument) for argument in sys.argv[1:4])
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    # A parent that ended in the middle of an answer is an end like any other.
    with contextlib.suppress(ConnectionError):
        work(mmap.mmap(descriptor, size), socket.socket(fileno=connection))


if __name__ == "__main__":
    main()
