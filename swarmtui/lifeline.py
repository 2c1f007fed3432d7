"""A node that must not outlive the process that started it: it holds a pipe from it as stdin.

However that process ends, kill -9 included, the system closes its end and the node leaves.
"""

from __future__ import annotations

import os
import signal
import threading

LIFELINE = "SWARMTUI_LIFELINE"
LAST_RESORT_S = 5.0


def hold_lifeline() -> None:
    """Stop this process politely when standard input ends, and for certain 5 s later."""

    def hold() -> None:
        try:
            while os.read(0, 4096):
                continue
        except OSError:
            pass  # a broken pipe is an ended one
        os.kill(os.getpid(), signal.SIGTERM)
        if not threading.Event().wait(LAST_RESORT_S):
            os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=hold, name="lifeline", daemon=True).start()
