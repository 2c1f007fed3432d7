"""A pane of styled lines, wrapped to its width and scrollable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from textual.binding import Binding
from textual.message import Message

from swarmtui.theming import Palette
from swarmtui.widgets.panel import Panel, draw
from swarmtui.widgets.text import Line, wrap


class TextPane(Panel):
    """Shows lines of spans; only lines that changed are drawn again."""

    BINDINGS: ClassVar[list[Binding]] = [  # type: ignore[assignment]
        Binding("up,k", "scroll_by(-1)", show=False),
        Binding("down,j", "scroll_by(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown,space", "page(1)", show=False),
        Binding("home,g", "first", show=False),
        Binding("end,G", "last", show=False),
    ]

    class Scrolled(Message):
        """The view moved."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._lines: tuple[Line, ...] = ()
        self._wrapped: list[Line] = []
        self._top = 0

    def show(self, lines: Sequence[Line]) -> None:
        """Show these lines."""
        lines = tuple(lines)
        if lines == self._lines:
            return
        self._lines = lines
        before = self._wrapped
        self._wrap()
        changed = [
            y
            for y in range(self.body_height)
            if self._at(before, y) != self._at(self._wrapped, y)
        ]
        self.refresh_body(changed)

    def _at(self, lines: list[Line], y: int) -> Line:
        index = self._top + y
        return lines[index] if index < len(lines) else ()

    def _wrap(self) -> None:
        width = self.body_width - 2
        self._wrapped = [part for line in self._lines for part in wrap(line, width, 4)]
        self._top = max(0, min(self._top, len(self._wrapped) - self.body_height))

    def resized(self) -> None:
        self._wrap()

    @property
    def below(self) -> int:
        """How many lines lie below the last one visible."""
        return max(len(self._wrapped) - self._top - self.body_height, 0)

    def scroll_lines(self, count: int) -> None:
        last = max(len(self._wrapped) - self.body_height, 0)
        self._top = max(0, min(self._top + count, last))
        self.refresh_body()
        self.post_message(self.Scrolled())

    def action_scroll_by(self, by: int) -> None:
        self.scroll_lines(by)

    def action_page(self, by: int) -> None:
        self.scroll_lines(by * max(self.body_height - 1, 1))

    def action_first(self) -> None:
        self.scroll_lines(-len(self._wrapped))

    def action_last(self) -> None:
        self.scroll_lines(len(self._wrapped))

    def body_line(self, y: int, width: int, palette: Palette) -> list[Segment]:
        return draw(((" ", "base"), *self._at(self._wrapped, y)), width, palette)
