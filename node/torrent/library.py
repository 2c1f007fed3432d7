"""The files of this node that others may fetch: complete ones and those still arriving."""

from __future__ import annotations

from dataclasses import dataclass

from node.torrent.files import FileHash
from node.torrent.hashing import FileHashes
from node.torrent.transfer.shared import ArrivingFile, OpenFile, SharedFile


@dataclass(frozen=True, slots=True)
class Seeded:
    """A complete file: as the folder's scan found it, its hashes, open for reading."""

    file: FileHash
    hashes: FileHashes
    shared: OpenFile

    @property
    def root(self) -> str:
        """The root in hex."""
        return self.hashes.root.hex()


class Library:
    """What `node.torrent.transfer.server` serves. Used in the node's loop only."""

    def __init__(self) -> None:
        self._seeded: dict[str, Seeded] = {}
        self._arriving: dict[tuple[bytes, bytes], ArrivingFile] = {}

    def find(self, info_hash: bytes, root: bytes) -> SharedFile | None:
        """The file with this root, complete or arriving; None when it is not here."""
        wanted = info_hash.hex()
        for item in self._seeded.values():
            if item.file.info_hash == wanted and item.hashes.root == root:
                return item.shared
        return self._arriving.get((info_hash, root))

    @property
    def seeded(self) -> list[Seeded]:
        """The complete files by name."""
        return [self._seeded[name] for name in sorted(self._seeded)]

    def get(self, filename: str) -> Seeded | None:
        """A complete file."""
        return self._seeded.get(filename)

    def by_root(self, root: bytes) -> Seeded | None:
        """The complete file with this root."""
        return next((item for item in self._seeded.values() if item.hashes.root == root), None)

    def of(self, shared: SharedFile) -> Seeded | None:
        """Whose `shared` this is; None for one that arrives or was withdrawn."""
        return next((item for item in self._seeded.values() if item.shared is shared), None)

    def add(self, item: Seeded) -> None:
        """Serve a complete file from now on."""
        self.remove(item.file.filename)
        self._seeded[item.file.filename] = item

    def remove(self, filename: str) -> Seeded | None:
        """Serve it no longer; streams that hold it fail at their next read."""
        item = self._seeded.pop(filename, None)
        if item is not None:
            item.shared.close()
        return item

    def arrives(self, info_hash: bytes, root: bytes, file: ArrivingFile) -> None:
        """Serve what a download has so far."""
        self._arriving[info_hash, root] = file

    def arrived(self, info_hash: bytes, root: bytes) -> None:
        """The download is over."""
        self._arriving.pop((info_hash, root), None)

    def close(self) -> None:
        """Let all files go."""
        for name in list(self._seeded):
            self.remove(name)
        self._arriving.clear()
