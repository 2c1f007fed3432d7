"""A bounded file of lines: full, it becomes `.1` and a new one begins."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


class RotatingFile:
    """Append lines to `path`; at `max_bytes` it is renamed to `<name>.1`, replacing that one.

    The file is readable by its owner only. Every method may raise OSError; a write that failed is
    cut off again, so that a full disk leaves whole lines. `header`, if given, supplies the first
    line of every file.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        *,
        fresh: bool = False,
        header: Callable[[], bytes] | None = None,
    ) -> None:
        self.path = path
        self._max = max_bytes
        self._header = header
        self._fd = -1
        self._size = 0
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if fresh and path.exists():
            os.replace(path, self.previous)
        self._open()

    @property
    def previous(self) -> Path:
        """Where the file before this one went."""
        return self.path.with_name(self.path.name + ".1")

    def write(self, data: bytes) -> None:
        """Append whole lines (`data` ends with a newline)."""
        if self._fd < 0:
            self._open()
        if self._size and self._size + len(data) > self._max:
            self.close()
            os.replace(self.path, self.previous)
            self._open()
        self._append(data)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.path, flags, 0o600)
        try:
            os.fchmod(self._fd, 0o600)
            self._size = os.fstat(self._fd).st_size
            if not self._size and self._header is not None:
                self._append(self._header())
        except OSError:
            self.close()
            raise

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)
