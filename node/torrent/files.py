"""The shard files on this node's disk and their info hashes (the discovery key of a file)."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import msgspec

MAX_FILES = 1024


class FileHash(msgspec.Struct, frozen=True):
    """A file: name, size in bytes, mtime in ns, inode, and its info hash in hex."""

    filename: str
    size: int
    mtime_ns: int
    inode: int
    info_hash: str


def info_hash(filename: str, size: int) -> str:
    """SHA-256 of the UTF-8 filename followed by the size as 8 bytes little-endian, in hex.

    A key to find candidates by, never an identity: two quantisations share name and size.
    """
    return hashlib.sha256(filename.encode("utf-8") + size.to_bytes(8, "little")).hexdigest()


def shard_files(folder: Path) -> list[FileHash]:
    """The GGUF files directly in `folder` (no symlinks, no subfolders); empty if it is missing."""
    result: list[FileHash] = []
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return result
    for path in entries:
        if path.suffix != ".gguf" or len(result) >= MAX_FILES:
            continue
        try:
            found = path.lstat()
            path.name.encode("utf-8")
        except (OSError, UnicodeEncodeError):
            continue
        if not stat.S_ISREG(found.st_mode):
            continue
        result.append(
            FileHash(
                filename=path.name,
                size=found.st_size,
                mtime_ns=found.st_mtime_ns,
                inode=found.st_ino,
                info_hash=info_hash(path.name, found.st_size),
            )
        )
    return result
