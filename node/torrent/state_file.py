"""The state file on disk: replaced whole and atomically, then grown record by record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from node.torrent import resume
from node.torrent.folder import Folder
from node.torrent.merkle import Buffer
from node.torrent.names import state_name
from node.torrent.sizes import Layout


def write_all(folder: Folder, handle: int, data: Buffer, offset: int) -> None:
    """Write every byte of `data`, however short the single writes are; OSError."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        count = folder.write(handle, view[done:], offset + done)
        if count <= 0:
            raise OSError(0, "the disk took no bytes")
        done += count


class StateFile:
    """The journal of one part file, whose (device, inode) is `identity`. Methods raise OSError."""

    def __init__(
        self,
        folder: Folder,
        name: str,
        *,
        info_hash: bytes,
        root: bytes,
        layout: Layout,
        layer: bytes,
        identity: tuple[int, int],
        generation: int,
    ) -> None:
        self._folder = folder
        self._name = state_name(name)
        self._info_hash = info_hash
        self._root = root
        self._layout = layout
        self._layer = layer
        self._identity = identity
        self._generation = generation
        self._handle: int | None = None
        self._end = 0

    def replace(self, pieces: Iterable[int], *, restarted: bool, bad: bool = False) -> None:
        """Write a compacted file of the next generation aside, sync it, rename it into place."""
        temporary = self._name + ".tmp"
        self._generation += 1
        header = resume.Header(
            self._info_hash,
            self._root,
            self._layout,
            *self._identity,
            self._generation,
            (resume.RESTARTED if restarted else 0) | (resume.BAD if bad else 0),
        )
        raw = resume.write_state(header, self._layer, pieces)
        self._folder.unlink(temporary)
        handle = self._folder.create(temporary)
        try:
            write_all(self._folder, handle, raw, 0)
            self._folder.sync(handle)
            self._folder.rename(temporary, self._name)
            self._folder.sync_names()
        except BaseException:
            self._folder.close(handle)
            with contextlib.suppress(OSError):  # the first error is the one to tell
                self._folder.unlink(temporary)
            raise
        self.close()
        self._handle = handle
        self._end = len(raw)

    def append(self, pieces: list[int]) -> int:
        """Write one record behind the last whole one, not yet synced; its bytes.

        At a remembered offset: a record that a full disk cut short is written over.
        """
        assert self._handle is not None
        record = resume.write_record(self._generation, pieces)
        write_all(self._folder, self._handle, record, self._end)
        return len(record)

    def sync(self, appended: int) -> None:
        """Make the `appended` bytes durable; the next record comes behind them."""
        assert self._handle is not None
        self._folder.sync_data(self._handle)
        self._end += appended

    def remove(self) -> None:
        """Remove the name; what is open stays usable."""
        self._folder.unlink(self._name)

    def close(self) -> None:
        """Let the file go; a second call does nothing."""
        if self._handle is not None:
            self._folder.close(self._handle)
            self._handle = None
