"""Hashes of files that have not changed since: nobody waits twice for the same gigabytes.

An entry is found by device, inode, size and modification time, so a file that was written or
replaced is hashed again. What is read back is proven by its own hash tree before it is believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import struct
from pathlib import Path

from node.torrent.hashing import FileHashes
from node.torrent.limits import HASH_BYTES
from node.torrent.merkle import layer_matches
from node.torrent.sizes import Layout, check_piece_length

MAGIC = b"SWHASH01"
_HEAD = struct.Struct(">8sQQ32s4Q")
MAX_ENTRIES = 1024
Identity = tuple[int, int, int, int]


class HashCache:
    """One small file per hashed file, in a folder that the nodes of a machine share. Blocking."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, identity: Identity) -> FileHashes | None:
        """The hashes of the file with this (device, inode, size, mtime_ns); None when unknown."""
        try:
            raw = self._path(identity).read_bytes()
            magic, size, piece_length, root, *found = _HEAD.unpack_from(raw)
            if magic != MAGIC or tuple(found) != _unsigned(identity) or size != identity[2]:
                return None
            check_piece_length(size, piece_length)
            layout = Layout(size, piece_length)
        except (OSError, ValueError, struct.error):
            return None
        layer = raw[_HEAD.size :]
        if len(layer) != layout.pieces * HASH_BYTES or not layer_matches(layer, layout, root):
            return None
        return FileHashes(layout, root, layer, b"", identity)

    def put(self, hashes: FileHashes) -> None:
        """Keep the hashes; a full or read-only disk only means that they are made again."""
        path = self._path(hashes.identity)
        head = _HEAD.pack(
            MAGIC,
            hashes.layout.size,
            hashes.layout.piece_length,
            hashes.root,
            *_unsigned(hashes.identity),
        )
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary.write_bytes(head + hashes.layer)
            os.replace(temporary, path)
            self._prune()
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _prune(self) -> None:
        entries = list(self._folder.glob("*.hashes"))
        if len(entries) <= MAX_ENTRIES:
            return
        entries.sort(key=lambda item: item.stat().st_mtime)
        for old in entries[: len(entries) - MAX_ENTRIES]:
            old.unlink(missing_ok=True)

    def _path(self, identity: Identity) -> Path:
        name = hashlib.sha256(repr(tuple(identity)).encode("ascii")).hexdigest()[:40]
        return self._folder / f"{name}.hashes"


def _unsigned(identity: Identity) -> Identity:
    device, inode, size, mtime = (item & (2**64 - 1) for item in identity)
    return device, inode, size, mtime
