"""Keep stray writes off the screen while the console draws on it.

Native libraries write to file descriptor 2, and Textual draws there too. So the console draws on
a descriptor of its own, and what others write to descriptor 2 meanwhile is kept, bounded, for
after the console has left the screen.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from node.clean import clean

KEPT_LINES = 40
LONGEST = 400
_CHUNK = 65536


@contextmanager
def screen_of_our_own() -> Iterator[deque[str]]:
    """Point `sys.__stderr__`, where Textual draws, at the terminal, and catch descriptor 2.

    Yields the lines caught, cleaned, newest last. Without a terminal nothing is changed.
    """
    caught: deque[str] = deque(maxlen=KEPT_LINES)
    terminal = next((fd for fd in (1, 2) if os.isatty(fd)), None)
    before = sys.__stderr__
    if terminal is None or before is None:
        yield caught
        return
    screen = os.fdopen(os.dup(terminal), "w", encoding="utf-8", errors="replace")
    kept = os.dup(2)
    reading, writing = os.pipe()
    before.flush()
    os.dup2(writing, 2)
    os.close(writing)
    reader = threading.Thread(target=_collect, args=(reading, caught), name="stray", daemon=True)
    reader.start()
    sys.__stderr__ = screen  # type: ignore[misc]
    try:
        yield caught
    finally:
        sys.__stderr__ = before  # type: ignore[misc]
        before.flush()
        os.dup2(kept, 2)
        os.close(kept)
        reader.join(timeout=1.0)
        with suppress(OSError):
            # What was not yet written to a terminal that has gone away is lost with it.
            screen.close()


def _collect(reading: int, caught: deque[str]) -> None:
    rest = b""
    while chunk := os.read(reading, _CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[-_CHUNK:]
        caught.extend(clean(line.decode("utf-8", "replace"), LONGEST) for line in lines if line)
    if rest:
        caught.append(clean(rest.decode("utf-8", "replace"), LONGEST))
    os.close(reading)
