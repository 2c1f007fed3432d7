"""The console application: it only wires door, screens, themes and signals together."""

from __future__ import annotations

import asyncio
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from rich.segment import Segment
from textual.app import App
from textual.binding import Binding
from textual.color import Color
from textual.filter import LineFilter
from textual.message import Message
from textual.screen import Screen

from node.door import Door
from node.errors import PlainError
from node.requests import STOP
from swarmtui.actions import detail_footer
from swarmtui.commanding import Commander
from swarmtui.screens.detail import DetailScreen, Lines, ProblemScreen
from swarmtui.screens.main import MainScreen
from swarmtui.theming import Palette, Themes, palette_of
from swarmtui.widgets.text import printable

TICK_S = 0.5
METER_TICKS = 10
HEAVY_PERCENT = 8
STOP_PATIENCE_S = 3.0
STARTING = "starting node…"


class SwarmApp(App[str]):
    """Textual's app. `exit` is called with stop, headless, detached or lost."""

    CSS_PATH = "styles/console.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[Binding]] = []  # type: ignore[assignment]
    TITLE = "swarmtui"

    class Woken(Message):
        """Answers lie ready; any number of these fold into one."""

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, SwarmApp.Woken)

    class Connected(Message):
        """The door is open, or could not be opened."""

        def __init__(self, door: Door | None, error: PlainError | None) -> None:
            super().__init__()
            self.door = door
            self.error = error

    def __init__(
        self,
        connect: Callable[[], Door],
        themes: Themes,
        theme: str,
        *,
        attached: bool = False,
        title: str = "swarmtui",
        on_first_paint: Callable[[], None] | None = None,
        watch_terminal: bool = False,
        clock: Callable[[], float] = time.time,
        meter: bool = True,
    ) -> None:
        super().__init__()
        self.attached = attached
        self.label = printable(title, 40)
        self.clock = clock
        self.door: Door | None = None
        self.waiting = STARTING if not attached else "connecting to the node…"
        self.notice = ""
        self.cost = ""
        self.commander = Commander(self.wake, clock)
        self.themes = themes
        self.palette: Palette
        self._theme_name = theme
        self._connect = connect
        self._on_first_paint = on_first_paint
        self._watch_terminal = watch_terminal
        self._loop: asyncio.AbstractEventLoop | None = None
        self._left: str | None = None
        self._meter = Meter() if meter else None
        self._ticks = 0
        self._blurred = False
        self.crash = ""
        for item in themes.found.values():
            self.register_theme(item.textual())
        self._use_theme(theme)
        self._main = MainScreen()

    def get_default_screen(self) -> Screen[Any]:
        return self._main

    # ------------------------------------------------------------ starting

    def on_mount(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._left is not None:
            self.exit(self._left)
            return
        if self.themes.problems:
            problem = self.themes.problems[0]
            self.notice = f"{problem.sentence} {problem.next_step}"
        self.set_interval(TICK_S, self._tick)
        self.call_after_refresh(self._first_painted)

    def _first_painted(self) -> None:
        if self._on_first_paint is not None:
            self._on_first_paint()
        threading.Thread(target=self._open_door, name="connect", daemon=True).start()

    def _open_door(self) -> None:
        """In a thread of its own: importing libp2p or dialling a socket takes its time."""
        try:
            self.post_message(self.Connected(self._connect(), None))
        except PlainError as error:
            self.post_message(self.Connected(None, error))
        except Exception as error:
            reason = printable(str(error), 200) or type(error).__name__
            plain = PlainError(
                f"The node could not be started: {reason}.",
                "Start it with --no-ui to see its log.",
            )
            self.post_message(self.Connected(None, plain))

    def on_swarm_app_connected(self, message: Connected) -> None:
        if message.door is None:
            error = message.error or PlainError("The node could not be started.")
            self.waiting = "the node did not start"
            self.push_screen(ProblemScreen(error.sentence, error.next_step))
            return
        self.door = message.door
        from swarmtui.panes.log import LogFeed

        self._main.feed = LogFeed(message.door)
        self._main.tick()

    def leave(self, result: str) -> None:
        """End the console with `result`; callable from any thread and from a signal handler."""
        self._left = result
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.exit, result)

    def stop_other(self) -> None:
        """Ask the node of another process to stop, and leave when it has answered."""
        if self.door is None:
            self.exit("detached")
            return
        self.notice = "stopping the node…"
        self._main.redraw()
        future = self.door.request(STOP, {"reason": "stopped from an attached console"})
        future.add_done_callback(lambda done: self.leave("stop"))
        self.set_timer(STOP_PATIENCE_S, lambda: self.leave("stop"))

    # ------------------------------------------------------------ the beat

    def _tick(self) -> None:
        self._ticks += 1
        if self._blurred and self._ticks % 2:
            return
        if self._meter is not None and self._ticks % METER_TICKS == 0:
            self._measure()
        elif self._meter is not None and self._meter.percent > HEAVY_PERCENT and self._ticks % 2:
            return
        self._main.tick()

    def _measure(self) -> None:
        if self._watch_terminal and terminal_gone():
            self.exit("lost")
            return
        assert self._meter is not None
        cost = self._meter.read()
        if cost != self.cost:
            self.cost = cost
            self._main.redraw()

    def on_app_blur(self) -> None:
        self._blurred = True

    def on_app_focus(self) -> None:
        self._blurred = False

    def wake(self) -> None:
        """Answers lie ready; callable from any thread."""
        self.post_message(self.Woken())

    def on_swarm_app_woken(self) -> None:
        self.commander.collect()
        self._main.draw()

    # ------------------------------------------------------------ for the screens

    def push_detail(
        self, title: str, lines: Lines, *, commands: bool = True, kind: str = ""
    ) -> None:
        """Open a full screen of text that is built anew from every view; kind: of what item."""
        keys = detail_footer(kind or self._main.selected[0]) if commands else []
        self.push_screen(DetailScreen(title, lines, self._main.view, keys))

    async def on_detail_screen_forwarded(self, message: DetailScreen.Forwarded) -> None:
        await self.run_action(message.action, self._main)

    def screen_text(self) -> str:
        """What the screen shows, as text."""
        strips = self.screen._compositor.render_strips()
        return "\n".join(strip.text.rstrip() for strip in strips) + "\n"

    # ------------------------------------------------------------ themes

    def next_theme(self) -> str:
        """Switch to the next theme; returns a sentence about it."""
        if self.no_color:
            return "NO_COLOR is set: the console uses no colours."
        names = sorted(self.themes.found)
        name = names[(names.index(self._theme_name) + 1) % len(names)]
        self._use_theme(name)
        for screen in self.screen_stack:
            screen.refresh(layout=True)
            for widget in screen.query("*"):
                widget.refresh()
        return f"Theme {name}. Keep it with --theme {name}."

    def _use_theme(self, name: str) -> None:
        if self.no_color:
            # Textual's own NO_COLOR turns colours into greys; an ANSI theme emits none.
            self.theme = "ansi-dark"
            self.palette = palette_of(None)
            return
        self._theme_name = name
        self.palette = palette_of(self.themes.get(name))
        self.theme = name

    def get_line_filters(self) -> Sequence[LineFilter]:
        """With NO_COLOR, the last wall: Textual blends colours of its own behind dialogs."""
        return [Colourless()] if self.no_color else super().get_line_filters()

    # ------------------------------------------------------------ when things go wrong

    def _fatal_error(self) -> None:
        """Keep the traceback for the caller instead of printing it with its local variables."""
        import traceback

        self.crash = traceback.format_exc()
        self._close_messages_no_wait()

    def _print_error_renderables(self) -> None:
        """Nothing is printed here: the terminal may be gone, and tracebacks hold secrets."""
        if self._exit_renderables and not self.crash:
            self.crash = "the terminal could not be read"
        self._exit_renderables.clear()


