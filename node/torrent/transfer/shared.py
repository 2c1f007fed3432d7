"""A complete file as it is served: checked once after the start, dropped when somebody changes it.

All methods but `read_cached` and the counters may block: call them from worker threads.
"""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Protocol, runtime_checkable

import trio

from node.errors import PlainError
from node.torrent import merkle
from node.torrent.hashing import FileHashes, identity_of
from node.torrent.limits import MIB
from node.torrent.merkle import Tree
from node.torrent.sizes import Layout
from node.torrent.storage import Part

READ_AHEAD_BYTES = 4 * MIB
NO_WAIT: int = getattr(os, "RWF_NOWAIT", 0)


class CorruptError(Exception):
    """What is on this disk is not what was published; the text is one sentence for the operator."""


class SharedFile(Protocol):
    """What the server needs of a file: complete or still arriving."""

    layout: Layout
    root: bytes
    layer: bytes

    def pieces(self) -> frozenset[int] | None:
        """The pieces that may be asked for; None for all."""
        ...

    def ready(self, piece: int) -> bool:
        """Whether `piece` was checked and may be read without `prepare`."""
        ...

    def prepare(self, piece: int) -> None:
        """Check a piece before it is served the first time; CorruptError."""
        ...

    def read_cached(self, view: memoryview, offset: int) -> bool:
        """Fill `view` from `offset` of the file if that takes no waiting; CorruptError."""
        ...

    def read(self, view: memoryview, offset: int) -> None:
        """Fill `view` from `offset` of the file; CorruptError."""
        ...

    def upper(self) -> Tree:
        """The tree over the piece layer."""
        ...

    def leaves(self, piece: int) -> Tree:
        """The tree over the leaves of a piece, read again; CorruptError."""
        ...


@runtime_checkable
class GrowingFile(Protocol):
    """A shared file that is still arriving here."""

    async def more_than(self, known: frozenset[int]) -> frozenset[int]:
        """Its pieces, as soon as there are others than `known`."""
        ...


class ArrivingFile:
    """What a download has so far, for serving it meanwhile. Made anew for each `Part`.

    Pieces on disk were verified before they were written, so none is checked again.
    """

    def __init__(self, part: Part) -> None:
        self.layout = part.layout
        self.root = part.root
        self.layer = part.layer
        self.part = part
        self._upper: Tree | None = None
        self._grew = trio.Event()

    def wrote(self, pieces: list[int]) -> None:
        """More pieces are on disk: give this to `Download` as `wrote`, or call it from there."""
        self._grew.set()
        self._grew = trio.Event()

    def pieces(self) -> frozenset[int] | None:
        """The pieces on disk."""
        return self.part.written()

    async def more_than(self, known: frozenset[int]) -> frozenset[int]:
        """The pieces on disk once there are others than `known`."""
        while (found := self.part.written()) <= known:
            await self._grew.wait()
        return found

    def ready(self, piece: int) -> bool:
        """Always: it was verified before it was written."""
        return True

    def prepare(self, piece: int) -> None:
        """Nothing to do."""

    def read_cached(self, view: memoryview, offset: int) -> bool:
        """False: the part file is read in a thread."""
        return False

    def read(self, view: memoryview, offset: int) -> None:
        """Fill `view` with bytes of one piece; CorruptError also once the download is over."""
        piece, inside = divmod(offset, self.layout.piece_length)
        try:
            view[:] = self.part.read(piece, inside, len(view))
        except (PlainError, ValueError) as error:
            raise CorruptError(f"the unfinished file cannot be read ({error})") from error

    def upper(self) -> Tree:
        """The tree over the piece layer."""
        if self._upper is None:
            self._upper = Tree(self.layer, self.layout.piece_layer, self.layout.height)
        return self._upper

    def leaves(self, piece: int) -> Tree:
        """The tree over a piece's leaves; CorruptError when they do not match."""
        data = bytearray(self.layout.piece_size(piece))
        self.read(memoryview(data), self.layout.offset(piece))
        tree = Tree(merkle.leaf_hashes(data), 0, self.layout.piece_layer)
        if tree.top != merkle.node_at(self.layer, piece):
            raise CorruptError(f"piece {piece} of the unfinished file changed on disk")
        return tree


