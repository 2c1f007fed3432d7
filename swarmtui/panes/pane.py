"""A numbered table pane: rows from a view, a heading with counts, and a sentence when empty."""

from __future__ import annotations

from typing import ClassVar

from swarmtui.panes.view import View
from swarmtui.widgets.table import LiveTable, Row
from swarmtui.widgets.text import Line


class Pane(LiveTable):
    """Subclasses say how rows, heading and the empty sentence come from the view."""

    NUMBER: ClassVar[int] = 0
    NAME: ClassVar[str] = ""
    KIND: ClassVar[str] = ""

    _told: tuple[str, str] = ("", "")

    def build(self, view: View) -> list[Row]:
        """The rows of this pane."""
        raise NotImplementedError

    def counts(self, view: View, rows: list[Row]) -> str:
        """What follows the name in the heading."""
        return str(len(rows))

    def hint(self, view: View) -> tuple[str, ...]:
        """What an empty pane says: what is so, and the next step."""
        raise NotImplementedError

    def update_view(self, view: View, wanted: str = "") -> None:
        """Show the view; `wanted` keeps only rows with that text in a cell."""
        rows = self.build(view)
        counts = self.counts(view, rows)
        if wanted:
            low = wanted.lower()
            rows = [row for row in rows if any(low in text.lower() for text, _ in row.cells)]
        if view.waiting:
            sentences: tuple[str, ...] = (view.waiting,)
        elif wanted:
            sentences = (f"No row holds “{wanted}”.", "Press / and enter nothing to see all.")
        else:
            sentences = self.hint(view)
        empty: tuple[Line, ...] = tuple(((text, "dim"),) for text in sentences)
        self.show(rows, empty)
        self.titles(counts, wanted)

    def scroll_lines(self, count: int) -> None:
        super().scroll_lines(count)
        self.titles(*self._told)

    def titles(self, counts: str, wanted: str) -> None:
        """Draw the frame's texts again where they changed."""
        self._told = counts, wanted
        head: Line = (
            (f"{self.NUMBER} ", "key"),
            (self.NAME, "title"),
            (f" {counts}", "dim"),
            (f"  /{wanted}" if wanted else "", "warn"),
        )
        notes = self.notes()
        self.set_titles(head, ((" · ".join(notes), "dim"),) if notes else ())

    def notes(self) -> list[str]:
        """What the frame says below: how it is sorted, and how much is out of sight."""
        notes = [f"sort {self.sort_title}"] if self.sort_title else []
        if self.below:
            notes.append(f"{self.below} below")
        return notes
