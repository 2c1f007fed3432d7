"""Crash notes: the detail of an unexpected error, in a file instead of on the screen."""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from pathlib import Path

from node import __version__
from node.settings import load_settings

MAX_NOTES = 20


def write_crash(error: BaseException) -> Path | None:
    """Write a note about `error` below the state folder and return its path, None if it failed."""
    try:
        # Only the folder is wanted, whatever else is wrong with flags or settings file.
        variables = ("SWARMTUI_HOME", "SWARMTUI_STATE_DIR", "HOME", "XDG_STATE_HOME")
        environ = {key: os.environ[key] for key in variables if key in os.environ}
        folder = load_settings(environ=environ, cwd=Path("/")).crash_dir
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for old in sorted(folder.glob("crash-*.txt"))[: -MAX_NOTES + 1]:
            old.unlink(missing_ok=True)
        path = folder / f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        text = [
            f"swarmtui {__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"command: {sys.argv[1:2]}",
            "",
            *traceback.format_exception(error),
        ]
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join(text))
    except Exception:
        # The error being reported matters more than the failure to describe it.
        return None
    return path
