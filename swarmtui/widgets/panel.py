"""A framed widget that draws its own lines, so that one changed line costs one line.

Textual's own border would repaint the whole widget at every change of a title, and reads titles
as markup. Here the frame is drawn from spans of (text, style name).
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.cells import cell_len
from rich.segment import Segment
from textual import events
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from swarmtui.theming import Palette, palette_of
from swarmtui.widgets.text import Line, fit, printable

MONO = palette_of(None)


def palette_for(widget: Widget) -> Palette:
    """The palette of the app a widget runs in; the colourless one where it has none."""
    found = getattr(widget.app, "palette", None)
    return found if isinstance(found, Palette) else MONO


def draw(line: Line, width: int, palette: Palette, fill: str = "base") -> list[Segment]:
    """Spans as segments of exactly `width` cells, cut at the end with an ellipsis."""
    segments: list[Segment] = []
    left = width
    for text, style in line:
        if left <= 0:
            break
        text = printable(text)
        length = cell_len(text)
        if length > left:
            text, length = fit(text, left), left
        segments.append(Segment(text, palette[style]))
        left -= length
    if left > 0:
        segments.append(Segment(" " * left, palette[fill]))
    return segments


class Panel(Widget, can_focus=True):
    """A frame with a title above and a note below; subclasses draw the lines inside."""

    ALLOW_SELECT = False
    DEFAULT_CSS = "Panel { height: 1fr; width: 1fr; }"
    FRAMED = True

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._head: Line = ()
        self._foot: Line = ()

    # ------------------------------------------------------------ what subclasses fill in

    def body_line(self, y: int, width: int, palette: Palette) -> list[Segment]:
        """The segments of line `y` of the body, exactly `width` cells in all."""
        return [Segment(" " * width, palette["base"])]

    def resized(self) -> None:
        """The body has a new size."""

    def scroll_lines(self, count: int) -> None:
        """The wheel turned: move the view by `count` lines, down when positive."""

    # ------------------------------------------------------------ drawing

    @property
    def palette(self) -> Palette:
        return palette_for(self)

    @property
    def body_width(self) -> int:
        return max(self.size.width - 2, 0) if self.FRAMED else self.size.width

    @property
    def body_height(self) -> int:
        return max(self.size.height - 2, 0) if self.FRAMED else self.size.height

    def set_titles(self, head: Line, foot: Line) -> None:
        """Set the title above and the note below; only what changed is drawn again."""
        if head != self._head:
            self._head = head
            self.refresh(Region(0, 0, self.size.width, 1))
        if foot != self._foot:
            self._foot = foot
            self.refresh(Region(0, max(self.size.height - 1, 0), self.size.width, 1))

    def refresh_body(self, lines: Iterable[int] | None = None) -> None:
        """Draw these body lines again; None means all of them."""
        top = 1 if self.FRAMED else 0
        width = self.size.width
        if lines is None:
            self.refresh(Region(0, top, width, self.body_height))
            return
        start = previous = -2
        regions: list[Region] = []
        for y in sorted(lines):
            if not 0 <= y < self.body_height:
                continue
            if y != previous + 1:
                if start >= 0:
                    regions.append(Region(0, start + top, width, previous - start + 1))
                start = y
            previous = y
        if start >= 0:
            regions.append(Region(0, start + top, width, previous - start + 1))
        if regions:
            self.refresh(*regions)

    def render_line(self, y: int) -> Strip:
        width, height = self.size
        palette = self.palette
        if not self.FRAMED:
            return Strip(self.body_line(y, width, palette), width)
        if width < 4 or height < 2:
            return Strip.blank(width, palette["base"])
        frame = palette["focus" if self.has_focus else "frame"]
        if y == 0:
            return self._edge("╭─", self._head, "─╮", frame, width, at_end=False)
        if y == height - 1:
            return self._edge("╰─", self._foot, "─╯", frame, width, at_end=True)
        side = Segment("│", frame)
        return Strip([side, *self.body_line(y - 1, width - 2, palette), side], width)

    def _edge(
        self, left: str, line: Line, right: str, frame: object, width: int, *, at_end: bool
    ) -> Strip:
        room = width - 4
        length = min(sum(cell_len(printable(text)) for text, _ in line) + 2, room) if line else 0
        inner = [Segment(" ", frame)] if length else []  # type: ignore[arg-type]
        if length > 2:
            inner += draw(line, length - 2, self.palette)
            inner.append(Segment(" ", frame))  # type: ignore[arg-type]
        else:
            inner, length = [], 0
        rule = Segment("─" * (room - length), frame)  # type: ignore[arg-type]
        middle = [rule, *inner] if at_end else [*inner, rule]
        return Strip(
            [Segment(left, frame), *middle, Segment(right, frame)],  # type: ignore[arg-type]
            width,
        )

    # ------------------------------------------------------------ events

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def on_resize(self, event: events.Resize) -> None:
        self.resized()
        self.refresh()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.scroll_lines(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.scroll_lines(-3)
