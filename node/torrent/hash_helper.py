"""Hashing the pieces of a download in a process beside this one.

hashlib lets the GIL go for every leaf of 16 KiB and has to get it back 61,000 times per GB from the
thread that decrypts; the two then mostly take turns. A second process on memory shared with this
one needs one short message per piece instead. Where it cannot be had, or fails, the caller hashes
by itself: nothing here ever raises.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from node.torrent.hash_worker import REQUEST
from node.torrent.limits import HASH_BYTES

ANSWER_S = 20.0
"""A piece takes milliseconds; a process that is stopped must not stop the download."""
END_S = 1.0


class Room:
    """Memory for one piece: `view`, and its offset in the shared memory (None: not in it)."""

    __slots__ = ("offset", "view")

    def __init__(self, view: memoryview, offset: int | None = None) -> None:
        self.view = view
        self.offset = offset


class HashHelper:
    """Shared memory of `rooms` x `room_bytes`, and the process that hashes what is in it.

    `rooms` hands the memory out; used from one thread. `hashes` is for worker threads.
    """

    def __init__(self, rooms: int, room_bytes: int) -> None:
        size = rooms * room_bytes
        descriptor = os.memfd_create("swarmtui-pieces", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            self._memory = mmap.mmap(descriptor, size)
            self._near, far = socket.socketpair()
            with far:
                # A session of its own: Ctrl-C in the terminal is for the parent, which ends it.
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-I",
                        "-S",
                        str(Path(__file__).with_name("hash_worker.py")),
                        *map(str, (descriptor, far.fileno(), size)),
                    ],
                    pass_fds=(descriptor, far.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
        finally:
            os.close(descriptor)
        self._near.settimeout(ANSWER_S)
        self._asking = threading.Lock()
        self._ready = False
        self._failed = False
        view = memoryview(self._memory)
        self.rooms = [
            Room(view[start : start + room_bytes], start) for start in range(0, size, room_bytes)
        ]

    def hashes(self, pieces: Sequence[tuple[Room, int]], layer: int) -> list[bytes] | None:
        """The node at `layer` over the first `size` bytes of each (room, size). Blocks.

        None when the caller has to do it: the process is not up yet or has failed, or a room is
        not in the shared memory.
        """
        with self._asking:
            if not self._up() or any(room.offset is None for room, _ in pieces):
                return None
            try:
                self._near.sendall(
                    b"".join([REQUEST.pack(room.offset, size, layer) for room, size in pieces])
                )
                return [self._answer() for _ in pieces]
            except OSError:
                # An answer that came late would be taken for the next one's.
                self._failed = True
                return None

    def _answer(self) -> bytes:
        found = self._near.recv(HASH_BYTES, socket.MSG_WAITALL)
        if len(found) != HASH_BYTES:
            raise ConnectionError("the hashing process ended")
        return found

    def _up(self) -> bool:
        if not self._ready and not self._failed:
            with contextlib.suppress(BlockingIOError):
                try:
                    self._ready = bool(self._near.recv(1, socket.MSG_DONTWAIT))
                    self._failed = not self._ready
                except TimeoutError:
                    return False
        return self._ready and not self._failed

    def close(self) -> None:
        """End the process. Blocks for a moment."""
        self._failed = True
        self._near.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def start_helper(rooms: int, room_bytes: int) -> HashHelper | None:
    """A helper, or None where the system has no such memory or no second core for it. Blocks."""
    if not hasattr(os, "memfd_create") or (os.cpu_count() or 1) < 2:
        return None
    try:
        return HashHelper(rooms, room_bytes)
    except OSError:
        return None
