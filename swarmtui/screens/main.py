"""The main screen: where the panes stand, and when each of them is drawn again."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container
from textual.screen import Screen

from node.door import Door
from node.state import State
from swarmtui.actions import bindings, footer
from swarmtui.panes.bars import CommandStrip, CoverageBar, KeyBar, StatusBar, TabRow
from swarmtui.panes.pane import Pane
from swarmtui.panes.peers import PeersPane
from swarmtui.panes.queries import QueriesPane
from swarmtui.panes.shards import ShardsPane
from swarmtui.panes.torrents import TorrentsPane
from swarmtui.panes.view import View
from swarmtui.panes.why import explain, name_of
from swarmtui.screens.commands import Commands
from swarmtui.screens.detail import DetailScreen
from swarmtui.screens.transfers import Transfers
from swarmtui.widgets.ring_log import RingLog, log_spans
from swarmtui.widgets.table import LiveTable
from swarmtui.widgets.text import Ages, Line, printable
from swarmtui.widgets.text_pane import TextPane

if TYPE_CHECKING:
    from swarmtui.app import SwarmApp
    from swarmtui.panes.log import LogFeed

NARROW = (110, 30)
WIDE = (160, 40)
TABS = ((1, "Shards"), (2, "Peers"), (3, "DHT"), (4, "Torrents"), (5, "Log"))
LOG = 5


def door_lost(door: Door) -> str:
    """Why a door to another process no longer answers; empty while it does."""
    return printable(str(getattr(door, "lost", "")), 60)


class MainScreen(Commands, Transfers, Screen[None]):
    """Panes, bars and the tick that updates them."""

    BINDINGS: ClassVar[list[Binding]] = bindings()  # type: ignore[assignment]
    AUTO_FOCUS = "#shards"

    def __init__(self) -> None:
        super().__init__()
        self.active = 1
        self.table = 1
        self.zoomed = False
        self.mode = ""
        self.wanted = ""
        self.feed: LogFeed | None = None
        self._version = -1
        self._due = inf
        self._lost = ""

    def compose(self) -> ComposeResult:
        yield StatusBar(id="status")
        yield TabRow(id="tabs")
        yield CoverageBar(id="coverage")
        with Container(id="work"):
            yield ShardsPane(id="shards")
            yield PeersPane(id="peers")
            yield TextPane(id="detail")
            yield TorrentsPane(id="torrents")
            yield QueriesPane(id="queries")
        yield RingLog(id="log")
        yield CommandStrip(id="command")
        yield KeyBar(id="keys")

    def on_mount(self) -> None:
        self.ring_log.set_label((("5 ", "key"), ("Log", "title")))
        self.query_one("#detail", TextPane).can_focus = False
        # So that the very first frame already says what is going on.
        app = self.tui
        self.query_one("#status", StatusBar).set_line(
            ((f" {app.label}  ", "title"), (app.waiting, "warn"))
        )
        for pane in self.panes.values():
            pane.empty = (((app.waiting, "dim"),),)
            pane.titles("", "")

    # ------------------------------------------------------------ parts

    @property
    def tui(self) -> SwarmApp:
        """The app, as what it is."""
        return cast("SwarmApp", self.app)

    @property
    def panes(self) -> dict[int, Pane]:
        return {pane.NUMBER: pane for pane in self.query(Pane)}

    @property
    def ring_log(self) -> RingLog:
        return self.query_one("#log", RingLog)

    @property
    def selected(self) -> tuple[str, str]:
        """Kind and key of the item under the cursor of the table used last."""
        pane = self.panes[self.table]
        return pane.KIND, pane.cursor or ""

    # ------------------------------------------------------------ where things stand

    def on_resize(self, event: events.Resize) -> None:
        width, height = event.size
        if width < NARROW[0] or height < NARROW[1]:
            self.mode = "narrow"
        else:
            self.mode = "wide" if width >= WIDE[0] and height >= WIDE[1] else "normal"
        self.put_in_place()

    def put_in_place(self) -> None:
        """Put the classes on that the stylesheet lays out by, and draw everything once."""
        for mode in ("narrow", "normal", "wide"):
            self.set_class(self.mode == mode, f"-{mode}")
        self.set_class(self.zoomed, "-zoomed")
        self.set_class(self.active == LOG, "-log")
        # Set here and not by a style rule, which would come too late for a focus at once.
        alone = self.zoomed or self.mode == "narrow"
        for number, pane in self.panes.items():
            pane.display = not alone or number == self.table
        self.query_one("#detail").display = self.mode == "wide" and not alone
        self.query_one("#tabs").display = self.mode == "narrow"
        self.query_one("#work").display = not (alone and self.active == LOG)
        self.ring_log.display = self.active == LOG or not self.zoomed
        self.query_one("#tabs", TabRow).update_tabs(TABS, self.active, self.wanted)
        self.call_after_refresh(self.redraw)

    def go_to(self, number: int) -> None:
        """Focus a pane; where one is shown at a time, show it."""
        self.active = number
        if number != LOG:
            self.table = number
        self.put_in_place()
        # At once, so that a key typed right after goes to the pane it was meant for.
        if number != LOG:
            self.panes[number].update_view(self.view(), self.wanted)
        self.set_focus(self.ring_log if number == LOG else self.panes[number])

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        widget = event.widget
        number = widget.NUMBER if isinstance(widget, Pane) else None
        if isinstance(widget, RingLog):
            number = LOG
        if number is not None and number != self.active:
            self.go_to(number)

    def action_pane(self, number: int) -> None:
        self.go_to(number)

    def action_next_pane(self, by: int) -> None:
        self.go_to((self.active - 1 + by) % len(TABS) + 1)

    def action_zoom(self) -> None:
        self.zoomed = not self.zoomed
        self.go_to(self.active)

    def action_back(self) -> None:
        if self.wanted:
            self.set_wanted("")
        elif self.zoomed:
            self.action_zoom()

    def set_wanted(self, text: str) -> None:
        """Show only rows and log lines that hold `text`."""
        self.wanted = text
        self.ring_log.set_filter(text)
        self.put_in_place()

    # ------------------------------------------------------------ when things are drawn

    def tick(self) -> None:
        """Draw what changed since the last tick; nothing changed costs next to nothing."""
        app = self.tui
        door = app.door
        if door is None:
            return
        version = door.snapshot().version
        lost = door_lost(door)
        changed = version != self._version or lost != self._lost
        self._lost = lost
        if not changed and app.clock() < self._due:
            return
        if changed and self.feed is not None and self.feed.drain(self.ring_log):
            version = -1
        self._version = version
        self.draw()

    def view(self) -> View:
        """The present moment."""
        app = self.tui
        ages = Ages(app.clock())
        if app.door is None:
            return View(State(), ages, app.waiting)
        return View(app.door.snapshot().state, ages, lost=door_lost(app.door))

    def redraw(self) -> None:
        """Draw what is visible, whether or not it changed."""
        if self.is_mounted and self.size.width:
            self.draw()

    def draw(self) -> None:
        """Give the visible parts the present view; each draws only the lines that differ."""
        view = self.view()
        front = self.tui.screen
        if isinstance(front, DetailScreen):
            front.update_view(view)
        elif front is self:
            self._draw_bars(view)
            for pane in self.panes.values():
                if pane.is_on_screen:
                    pane.update_view(view, self.wanted)
            self._draw_detail(view)
        self._due = view.ages.due

    def _draw_bars(self, view: View) -> None:
        app = self.tui
        self.query_one("#status", StatusBar).update_view(view, app.label, app.cost)
        self.query_one("#coverage", CoverageBar).update_view(view)
        self.query_one("#command", CommandStrip).update_view(view, app.commander.last, app.notice)
        self.query_one("#keys", KeyBar).show_keys(footer(self.selected[0]))

    def _draw_detail(self, view: View) -> None:
        detail = self.query_one("#detail", TextPane)
        if not detail.is_on_screen:
            return
        kind, key = self.selected
        lines: list[Line] = explain(view, kind, key) if not view.waiting else []
        detail.show(lines)
        below = ((f"{detail.below} below · enter opens", "dim"),) if detail.below else ()
        detail.set_titles((("Why: ", "title"), (name_of(view, kind, key), "strong")), below)

    def on_screen_resume(self) -> None:
        if self.mode:
            self.call_after_refresh(self.redraw)

    # ------------------------------------------------------------ opening things

    def on_live_table_moved(self, message: LiveTable.Moved) -> None:
        if type(message) is LiveTable.Moved:
            self._draw_detail(self.view())
            pane = message.table
            if isinstance(pane, Pane):
                pane.update_view(self.view(), self.wanted)

    def on_live_table_resorted(self, message: LiveTable.Resorted) -> None:
        self.redraw()

    def on_live_table_opened(self, message: LiveTable.Opened) -> None:
        pane = message.table
        if isinstance(pane, Pane) and pane.cursor is not None:
            kind, key = pane.KIND, pane.cursor
            title = f"Why: {name_of(self.view(), kind, key)}"
            self.tui.push_detail(title, lambda view: explain(view, kind, key), kind=kind)

    def on_ring_log_opened(self, message: RingLog.Opened) -> None:
        lines = [log_spans(line) for line in message.ring_log.in_view()]
        self.tui.push_detail("Log lines in full", lambda view: lines)
