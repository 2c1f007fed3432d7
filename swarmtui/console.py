"""Running the console: the only way from the command line into Textual.

The first frame is drawn before `connect` is called, so that importing the network library and
starting the node do not keep the operator waiting in front of an empty screen.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from swarmtui.stray import screen_of_our_own
from swarmtui.theming import DEFAULT, load_themes

if TYPE_CHECKING:
    from node.door import Door
    from swarmtui.app import SwarmApp

Ending = Literal["stop", "headless", "detached", "lost"]


def run_console(
    connect: Callable[[], Door],
    *,
    theme: str | None,
    theme_dirs: Sequence[Path],
    attached: bool,
    title: str,
    on_first_paint: Callable[[], None] | None = None,
) -> Ending:
    """Run the console in the main thread until it is left, and say how it was left.

    connect:        called once, in a thread, after the first frame; returns the node's door. A
                    PlainError it raises is shown with its next step.
    theme:          a theme's name, or None for the default.
    theme_dirs:     folders with the user's own themes.
    attached:       whether the node lives in another process.
    title:          the first words of the status bar.
    on_first_paint: called when the first frame has been handed to the terminal.

    Returns `stop` (the caller stops the node; also where `connect` failed, and on SIGTERM or
    SIGINT; attached, the node was already asked through its door), `headless` (the node goes on
    without a console), `detached` (this console closes, the other process goes on; also on
    SIGTERM and SIGINT when attached) or `lost` (the terminal went away or the console failed:
    the node goes on headless). Signal handlers are put back as they were.

    Raises PlainError for an unknown or broken theme.
    """
    themes = load_themes(theme_dirs)
    themes.get(theme or DEFAULT)
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    from swarmtui.app import SwarmApp

    app = SwarmApp(
        connect,
        themes,
        theme or DEFAULT,
        attached=attached,
        title=title,
        on_first_paint=on_first_paint,
        watch_terminal=True,
    )
    with _signals(app, attached), screen_of_our_own() as strays:
        result = app.run()
    with suppress(OSError):
        # The terminal may be gone, and a node that goes on must not end for that.
        for line in strays:
            print(line, file=sys.stderr, flush=True)
    if app.crash:
        _say_crash(app.crash)
    return cast(Ending, result) if result is not None else "lost"


@contextmanager
def _signals(app: SwarmApp, attached: bool) -> Iterator[None]:
    """Without this SIGTERM and SIGHUP end the process with nothing saved or said.

    Handlers of asyncio's loop would leave the default in their place when the loop closes, and a
    second SIGHUP would then end the node; these stay until the caller's are back.
    """
    polite = "detached" if attached else "stop"
    wanted = {"SIGTERM": polite, "SIGINT": polite, "SIGHUP": "lost"}
    before = {}
    for name, ending in wanted.items():
        number = getattr(signal, name, None)
        if number is not None:
            before[number] = signal.signal(number, lambda *_, ending=ending: app.leave(ending))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_crash(trace: str) -> None:
    """One sentence on standard error; the traceback only where SWARMTUI_DEBUG asks for it."""
    from node.clean import clean

    last = clean(trace.strip().rsplit("\n", 1)[-1], 200)
    lines = [f"The console failed ({last}). The node goes on without it."]
    if os.environ.get("SWARMTUI_DEBUG"):
        lines += [clean(line, 400) for line in trace.splitlines()]
    with suppress(OSError):
        print("\n".join(lines), file=sys.stderr, flush=True)
