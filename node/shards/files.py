"""What every writer of large files asks first: is the folder there, ours, and large enough?"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from node.clean import clean
from node.errors import PlainError

# Left free beside what is written, so that the machine's own work goes on.
_MARGIN = 16 << 20


def require_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the folder as a Path; PlainError where it is missing or cannot be written to."""
    path = Path(folder)
    shown = clean(path, 300)
    if not path.exists():
        raise PlainError(f"There is no folder {shown}.", f"Make it first: mkdir -p {shown}")
    if not path.is_dir():
        raise PlainError(f"{shown} is a file, not a folder.", "Choose a folder with --out.")
    if not os.access(path, os.W_OK | os.X_OK):
        raise PlainError(
            f"The folder {shown} cannot be written to.", "Change its permissions or choose another."
        )
    return path


def require_space(folder: Path, nbytes: int) -> None:
    """Raise PlainError where `folder` has no room for `nbytes` more bytes."""
    free = shutil.disk_usage(folder).free
    if free < nbytes + _MARGIN:
        raise PlainError(
            f"{nbytes / 1e9:.2f} GB are needed in {clean(folder, 300)} and {free / 1e9:.2f} GB "
            "are free.",
            "Make room or choose a folder on another disk.",
        )


@contextlib.contextmanager
def directory_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for one writer; the system lets go of it even after kill -9."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PlainError(
                f"Another program is writing shards to {clean(folder, 300)}.",
                "Wait until it ends, or choose another folder.",
            ) from None
        yield
    finally:
        os.close(descriptor)
