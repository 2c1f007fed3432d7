"""Hashing whole files: leaves, piece layer and root in one pass, on a few threads.

hashlib releases the GIL for every 16 KiB leaf, so two threads use two cores; each takes the next
piece, reads it in spans of 1 MiB, and folds it. Blocking: call it from a worker
thread.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from node.errors import PlainError
from node.torrent.limits import HASH_BYTES, LEAF_BYTES, MIB
from node.torrent.merkle import climb, leaf_hashes, root_of_layer
from node.torrent.sizes import Layout, piece_length_for

SPAN_BYTES = MIB
THREADS = 2

ReadInto = Callable[[memoryview, int], int]
"""read(buffer, offset) -> bytes read; fewer than asked only at the end of the file."""
Progress = Callable[[int], None]
"""Told the bytes of each piece once it is hashed, from the hashing threads."""


@dataclass(frozen=True, slots=True)
class FileHashes:
    """What one pass over a file gives.

    layer:  the piece layer, layout.pieces x 32 bytes
    leaves: layout.leaves x 32 bytes, empty unless asked for
    identity: (device, inode, size, mtime_ns) of the file that was read
    """

    layout: Layout
    root: bytes
    layer: bytes
    leaves: bytes
    identity: tuple[int, int, int, int]


class HashingStopped(Exception):
    """`stop` was set before the end."""


def hash_file(
    path: Path,
    piece_length: int | None = None,
    *,
    threads: int = THREADS,
    keep_leaves: bool = False,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> FileHashes:
    """Hash the regular file at `path` (a symlink is refused).

    `piece_length` is piece_length_for(size) unless given. Raises PlainError when the file cannot be
    read or changed meanwhile, HashingStopped when `stop` was set.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        opened = os.fstat(descriptor)
        if not stat.S_ISREG(opened.st_mode):
            raise _unreadable(path, OSError(errno.EINVAL, "not a regular file"))
        before = identity_of(opened)
        layout = Layout(before[2], piece_length or piece_length_for(before[2]))
        leaves: list[bytes] | None = [b""] * layout.pieces if keep_leaves else None
        try:
            found = hash_pieces(
                lambda view, offset: os.preadv(descriptor, [view], offset),
                layout,
                range(layout.pieces),
                threads=threads,
                progress=progress,
                stop=stop,
                leaves=leaves,
            )
        except OSError as error:
            raise _unreadable(path, error) from error
        after = identity_of(os.fstat(descriptor))
    finally:
        os.close(descriptor)
    hashes = [found.get(piece) for piece in range(layout.pieces)]
    layer = b"".join(item for item in hashes if item is not None)
    if after != before or len(layer) != layout.pieces * HASH_BYTES:
        raise PlainError(
            f"The file {path.name} changed while it was being hashed.",
            "Wait until nothing writes to it and try again.",
        )
    return FileHashes(layout, root_of_layer(layer, layout), layer, b"".join(leaves or ()), before)


def hash_pieces(
    read: ReadInto,
    layout: Layout,
    pieces: Iterable[int],
    *,
    threads: int = THREADS,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    leaves: list[bytes] | None = None,
) -> dict[int, bytes]:
    """The piece hash of each of `pieces` that `read` could deliver whole.

    A piece that ends early (a truncated file) is missing from the result. An error of `read` is
    raised once all threads have ended. `leaves[piece]` is filled in where a list is given.
    """
    wanted = iter(pieces)
    taking = threading.Lock()
    result: dict[int, bytes] = {}
    failures: list[BaseException] = []

    def work() -> None:
        buffer = memoryview(bytearray(min(SPAN_BYTES, max(layout.piece_length, LEAF_BYTES))))
        try:
            while not failures:
                if stop is not None and stop.is_set():
                    raise HashingStopped
                with taking:
                    piece = next(wanted, None)
                if piece is None:
                    return
                found = _piece_leaves(read, layout, piece, buffer)
                if found is None:
                    continue
                result[piece] = climb(found, 0, layout.piece_layer)
                if leaves is not None:
                    leaves[piece] = found
                if progress is not None:
                    progress(layout.piece_size(piece))
        except BaseException as error:
            # Kept for the caller: a thread has nobody to raise it to.
            failures.append(error)

    others = [
        threading.Thread(target=work, name=f"hashing-{number}", daemon=True)
        for number in range(1, min(max(1, threads), max(1, layout.pieces)))
    ]
    for thread in others:
        thread.start()
    work()
    for thread in others:
        thread.join()
    if failures:
        raise failures[0]
    return result


def identity_of(found: os.stat_result) -> tuple[int, int, int, int]:
    """(device, inode, size, mtime_ns): equal as long as nobody replaced or wrote the file."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _piece_leaves(read: ReadInto, layout: Layout, piece: int, buffer: memoryview) -> bytes | None:
    start = layout.offset(piece)
    size = layout.piece_size(piece)
    parts = []
    done = 0
    while done < size:
        want = min(len(buffer), size - done)
        filled = 0
        while filled < want:
            count = read(buffer[filled:want], start + done + filled)
            if count <= 0:
                return None
            filled += count
        parts.append(leaf_hashes(buffer[:want]))
        done += want
    return b"".join(parts)


def _unreadable(path: Path, error: OSError) -> PlainError:
    return PlainError(
        f"The file {path.name} cannot be read ({error.strerror}).",
        "It must be a regular file that this user may read.",
    )
