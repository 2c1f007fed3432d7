"""Bringing a file of this machine into the shards folder: linked where possible, else copied."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from node.clean import clean
from node.errors import PlainError


def bring(path: Path, target: Path) -> None:
    """Give the file at `path` the name `target` too; nothing is overwritten. Blocking.

    Raises PlainError.
    """
    name = clean(target.name, 80)
    try:
        if target.exists() and target.samefile(path):
            return
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.path.lexists(target):
            raise PlainError(
                f"There is another {name} in the shards folder already.",
                "Move it away first, or give the new file another name.",
            )
        try:
            os.link(path, target, follow_symlinks=False)
        except OSError:
            _copy(path, target)
    except OSError as error:
        raise PlainError(
            f"{name} cannot be brought into the shards folder ({error.strerror}).",
            "Check the free space and the rights of the folder.",
        ) from error


def _copy(path: Path, target: Path) -> None:
    """Another file system: copy beside, then give it its name without overwriting."""
    temporary = target.with_name(f".{target.name}.copy")
    try:
        shutil.copyfile(path, temporary)
        os.link(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
