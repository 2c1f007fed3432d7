"""What can go wrong with an unfinished download on disk, each as a plain sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from node.errors import PlainError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(PlainError):
    """No room. Nothing is lost: the same call succeeds once `missing` bytes were freed."""

    def __init__(self, name: str, missing: int) -> None:
        self.missing = missing
        super().__init__(
            f"There is no room for {name}: {missing} bytes are missing.",
            "Free that much in its folder; the download goes on by itself.",
        )


class DiskFailedError(PlainError):
    """The file system refused a call for another reason than room."""

    def __init__(self, name: str, action: str, error: OSError) -> None:
        self.errno = error.errno
        super().__init__(
            f"{name} could not be {action} ({error.strerror or error}).",
            "Check the disk and the rights of the folder, then start the download again.",
        )


class SyncFailedError(PlainError):
    """A sync failed: what was written since the last one may be lost. Open the part anew."""

    def __init__(self, name: str, error: OSError) -> None:
        self.errno = error.errno
        super().__init__(
            f"The disk did not confirm what was written of {name} ({error.strerror or error}).",
            "Check the disk; on the next start every piece is read and checked again.",
        )


class NameTakenError(PlainError):
    """Something with the final name exists; it was not touched."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Something named {name} is already in the folder and is never overwritten.",
            "Move it away, or keep it and cancel the download.",
        )


class InUseError(PlainError):
    """Another process, or another download of this one, owns the part file."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} is already being downloaded into this folder by another process.",
            "Wait for it, or end it first.",
        )


class OtherContentsError(PlainError):
    """The unfinished file is of another root under the same name."""

    def __init__(self, name: str, root: bytes) -> None:
        self.root = root
        super().__init__(
            f"An unfinished download of {name} with other contents"
            f" (root {root.hex()[:16]}…) is in the folder.",
            "Finish that one, or cancel it with its files, then start this one.",
        )


class PiecesLostError(Exception):
    """The last check before the end found wrong pieces; they are missing again.

    `pieces` are their indices, ascending. The part stays open: fetch them and finish again.
    """

    def __init__(self, pieces: Iterable[int]) -> None:
        self.pieces = tuple(sorted(pieces))
        super().__init__(f"{len(self.pieces)} pieces no longer match their hash")