class OpenFile:
    """A complete regular file, open for reading.

    `hashes` is what `hash_file` found, now or earlier: its identity must still fit. With `checked`
    (it was hashed since this process started) pieces are served at once; without, each is hashed
    before it is served the first time, so that rot on this disk is found here and not blamed on
    this node by others.
    """

    def __init__(self, path: Path, hashes: FileHashes, *, checked: bool = False) -> None:
        """PlainError when the file cannot be opened or is not the one that was hashed."""
        self.path = path
        self.layout = hashes.layout
        self.root = hashes.root
        self.layer = hashes.layer
        self.corrupt = ""
        self._identity = hashes.identity
        self._checked = bytearray(b"\x01" if checked else b"\x00") * self.layout.pieces
        self._upper: Tree | None = None
        self._no_wait = bool(NO_WAIT)
        self._making = threading.Lock()
        self._descriptor = -1
        try:
            self._descriptor = os.open(
                path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            )
            found = os.fstat(self._descriptor)
        except OSError as error:
            raise PlainError(
                f"The file {path.name} cannot be read ({error.strerror}).",
                "It must be a regular file that this user may read.",
            ) from error
        if not stat.S_ISREG(found.st_mode) or identity_of(found) != self._identity:
            self.close()
            raise PlainError(
                f"The file {path.name} changed since it was hashed.", "It is hashed again."
            )

    def close(self) -> None:
        """Let the file go; reads fail from now on. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        # A stream may hold the file longer than the library that opened it.
        self.close()

    def pieces(self) -> frozenset[int] | None:
        """None: all of them."""
        return None

    def ready(self, piece: int) -> bool:
        """Whether `piece` was checked since the start."""
        return bool(self._checked[piece])

    def prepare(self, piece: int) -> None:
        """Hash a piece and compare; CorruptError also for every later call."""
        if self._checked[piece]:
            return
        if merkle.climb(self._leaf_hashes(piece), 0, self.layout.piece_layer) != merkle.node_at(
            self.layer, piece
        ):
            raise self._is_corrupt(f"piece {piece} of {self.path.name} no longer matches its hash")
        self._checked[piece] = 1

    def read_cached(self, view: memoryview, offset: int) -> bool:
        """Fill `view` from the page cache; False when that is not possible at once."""
        if not self._no_wait:
            return False
        try:
            count = os.preadv(self._descriptor, [view], offset, NO_WAIT)
        except BlockingIOError:
            return False
        except OSError:
            # Not every file system knows the flag; a real error shows again in `read`.
            self._no_wait = False
            return False
        # Afterwards: an edit that came before the read shows in the file's time by now.
        self._check_identity()
        return count == len(view)

    def read(self, view: memoryview, offset: int) -> None:
        """Fill `view`, waiting for the disk."""
        done = 0
        try:
            if hasattr(os, "posix_fadvise"):
                # The next blocks are asked for in a moment.
                os.posix_fadvise(
                    self._descriptor, offset, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED
                )
            while done < len(view):
                count = os.preadv(self._descriptor, [view[done:]], offset + done)
                if count <= 0:
                    raise self._is_corrupt(f"{self.path.name} ends early")
                done += count
        except OSError as error:
            raise self._is_corrupt(
                f"{self.path.name} cannot be read ({error.strerror or error})"
            ) from error
        self._check_identity()

    def upper(self) -> Tree:
        """The tree over the piece layer, made once."""
        with self._making:
            if self._upper is None:
                self._upper = Tree(self.layer, self.layout.piece_layer, self.layout.height)
            return self._upper

    def leaves(self, piece: int) -> Tree:
        """The tree over a piece's leaves; CorruptError when they do not match."""
        tree = Tree(self._leaf_hashes(piece), 0, self.layout.piece_layer)
        if tree.top != merkle.node_at(self.layer, piece):
            raise self._is_corrupt(f"piece {piece} of {self.path.name} no longer matches its hash")
        return tree

    def _leaf_hashes(self, piece: int) -> bytes:
        data = bytearray(self.layout.piece_size(piece))
        self.read(memoryview(data), self.layout.offset(piece))
        return merkle.leaf_hashes(data)

    def _check_identity(self) -> None:
        if self.corrupt:
            raise CorruptError(self.corrupt)
        try:
            found = identity_of(os.fstat(self._descriptor))
        except OSError as error:
            raise self._is_corrupt(f"{self.path.name} is closed") from error
        if found != self._identity:
            raise self._is_corrupt(f"{self.path.name} changed since it was hashed")

    def _is_corrupt(self, reason: str) -> CorruptError:
        self.corrupt = self.corrupt or reason
        return CorruptError(self.corrupt)
