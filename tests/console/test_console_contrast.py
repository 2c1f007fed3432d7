"""Every word of the torrents pane and its detail view stands out from what is behind it."""

from __future__ import annotations

import pytest
import transfer_scenario as tell
from kit import console, press, run
from test_console_theming import contrast
from textual.app import App

FRAME = set("─│╭╮╰╯ ")


def faint(app: App[object]) -> set[tuple[float, str, str, str]]:
    """What is written with less than 4.5 to 1: (contrast, colour, ground, text)."""
    found = set()
    for strip in app.screen._compositor.render_strips():
        for segment in strip:
            style, text = segment.style, segment.text.strip()
            if style is None or not set(text) - FRAME:
                continue
            if style.color is None or style.bgcolor is None:
                continue
            colours = [item.get_truecolor().hex for item in (style.color, style.bgcolor)]
            if (ratio := contrast(*colours)) < 4.5:
                found.add((round(ratio, 2), *colours, text))
    return found


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 50)])
@pytest.mark.parametrize("keys", [(), ("t",)], ids=["night", "day"])
def test_nothing_is_faint(size: tuple[int, int], keys: tuple[str, ...]) -> None:
    async def test() -> None:
        async with console(tell.transfer_door(), size=size) as (app, pilot):
            await press(pilot, *keys, "4")
            for row in range(9):
                assert not faint(app), row
                await press(pilot, "enter")
                assert not faint(app), row
                await press(pilot, "escape", "down")

    run(test)
