"""A log view over a bounded ring: it follows the end, and stays where you scrolled to.

Lines carry numbers that never change, and the view remembers the number of its top line, so that
neither new lines nor the dropping of old ones moves what is being read.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import ClassVar, Protocol

from rich.segment import Segment
from textual.binding import Binding
from textual.message import Message

from swarmtui.theming import Palette
from swarmtui.widgets.panel import Panel, draw
from swarmtui.widgets.text import Line, Span

CAPACITY = 20_000
ALIGNED = 100
LEVELS = ("debug", "info", "warning", "error")
_WORDS: dict[str, Span] = {
    "debug": ("DEBG ", "dim"),
    "info": ("INFO ", "dim"),
    "warning": ("WARN ", "warn"),
    "error": ("ERR  ", "bad"),
}


class LogEntry(Protocol):
    """What the view needs of a log line; `node.logs.LogLine` is one."""

    @property
    def at(self) -> float: ...

    @property
    def level(self) -> str: ...

    @property
    def tag(self) -> str: ...

    @property
    def text(self) -> str: ...


class RingLog(Panel):
    """See the module's text. Give it lines with `add`."""

    BINDINGS: ClassVar[list[Binding]] = [  # type: ignore[assignment]
        Binding("up,k", "scroll_by(-1)", show=False),
        Binding("down,j", "scroll_by(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home,g", "first", show=False),
        Binding("end,G,f", "follow", show=False),
        Binding("plus", "level(1)", show=False),
        Binding("minus", "level(-1)", show=False),
        Binding("enter", "open", show=False),
    ]

    class Opened(Message):
        """Enter was pressed: show the visible lines in full."""

        def __init__(self, log: RingLog) -> None:
            super().__init__()
            self.ring_log = log

    def __init__(self, *, id: str | None = None, capacity: int = CAPACITY) -> None:
        super().__init__(id=id)
        self.level = "info"
        self.following = True
        self.pending = 0
        self._all: deque[LogEntry] = deque(maxlen=capacity)
        self._shown: deque[LogEntry] = deque()
        self._first = 0
        self._top = 0
        self._filter = ""
        self._label: Line = (("Log", "title"),)

    # ------------------------------------------------------------ lines in

    def add(self, lines: Iterable[LogEntry]) -> None:
        """Append lines, oldest first; the view follows only when it was at the end."""
        added = 0
        for line in lines:
            if len(self._all) == self._all.maxlen:
                oldest = self._all.popleft()
                if self._shown and self._shown[0] is oldest:
                    self._shown.popleft()
                    self._first += 1
            self._all.append(line)
            if self._passes(line):
                self._shown.append(line)
                added += 1
        if not added and self._top >= self._first:
            return
        if self.following:
            self._to_end()
            self.refresh_body()
        else:
            self.pending += added
            before, self._top = self._top, max(self._top, self._first)
            if before != self._top or self._first + len(self._shown) - added < self._top + (
                self.body_height
            ):
                self.refresh_body()
        self._titles()

    def set_filter(self, text: str) -> None:
        """Show only lines that hold `text`; empty shows all."""
        self._filter = text.lower()
        self._rebuild()

    def set_label(self, label: Line) -> None:
        """The beginning of the title."""
        self._label = label
        self._titles()

    def texts(self) -> list[str]:
        """Every line kept, as text, oldest first, whatever the level shown."""
        return [f"{clock(item.at)} {item.level:<7} {item.tag} {item.text}" for item in self._all]

    def in_view(self) -> list[LogEntry]:
        """The lines in view."""
        start = self._top - self._first
        end = min(start + self.body_height, len(self._shown))
        return [self._shown[index] for index in range(max(start, 0), end)]

    def _passes(self, line: LogEntry) -> bool:
        if LEVELS.index(line.level) < LEVELS.index(self.level):
            return False
        return not self._filter or self._filter in f"{line.tag} {line.text}".lower()

    def _rebuild(self) -> None:
        at = self._shown[self._top - self._first] if self._shown and not self.following else None
        self._shown = deque(line for line in self._all if self._passes(line))
        self._first = 0
        self._top = next(
            (n for n, line in enumerate(self._shown) if at is not None and line.at >= at.at),
            max(len(self._shown) - self.body_height, 0),
        )
        if self.following:
            self._to_end()
        self.refresh_body()
        self._titles()

    # ------------------------------------------------------------ moving

    @property
    def _end(self) -> int:
        return self._first + len(self._shown)

    def _to_end(self) -> None:
        self.pending = 0
        self._top = max(self._end - self.body_height, self._first)

    def scroll_lines(self, count: int) -> None:
        last = max(self._end - self.body_height, self._first)
        self._top = max(self._first, min(self._top + count, last))
        self.following = self._top >= last and count > 0
        if self.following:
            self.pending = 0
        self.refresh_body()
        self._titles()

    def action_scroll_by(self, by: int) -> None:
        self.scroll_lines(by)

    def action_page(self, by: int) -> None:
        self.scroll_lines(by * max(self.body_height - 1, 1))

    def action_first(self) -> None:
        self.scroll_lines(-len(self._shown) - 1)

    def action_follow(self) -> None:
        self.following = True
        self._to_end()
        self.refresh_body()
        self._titles()

    def action_level(self, by: int) -> None:
        """Show fewer lines (`by` 1) or more (-1)."""
        at = LEVELS.index(self.level) + by
        self.level = LEVELS[max(0, min(at, len(LEVELS) - 1))]
        self._rebuild()

    def action_open(self) -> None:
        self.post_message(self.Opened(self))

    def resized(self) -> None:
        if self.following:
            self._to_end()
        else:
            self._top = max(self._first, min(self._top, self._end - 1))
        self._titles()

    # ------------------------------------------------------------ drawing

    def _titles(self) -> None:
        mode = "following" if self.following else "scrolled, f follows"
        only = f" · /{self._filter}" if self._filter else ""
        head: Line = (*self._label, (f" {self.level.upper()}+ · {mode}{only}", "dim"))
        new = f"{self.pending} new line{'s' * (self.pending != 1)}"
        foot: Line = ((new, "warn"),) if self.pending else (("+/- level", "dim"),)
        self.set_titles(head, foot)

    def body_line(self, y: int, width: int, palette: Palette) -> list[Segment]:
        index = self._top - self._first + y
        if not 0 <= index < len(self._shown):
            text = " No line of this level yet." if y == 0 and not self._shown else ""
            return draw(((text, "dim"),), width, palette)
        return draw(log_spans(self._shown[index], aligned=width >= ALIGNED), width, palette)


def log_spans(line: LogEntry, *, aligned: bool = False) -> Line:
    """One log line as spans: clock, level, tag, text; `aligned` starts texts in one column."""
    tone = {"warning": "warn", "error": "bad", "debug": "dim"}.get(line.level, "base")
    tag = line.tag.strip("[]")
    return (
        (f"{clock(line.at)} ", "dim"),
        _WORDS.get(line.level, _WORDS["info"]),
        (f"{tag:<9} " if aligned else f"{tag} ", "key"),
        (line.text, tone),
    )


def clock(at: float) -> str:
    """Local wall time, `21:44:02`."""
    return time.strftime("%H:%M:%S", time.localtime(at))
