"""RingLog: follows, stays where it was scrolled to while it grows and prunes, filters by level."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kit import run
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from node.logs import LogLine
from swarmtui.widgets.ring_log import RingLog


class Bare(App[None]):
    def __init__(self, log: RingLog) -> None:
        super().__init__()
        self.ring = log

    def compose(self) -> ComposeResult:
        yield self.ring


def lines(start: int, stop: int, level: str = "info") -> list[LogLine]:
    return [LogLine(float(n), level, "DHT", f"line {n}") for n in range(start, stop)]


@asynccontextmanager
async def shown(capacity: int = 1000) -> AsyncIterator[tuple[RingLog, Pilot[Any], Bare]]:
    log = RingLog(capacity=capacity)
    app = Bare(log)
    async with app.run_test(size=(60, 12)) as pilot:
        await pilot.pause()
        log.focus()
        yield log, pilot, app


def first(log: RingLog) -> str:
    return log.in_view()[0].text


def text(app: App[Any]) -> str:
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def test_it_follows_the_end() -> None:
    async def test() -> None:
        async with shown() as (log, pilot, app):
            log.add(lines(0, 50))
            await pilot.pause()
            assert log.in_view()[-1].text == "line 49"
            assert "line 49" in text(app)
            assert "following" in text(app)

    run(test)


def test_scrolled_up_it_stays_and_counts_what_is_new() -> None:
    async def test() -> None:
        async with shown() as (log, pilot, app):
            log.add(lines(0, 50))
            await pilot.press("up", "up")
            top = first(log)
            log.add(lines(50, 57))
            await pilot.pause()
            assert first(log) == top
            assert "7 new lines" in text(app)
            await pilot.press("G")
            await pilot.pause()
            assert log.in_view()[-1].text == "line 56"
            assert "new line" not in text(app)

    run(test)


def test_pruning_does_not_move_what_is_read() -> None:
    async def test() -> None:
        async with shown(capacity=100) as (log, pilot, _):
            log.add(lines(0, 100))
            await pilot.press("up")
            top = first(log)
            log.add(lines(100, 150))
            assert first(log) == top
            log.add(lines(150, 300))
            assert first(log) == "line 200"
            assert len(log.texts()) == 100

    run(test)


def test_scrolling_back_to_the_end_follows_again() -> None:
    async def test() -> None:
        async with shown() as (log, pilot, _):
            log.add(lines(0, 50))
            await pilot.press("up")
            assert not log.following
            await pilot.press("down")
            assert log.following

    run(test)


def test_levels_hide_and_show_again() -> None:
    async def test() -> None:
        async with shown() as (log, pilot, app):
            log.add(lines(0, 3, "debug") + lines(3, 6) + lines(6, 8, "error"))
            await pilot.pause()
            assert [item.text for item in log.in_view()] == [f"line {n}" for n in range(3, 8)]
            await pilot.press("plus", "plus")
            assert [item.text for item in log.in_view()] == ["line 6", "line 7"]
            assert "ERROR+" in text(app)
            await pilot.press("minus", "minus", "minus")
            assert len(log.in_view()) == 8

    run(test)


def test_a_filter_keeps_only_lines_that_hold_it() -> None:
    async def test() -> None:
        async with shown() as (log, _, _):
            log.add(lines(0, 30))
            log.set_filter("LINE 2")
            assert [item.text for item in log.in_view()][-1] == "line 29"
            assert len(log.in_view()) == 10
            log.add(lines(100, 102))
            assert len([item for item in log.in_view() if "line 10" in item.text]) == 0

    run(test)