class Colourless(LineFilter):
    """Takes every colour out of a line, and leaves bold, reverse and underline."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            Segment(text, style.without_color if style is not None else None, control)
            for text, style, control in segments
        ]


class Meter:
    """CPU of the calling thread since the last reading, and the process's memory."""

    def __init__(self) -> None:
        self._cpu = time.thread_time()
        self._wall = time.monotonic()
        self.percent = 0.0

    def read(self) -> str:
        """Such as `ui 2 % 58 MiB`; slow steps, so that it seldom changes."""
        cpu, wall = time.thread_time(), time.monotonic()
        self.percent = 100 * (cpu - self._cpu) / max(wall - self._wall, 0.001)
        self._cpu, self._wall = cpu, wall
        slow = " slowed" if self.percent > HEAVY_PERCENT else ""
        return f"ui {self.percent:.0f} %{slow} {resident_mib():.0f} MiB"


def resident_mib() -> float:
    """Resident memory of this process in MiB, rounded to 5."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
        mib = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, ValueError, IndexError):
        import psutil

        mib = psutil.Process().memory_info().rss / 2**20
    return 5 * round(mib / 5)


def terminal_gone() -> bool:
    """Whether the terminal hung up: reading from it would spin at full speed."""
    try:
        poll = select.poll()
        poll.register(sys.__stdin__.fileno(), select.POLLHUP)  # type: ignore[union-attr]
        return any(flags & (select.POLLHUP | select.POLLNVAL) for _, flags in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return False
