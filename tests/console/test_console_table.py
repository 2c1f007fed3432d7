"""LiveTable: the cursor stays on its item, and only changed lines are drawn again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kit import run
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from swarmtui.widgets.table import Column, LiveTable, Row, lay_out


class Table(LiveTable):
    COLUMNS = (Column("NAME", 8), Column("VALUE", 6, "right"), Column("NOTE", 5, drop=1, grow=1))

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[list[int] | None] = []

    def refresh_body(self, lines: Any = None) -> None:
        self.drawn.append(None if lines is None else sorted(lines))
        super().refresh_body(lines)


class Following(Table):
    FOLLOW_TOP = True


class Bare(App[None]):
    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = table
        self.moved: list[str | None] = []
        self.opened: list[str | None] = []

    def compose(self) -> ComposeResult:
        yield self.table

    def on_live_table_moved(self, message: LiveTable.Moved) -> None:
        if type(message) is LiveTable.Moved:
            self.moved.append(message.table.cursor)

    def on_live_table_opened(self, message: LiveTable.Opened) -> None:
        self.opened.append(message.table.cursor)


def rows(*values: tuple[str, int]) -> list[Row]:
    return [
        Row(key, ((key, "base"), (str(value), "base"), ("", "dim")), (key, value, ""), (value, key))
        for key, value in values
    ]


@asynccontextmanager
async def shown(
    table: Table, first: Sequence[Row], height: int = 12
) -> AsyncIterator[tuple[Bare, Pilot[None]]]:
    app = Bare(table)
    async with app.run_test(size=(40, height)) as pilot:
        await pilot.pause()
        table.focus()
        table.show(first)
        await pilot.pause()
        yield app, pilot


def text(app: App[Any]) -> list[str]:
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]


def test_cursor_stays_on_its_item_when_the_order_turns() -> None:
    async def test() -> None:
        table = Table()
        async with shown(table, rows(("a", 1), ("b", 2), ("c", 3))) as (app, pilot):
            await pilot.press("down")
            assert table.cursor == "b"
            table.show(rows(("a", 9), ("b", 8), ("c", 7)))
            await pilot.pause()
            assert [row.key for row in table.rows] == ["c", "b", "a"]
            assert table.cursor == "b"
            table.show(rows(("a", 9), ("b", 1), ("c", 7)))
            await pilot.pause()
            assert table.cursor == "b"
            assert text(app)[2].startswith("│>b")

    run(test)


def test_cursor_stays_on_its_line_of_the_screen_when_rows_come_above() -> None:
    async def test() -> None:
        table = Table()
        many = [(f"r{n:02}", n) for n in range(50)]
        async with shown(table, rows(*many)) as (app, pilot):
            await pilot.press(*["down"] * 20)
            line = next(n for n, item in enumerate(text(app)) if item.startswith("│>"))
            table.show(rows(*many, *((f"new{n}", -n) for n in range(1, 6))))
            await pilot.pause()
            assert table.cursor == "r20"
            assert text(app)[line].startswith("│>r20")

    run(test)


def test_cursor_goes_to_the_neighbour_when_its_item_is_gone() -> None:
    async def test() -> None:
        table = Table()
        async with shown(table, rows(("a", 1), ("b", 2), ("c", 3))) as (app, pilot):
            await pilot.press("down")
            table.show(rows(("a", 1), ("c", 3)))
            await pilot.pause()
            assert table.cursor == "c"
            assert app.moved[-1] == "c"
            table.show([])
            await pilot.pause()
            assert table.cursor is None

    run(test)


def test_a_following_table_stays_at_the_top_until_moved() -> None:
    async def test() -> None:
        table = Following()
        async with shown(table, rows(("a", 5))) as (_, pilot):
            table.show(rows(("a", 5), ("b", 4)))
            await pilot.pause()
            assert table.cursor == "b"
            await pilot.press("down")
            table.show(rows(("a", 5), ("b", 4), ("c", 3)))
            await pilot.pause()
            assert table.cursor == "a"
            await pilot.press("g")
            table.show(rows(("a", 5), ("b", 4), ("c", 3), ("d", 2)))
            await pilot.pause()
            assert table.cursor == "d"

    run(test)


def test_only_changed_lines_are_drawn_again() -> None:
    async def test() -> None:
        table = Table()
        many = [(f"r{n:02}", n) for n in range(6)]
        async with shown(table, rows(*many)) as (_, pilot):
            table.drawn.clear()
            table.show(rows(*many))
            assert table.drawn == []
            changed = rows(*many)
            changed[3] = Row("r03", (("r03", "base"), ("x", "bad"), ("", "dim")), ("r03", 3, ""),
                             (3, "r03"))
            table.show(changed)
            await pilot.pause()
            assert table.drawn == [[4]]

    run(test)


def test_keys_move_page_and_open() -> None:
    async def test() -> None:
        table = Table()
        many = [(f"r{n:02}", n) for n in range(50)]
        async with shown(table, rows(*many)) as (app, pilot):
            await pilot.press("j", "j", "k")
            assert table.cursor == "r01"
            await pilot.press("G")
            assert table.cursor == "r49"
            await pilot.press("pageup")
            assert table.cursor == "r41"
            await pilot.press("g", "enter")
            await pilot.pause()
            assert app.opened == ["r00"]

    run(test)


def test_sorting_by_a_column_and_turning_it_round() -> None:
    async def test() -> None:
        table = Table()
        async with shown(table, rows(("c", 1), ("a", 2), ("b", 3))) as (app, pilot):
            await pilot.press("s")
            assert [row.key for row in table.rows] == ["a", "b", "c"]
            assert "NAME↑" in text(app)[1]
            await pilot.press("S")
            await pilot.pause()
            assert [row.key for row in table.rows] == ["c", "b", "a"]
            assert "NAME↓" in text(app)[1]
            assert table.cursor == "c"

    run(test)


def test_an_empty_table_says_what_to_do() -> None:
    async def test() -> None:
        table = Table()
        async with shown(table, []) as (app, pilot):
            table.show([], empty=((("Nothing here. Press x.", "dim"),),))
            await pilot.pause()
            assert "Nothing here. Press x." in "\n".join(text(app))
            table.show(rows(("a", 1)))
            await pilot.pause()
            assert "Nothing here" not in "\n".join(text(app))
            assert text(app)[2].startswith("│>a")

    run(test)


@pytest.mark.parametrize("width", range(10, 60))
def test_columns_fill_the_width_or_give_way(width: int) -> None:
    layout = lay_out(Table.COLUMNS, width)
    assert [index for index, _ in layout][:2] == [0, 1]
    if width >= 15:
        assert sum(cells for _, cells in layout) + len(layout) - 1 <= width
    if width >= 21:
        assert sum(cells for _, cells in layout) + len(layout) - 1 == width
