"""`swarmtui` with a probe: how late the console's event loop does what it is asked to do at once.

    python -m tests.benchmarks._lag_child OUT ARGUMENTS OF SWARMTUI…

A thread asks the loop for a callback every 10 ms; OUT gets one line per callback: unix seconds when
it was asked for, and milliseconds until it ran. The wait for the interpreter's lock is part of it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from asyncio import base_events
from pathlib import Path
from typing import TextIO

EVERY_S = 0.01


def probe(loop: asyncio.AbstractEventLoop, out: TextIO) -> None:
    """Ask until the loop is closed."""

    def ran(asked: float, at: float) -> None:
        out.write(f"{at:.3f} {(time.perf_counter() - asked) * 1000:.2f}\n")

    while not loop.is_closed():
        time.sleep(EVERY_S)
        try:
            loop.call_soon_threadsafe(ran, time.perf_counter(), time.time())
        except RuntimeError:
            return  # closed in between


def main() -> None:
    """Run swarmtui with the probe in its first event loop."""
    out = Path(sys.argv[1]).open("w", buffering=1)  # noqa: SIM115  # open until the process ends
    run_forever = base_events.BaseEventLoop.run_forever
    probed: list[asyncio.AbstractEventLoop] = []

    def probed_run(loop: base_events.BaseEventLoop) -> None:
        if not probed:
            probed.append(loop)
            threading.Thread(target=probe, args=(loop, out), daemon=True).start()
        run_forever(loop)

    base_events.BaseEventLoop.run_forever = probed_run  # type: ignore[method-assign]
    from swarmtui.cli import main as swarmtui

    swarmtui(sys.argv[2:])


if __name__ == "__main__":
    main()
