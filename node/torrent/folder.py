"""The file layer of the transfer: one folder, seen through a small protocol.

`RealFolder` works below a directory descriptor with names that `check_name` passed, follows no
symlink and never replaces a finished file. Everything above it takes any `Folder`, so that tests
can lose or reorder what was not yet synced. All calls block and raise OSError as the system does.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import NamedTuple, Protocol

from node.errors import PlainError


class Facts(NamedTuple):
    """What a file is: device, inode, size and allocated bytes, hard links, regular or not."""

    device: int
    inode: int
    size: int
    allocated: int
    links: int
    regular: bool


class Folder(Protocol):
    """A folder with files known by name and, once open, by an integer handle."""

    def create(self, name: str) -> int:
        """A new empty file open for reading and writing; FileExistsError when the name is taken."""
        ...

    def open(self, name: str) -> int:
        """An existing regular file open for reading and writing.

        FileNotFoundError when there is none; PlainError when it is a symlink or no regular file.
        """
        ...

    def close(self, handle: int) -> None: ...

    def lock(self, handle: int) -> bool:
        """Take the file for this process until it is closed; False when another one has it."""
        ...

    def facts(self, handle: int) -> Facts: ...

    def facts_of(self, name: str) -> Facts | None:
        """The facts of whatever has this name (symlinks are not followed); None without one."""
        ...

    def read(self, handle: int, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset`; the bytes read, 0 at the end of the file."""
        ...

    def write(self, handle: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write at `offset`; the bytes written, which may be fewer than given."""
        ...

    def truncate(self, handle: int, size: int) -> None: ...

    def allocate(self, handle: int, size: int) -> None:
        """Make room for `size` bytes from the start on; OSError ENOSPC when there is none."""
        ...

    def free(self) -> int:
        """Bytes that this user may still write in the folder's file system."""
        ...

    def sync_data(self, handle: int) -> None:
        """Return once the written bytes are durable (fdatasync)."""
        ...

    def sync(self, handle: int) -> None:
        """Return once the written bytes and the file's size are durable (fsync)."""
        ...

    def forget(self, handle: int) -> None:
        """Drop what is cached of the file, so that the next read comes from the disk."""
        ...

    def sync_names(self) -> None:
        """Return once created, linked, renamed and removed names are durable."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Atomically give `old` the name `new`, replacing what had it (state files only)."""
        ...

    def link(self, old: str, new: str) -> None:
        """Give the file a second name; FileExistsError when it is taken, by whatever."""
        ...

    def unlink(self, name: str) -> None:
        """Remove a name; no error when there is none."""
        ...


_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class RealFolder:
    """A `Folder` on disk. The path is opened once: renaming the folder later changes nothing."""

    def __init__(self, path: Path) -> None:
        """PlainError when `path` is no folder that can be opened."""
        self.path = path
        try:
            self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise PlainError(
                f"The folder {path} cannot be opened ({error.strerror}).",
                "Create it or choose another with --shards-dir.",
            ) from error

    def close_folder(self) -> None:
        """Let go of the folder; open files stay open."""
        os.close(self._directory)

    def create(self, name: str) -> int:
        return os.open(name, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._directory)

    def open(self, name: str) -> int:
        try:
            # Without O_NONBLOCK a FIFO planted under the name would hold the thread.
            handle = os.open(name, _FLAGS | os.O_NONBLOCK, dir_fd=self._directory)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._refused(name, error.strerror or "it cannot be opened") from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise self._refused(name, "not a regular file")
        return handle

    def _refused(self, name: str, reason: str) -> PlainError:
        return PlainError(
            f"{self.path / name} cannot be used ({reason}).",
            "Move it away and start the download again.",
        )

    def close(self, handle: int) -> None:
        os.close(handle)

    def lock(self, handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def facts(self, handle: int) -> Facts:
        return _facts(os.fstat(handle))

    def facts_of(self, name: str) -> Facts | None:
        try:
            return _facts(os.stat(name, dir_fd=self._directory, follow_symlinks=False))
        except FileNotFoundError:
            return None

    def read(self, handle: int, view: memoryview, offset: int) -> int:
        return os.preadv(handle, [view], offset)

    def write(self, handle: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        return os.pwrite(handle, data, offset)

    def truncate(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def allocate(self, handle: int, size: int) -> None:
        if size > 0:
            os.posix_fallocate(handle, 0, size)

    def free(self) -> int:
        found = os.fstatvfs(self._directory)
        return found.f_bavail * found.f_frsize

    def sync_data(self, handle: int) -> None:
        os.fdatasync(handle)

    def sync(self, handle: int) -> None:
        os.fsync(handle)

    def forget(self, handle: int) -> None:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync_names(self) -> None:
        os.fsync(self._directory)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def link(self, old: str, new: str) -> None:
        os.link(
            old,
            new,
            src_dir_fd=self._directory,
            dst_dir_fd=self._directory,
            follow_symlinks=False,
        )

    def unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._directory)
        except FileNotFoundError:
            return


def _facts(found: os.stat_result) -> Facts:
    return Facts(
        device=found.st_dev,
        inode=found.st_ino,
        size=found.st_size,
        allocated=found.st_blocks * 512,
        links=found.st_nlink,
        regular=stat.S_ISREG(found.st_mode),
    )
