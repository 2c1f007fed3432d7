"""The one-line widgets: status, tabs, coverage, last command, keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment

from swarmtui.amounts import rate
from swarmtui.commanding import Entry
from swarmtui.panes.view import STATUS_STYLES, View, rates
from swarmtui.theming import Palette
from swarmtui.widgets.panel import Panel, draw
from swarmtui.widgets.text import Line, Span, milliseconds, names, peer_name, printable


class Bar(Panel, can_focus=False):
    """One line of spans, drawn again only when it changed."""

    FRAMED = False
    FILL = "base"
    DEFAULT_CSS = "Bar { height: 1; width: 1fr; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.line: Line = ()

    def set_line(self, line: Line) -> None:
        if line != self.line:
            self.line = line
            self.refresh()

    def body_line(self, y: int, width: int, palette: Palette) -> list[Segment]:
        return draw(self.line, width, palette, self.FILL)


def _length(line: Sequence[tuple[str, str]]) -> int:
    return sum(cell_len(text) for text, _ in line)


def _fitted(parts: list[tuple[int, Line]], width: int) -> Line:
    """The parts in their order with two blanks between; the highest ranks go when it is tight."""
    kept = list(parts)
    while kept and sum(_length(line) + 2 for _, line in kept) > width + 1:
        worst = max(kept, key=lambda part: part[0])
        if worst[0] == 0:
            break
        kept.remove(worst)
    out: list[tuple[str, str]] = [(" ", "base")]
    for _, line in kept:
        out += [*line, ("  ", "base")]
    return tuple(out)


class StatusBar(Bar):
    """Who this node is, whether the swarm is ready, and what the console costs."""

    def update_view(self, view: View, title: str, cost: str) -> None:
        """Show the view."""
        state = view.state
        node = state.node
        if node is not None and title == node.name:
            title = "swarmtui"
        parts: list[tuple[int, Line]] = [(4, ((title, "title"),))]
        if node is None:
            parts.append((0, ((view.waiting or "waiting for the node", "warn"),)))
            self.set_line(_fitted(parts, self.size.width))
            return
        name = printable(node.name, 24)
        parts.append((0, ((peer_name(node.peer_id), "strong"),)))
        if name:
            parts.append((3, ((name, "base"),)))
        parts.append((9, ((f"cluster {printable(node.cluster, 32)}", "dim"),)))
        parts.append((0, self._readiness(view)))
        answer = sum(peer.answering for peer in state.peers.values())
        parts.append((1, (("peers ", "dim"), (f"{answer}/{len(state.peers)}", "strong"))))
        parts.append((5, (("dht ", "dim"), (str(state.routing_size), "strong"))))
        down, up = rates(view)
        flow: list[Span] = []
        for arrow, value in (("↓", down), ("↑", up)):
            if value >= 1:
                flow += [(f"{' ' if flow else ''}{arrow} ", "dim"), (rate(value), "strong")]
        if flow:
            parts.append((7, tuple(flow)))
        lost = [item for item in state.bootstraps.values() if not item.connected]
        if lost:
            parts.append((2, ((f"! {len(lost)} bootstrap lost", "warn"),)))
        problems = sum(item.level in ("warning", "error") for item in state.problems)
        if problems:
            word = "problem" if problems == 1 else "problems"
            parts.append((2, ((f"! {problems} {word}", "warn"),)))
        if cost:
            parts.append((8, ((cost, "dim"),)))
        self.set_line(_fitted(parts, self.size.width))

    @staticmethod
    def _readiness(view: View) -> Line:
        state = view.state
        node = state.node
        if view.lost:
            return (("■ NO CONNECTION", "offline"), (f" {view.lost}, press q", "base"))
        if node is not None and node.stopped:
            return (("■ STOPPED", "offline"), (" press q", "base"))
        if node is not None and node.stopping:
            return (("■ STOPPING", "offline"), (f" {printable(node.stopping, 32)}", "base"))
        missing = state.missing_shards
        if missing:
            some = names(missing)
            word = "shard" if len(missing) == 1 else "shards"
            return (("○ NOT READY", "offline"), (f" missing {word} {some[:24]}", "base"))
        if not state.ready:
            return (("○ NOT READY", "warn"), (" checking", "base"))
        return (("● READY", "online"),)


class TabRow(Bar):
    """The panes as tabs, where there is room for one at a time."""

    def update_tabs(self, tabs: Sequence[tuple[int, str]], active: int, wanted: str) -> None:
        """Show the tabs with the active one marked."""
        line: list[tuple[str, str]] = [(" ", "base")]
        for number, name in tabs:
            if number == active:
                line += [(f"[{number} {name}]", "focus"), ("  ", "base")]
            else:
                line += [(f" {number} ", "key"), (name, "dim"), ("   ", "base")]
        if wanted:
            line.append((f"/{printable(wanted, 20)}", "warn"))
        self.set_line(tuple(line))


class CoverageBar(Bar):
    """Every shard in one line: glyph, letter and colour, and the weakest by name."""

    MARKS: ClassVar[dict[str, tuple[str, str, str]]] = {
        "LOCAL": ("★", "LOC", "L"),
        "ONLINE": ("✓", "ON ", "O"),
        "OFFLINE": ("✗", "OFF", "F"),
    }

    def update_view(self, view: View) -> None:
        """Show the view."""
        state = view.state
        ids = list(state.shards)
        if not ids:
            self.set_line(())
            return
        statuses = {shard_id: state.status_of(shard_id) for shard_id in ids}
        holders = {
            shard_id: (shard.local.phase == "loaded")
            + sum(state.holder_answers(item) for item in shard.holders.values())
            for shard_id, shard in state.shards.items()
        }
        weakest = min(ids, key=lambda shard_id: (holders[shard_id], shard_id))
        good = sum(status != "OFFLINE" for status in statuses.values())
        weak_style = "offline" if not holders[weakest] else "dim"
        tail: Line = (
            (f"  {good}/{len(ids)} ", "strong"),
            (f" weakest {weakest} ×{holders[weakest]}", weak_style),
        )
        head: Line = ((" Shards ", "dim"),)
        room = self.size.width - _length(tail) - _length(head) - 1
        cells = self._cells(ids, statuses, room)
        self.set_line((*head, *cells, *tail))

    def _cells(self, ids: list[int], statuses: Mapping[int, str], room: int) -> list[Span]:
        digits = len(str(ids[-1]))
        count = len(ids)
        for form in ("wide", "short", "letter", "glyph"):
            cells: list[tuple[str, str]] = []
            for shard_id in ids:
                glyph, word, letter = self.MARKS[statuses[shard_id]]
                style = STATUS_STYLES[statuses[shard_id]]
                number = str(shard_id).rjust(digits)
                if form == "wide":
                    cells += [(f" {number}", "dim"), (f"{glyph}{word} ", style)]
                elif form == "short":
                    cells += [(number, "dim"), (f"{glyph}{letter} ", style)]
                elif form == "letter":
                    cells.append((f"{glyph}{letter}", style))
                else:
                    cells.append((glyph, style))
            if _length(cells) <= room:
                return cells
        per = -(-count // max(room, 1))
        order = ("OFFLINE", "LOCAL", "ONLINE")
        groups = [ids[start : start + per] for start in range(0, count, per)]
        worst = [min((statuses[i] for i in group), key=order.index) for group in groups]
        return [(self.MARKS[status][0], STATUS_STYLES[status]) for status in worst]


class CommandStrip(Bar):
    """The last command: what was sent, how it stands, and the same from a command line."""

    FILL = "bar"

    def update_view(self, view: View, entry: Entry | None, notice: str) -> None:
        """Show a notice if there is one, else the last command."""
        if notice:
            self.set_line(((f" {notice}", "bar"),))
            return
        if entry is None:
            self.set_line(((" No command sent yet. ? shows the keys.", "bar"),))
            return
        took = f" {milliseconds(entry.duration_ms)}" if entry.duration_ms is not None else ""
        if entry.waiting:
            took = f" {view.ages.ago(entry.at)}".replace(" now", "")
        mark = {"waiting": "…", "success": "✓"}.get(entry.status, "✗")
        status = (
            (f" #{entry.number} {entry.command} → {entry.target} ", "bar"),
            (f"{mark} {entry.status}{took} ", "bar"),
        )
        text = f"{entry.summary} {entry.next_step}".strip()
        room = self.size.width - _length(status)
        if entry.waiting or len(text) + len(entry.cli) + 6 < room:
            gap = f" {text}" if text else ""
            line: Line = (*status, (gap, "bar"), (f"  $ {entry.cli}", "bar"))
        else:
            line = (*status, (f" {text}", "bar"))
        self.set_line(line)


class KeyBar(Bar):
    """The keys, as many as fit, the most useful first."""

    def show_keys(self, keys: Sequence[tuple[str, str]]) -> None:
        """Show these keys."""
        line: list[tuple[str, str]] = []
        for key, title in keys:
            pair = [("  " if line else " ", "base"), (key, "key"), (f" {title}", "dim")]
            if _length(line) + _length(pair) <= self.size.width:
                line += pair
        self.set_line(tuple(line))
