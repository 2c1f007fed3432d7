"""A live table: fixed widths, one strip per row, a cursor that stays on its item.

Textual's DataTable keeps its cursor on a row number, so that on a live sorted table a key would
act on another item than the one looked at; and it repaints every visible cell for one change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.segment import Segment
from textual import events
from textual.binding import Binding
from textual.message import Message

from swarmtui.theming import Palette
from swarmtui.widgets.panel import Panel, draw
from swarmtui.widgets.text import Line, Span, fit, wrap


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `drop`: 0 always shown; of the others the highest goes first when it is tight.

    `grow` is the share of the cells left over, up to `most` cells in all (0: no limit).
    """

    title: str
    width: int
    align: str = "left"
    drop: int = 0
    grow: int = 0
    most: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One item: its key, a span per column, what each column sorts by, and its natural rank."""

    key: str
    cells: tuple[Span, ...]
    order: tuple[Any, ...]
    rank: tuple[Any, ...]


def lay_out(columns: Sequence[Column], width: int) -> list[tuple[int, int]]:
    """Which columns are shown in `width` cells, and how wide: pairs of index and width."""
    shown = list(range(len(columns)))

    def needed() -> int:
        return sum(columns[i].width for i in shown) + max(len(shown) - 1, 0)

    while shown and needed() > width:
        worst = max(shown, key=lambda i: (columns[i].drop, i))
        if columns[worst].drop == 0:
            break
        shown.remove(worst)
    widths = {i: columns[i].width for i in shown}
    spare = width - needed()
    growing = [i for i in shown if columns[i].grow]
    while spare > 0 and growing:
        total = sum(columns[i].grow for i in growing)
        before = spare
        for i in list(growing):
            more = max(before * columns[i].grow // total, 1)
            if columns[i].most:
                more = min(more, columns[i].most - widths[i])
            more = min(more, spare)
            if more <= 0:
                growing.remove(i)
                continue
            widths[i] += more
            spare -= more
    return [(i, widths[i]) for i in shown]


class LiveTable(Panel):
    """Rows under a header; see the module's text. Give it rows with `show`."""

    COLUMNS: ClassVar[tuple[Column, ...]] = ()
    FOLLOW_TOP: ClassVar[bool] = False
    BINDINGS: ClassVar[list[Binding]] = [  # type: ignore[assignment]
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home,g", "first", show=False),
        Binding("end,G", "last", show=False),
        Binding("enter", "open", show=False),
        Binding("s", "sort_next", show=False),
        Binding("S", "sort_reverse", show=False),
    ]

    class Moved(Message):
        """The cursor is on another item."""

        def __init__(self, table: LiveTable) -> None:
            super().__init__()
            self.table = table

        @property
        def control(self) -> LiveTable:
            return self.table

    class Opened(Moved):
        """Enter was pressed on the item under the cursor."""

    class Resorted(Moved):
        """Another column sorts, or the other way round."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.rows: list[Row] = []
        self.cursor: str | None = None
        self.top = 0
        self.sort: int | None = None
        self.reverse = False
        self.empty: tuple[Line, ...] = ()
        self._index: dict[str, int] = {}
        self._follow = self.FOLLOW_TOP
        self._drawn: list[tuple[Row | None, bool]] = []
        self._layout: list[tuple[int, int]] = []

    # ------------------------------------------------------------ rows in

    def show(self, rows: Sequence[Row], empty: tuple[Line, ...] = ()) -> None:
        """Show these rows; the cursor stays on its item, or on its neighbour if that is gone."""
        was = self._index.get(self.cursor) if self.cursor is not None else None
        screen_line = None if was is None else was - self.top
        before = self.cursor
        self.rows = self._sorted(rows)
        self._index = {row.key: number for number, row in enumerate(self.rows)}
        if not self.rows:
            self.cursor = None
            self._follow = self.FOLLOW_TOP
        elif self._follow or self.cursor is None:
            self.cursor, self.top = self.rows[0].key, 0
        elif self.cursor not in self._index:
            self.cursor = self.rows[min(was or 0, len(self.rows) - 1)].key
        at = self.cursor_index
        if at is not None and screen_line is not None and 0 <= screen_line < self.page_size:
            self.top = at - screen_line
        self._clamp()
        if not self.rows and empty != self.empty:
            self.refresh_body()
        self.empty = empty
        self._redraw()
        if self.cursor != before:
            self.post_message(self.Moved(self))

    def _sorted(self, rows: Sequence[Row]) -> list[Row]:
        result = sorted(rows, key=lambda row: row.rank)
        column = self.sort
        if column is not None:
            result.sort(key=lambda row: row.order[column], reverse=self.reverse)
        elif self.reverse:
            result.reverse()
        return result

    # ------------------------------------------------------------ readings

    @property
    def page_size(self) -> int:
        """How many rows fit under the header."""
        return max(self.body_height - 1, 0)

    @property
    def cursor_index(self) -> int | None:
        return self._index.get(self.cursor) if self.cursor is not None else None

    @property
    def below(self) -> int:
        """How many rows lie below the last one visible."""
        return max(len(self.rows) - self.top - self.page_size, 0)

    @property
    def sort_title(self) -> str:
        """The name of the column that sorts, with an arrow; empty for the natural order."""
        arrow = "↓" if self.reverse else "↑"
        if self.sort is None:
            return arrow if self.reverse else ""
        return f"{self.COLUMNS[self.sort].title}{arrow}"

    # ------------------------------------------------------------ moving

    def move_to(self, key: str) -> None:
        """Put the cursor on the item `key`, if it is there."""
        if key in self._index:
            self._go(self._index[key])

    def _go(self, index: int) -> None:
        if not self.rows:
            return
        index = max(0, min(index, len(self.rows) - 1))
        self._follow = self.FOLLOW_TOP and index == 0
        before = self.cursor
        self.cursor = self.rows[index].key
        if index < self.top:
            self.top = index
        elif index >= self.top + self.page_size:
            self.top = index - self.page_size + 1
        self._clamp()
        self._redraw()
        if before != self.cursor:
            self.post_message(self.Moved(self))

    def action_move(self, by: int) -> None:
        self._go((self.cursor_index or 0) + by)

    def action_page(self, by: int) -> None:
        self._go((self.cursor_index or 0) + by * max(self.page_size - 1, 1))

    def action_first(self) -> None:
        self._go(0)

    def action_last(self) -> None:
        self._go(len(self.rows) - 1)

    def action_open(self) -> None:
        if self.cursor is not None:
            self.post_message(self.Opened(self))

    def action_sort_next(self) -> None:
        choices: list[int | None] = [None, *(index for index, _ in self._layout)]
        at = choices.index(self.sort) if self.sort in choices else 0
        self.sort = choices[(at + 1) % len(choices)]
        self._resort()

    def action_sort_reverse(self) -> None:
        self.reverse = not self.reverse
        self._resort()

    def _resort(self) -> None:
        self.show(self.rows, self.empty)
        self.refresh_body()
        self.post_message(self.Resorted(self))

    def scroll_lines(self, count: int) -> None:
        self._follow = False
        self.top += count
        self._clamp()
        self._redraw()

    def on_click(self, event: events.Click) -> None:
        index = self.top + event.y - 2
        if self.top <= index < len(self.rows):
            self._go(index)

    def resized(self) -> None:
        self._layout = lay_out(self.COLUMNS, self.body_width - 2)
        self._drawn = []
        at = self.cursor_index
        if at is not None:
            self.top = max(min(self.top, at), at - self.page_size + 1)
        self._clamp()

    def _clamp(self) -> None:
        self.top = max(0, min(self.top, len(self.rows) - self.page_size))

    # ------------------------------------------------------------ drawing

    def _redraw(self) -> None:
        """Draw again the lines that show something else than before."""
        now: list[tuple[Row | None, bool]] = []
        for line in range(self.page_size):
            index = self.top + line
            row = self.rows[index] if index < len(self.rows) else None
            now.append((row, row is not None and row.key == self.cursor))
        if len(now) != len(self._drawn):
            self.refresh_body()
        elif changed := [
            y + 1 for y, (a, b) in enumerate(zip(now, self._drawn, strict=True)) if a != b
        ]:
            if bool(self.rows) != any(row is not None for row, _ in self._drawn):
                self.refresh_body()
            else:
                self.refresh_body(changed)
        self._drawn = now

    def body_line(self, y: int, width: int, palette: Palette) -> list[Segment]:
        base = palette["base"]
        if not self.rows:
            return self._empty_line(y, width, palette)
        if y == 0:
            segments = [Segment(" ", base)]
            for index, cells in self._layout:
                column = self.COLUMNS[index]
                title = column.title
                if index == self.sort:
                    title += "↓" if self.reverse else "↑"
                segments.append(Segment(fit(title, cells, column.align), palette["head"]))
                segments.append(Segment(" ", base))
            return self._filled(segments, width, base)
        index = self.top + y - 1
        if index >= len(self.rows):
            return [Segment(" " * width, base)]
        row = self.rows[index]
        here = row.key == self.cursor
        blank = palette.under_cursor("base", self.has_focus) if here else base
        segments = [Segment(">" if here else " ", blank)]
        for column_index, cells in self._layout:
            text, name = row.cells[column_index]
            style = palette.under_cursor(name, self.has_focus) if here else palette[name]
            segments.append(
                Segment(fit(text, cells, self.COLUMNS[column_index].align), style)
            )
            segments.append(Segment(" ", blank))
        return self._filled(segments, width, blank)

    @staticmethod
    def _filled(segments: list[Segment], width: int, style: Any) -> list[Segment]:
        left = width - sum(segment.cell_length for segment in segments)
        if left > 0:
            segments.append(Segment(" " * left, style))
            return segments
        return segments if left == 0 else list(Segment.adjust_line_length(segments, width))

    def _empty_line(self, y: int, width: int, palette: Palette) -> list[Segment]:
        lines = [part for line in self.empty for part in wrap(line, width - 2)]
        line = lines[y - 1] if 1 <= y <= len(lines) else ()
        return draw(((" ", "base"), *line), width, palette)
