"""Torrents: shard files on their way here, on this node's disk and at peers."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from node.state import Torrent
from swarmtui import transfers
from swarmtui.amounts import DASH, bar, left, percent, plural, rate, ratio, size
from swarmtui.panes.pane import Pane
from swarmtui.panes.view import View, rates
from swarmtui.widgets.table import Column, Row
from swarmtui.widgets.text import Span, printable

BAR_CELLS = 6


class TorrentsPane(Pane):
    NUMBER = 4
    NAME = "Torrents"
    KIND = "torrent"
    COLUMNS = (
        Column("FILE", 12, grow=3, most=40),
        Column("SHARD", 5, "right", drop=4),
        Column("SIZE", 8, "right", drop=3),
        Column("STATE", 11),
        Column("PROGRESS", 12),
        Column("PIECES", 9, "right", drop=6),
        Column("DOWN", 10, "right"),
        Column("UP", 10, "right", drop=5),
        Column("RATIO", 5, "right", drop=7),
        Column("SRC", 4, "right", drop=2),
        Column("ETA", 4, "right", drop=1),
        Column("WHY", 8, drop=8, grow=9, most=80),
        Column("INFO HASH", 9, drop=9, grow=1, most=64),
    )

    _reasons: Mapping[str, str] = {}

    def build(self, view: View) -> list[Row]:
        items = view.state.torrents.values()
        self._reasons = {item.info_hash: transfers.trouble(item) for item in items}
        return [_row(item) for item in items]

    def notes(self) -> list[str]:
        # The column that says why is the first to go where it is narrow.
        reason = self._reasons.get(self.cursor or "", "")
        return [*super().notes(), *([reason] if reason else [])]

    def counts(self, view: View, rows: list[Row]) -> str:
        items = view.state.torrents.values()
        if not rows:
            return "none"
        moving = sum(item.moving for item in items)
        here = sum(item.local and not item.moving for item in items)
        down, up = (rate(value) if value >= 1 else "" for value in rates(view))
        parts = [f"{moving} moving{f' ↓{down}' if down else ''}"] if moving else []
        parts.append(f"{here} here{f' ↑{up}' if up else ''}")
        if not down and not up:
            parts.append(f"{len(rows)} known")
        return " · ".join(parts)

    def hint(self, view: View) -> tuple[str, ...]:
        node = view.state.node
        where = printable(node.shards_dir, 200) if node is not None else "the shards folder"
        return (
            "No shard file is known.",
            f"Put shard files into {where}: they are offered to the others.",
            "Or cut a model: swarmtui split MODEL.gguf --shards N --out DIR",
            "Files that peers have appear here by themselves; D downloads one.",
        )


def progress(item: Torrent, cells: int = BAR_CELLS) -> str:
    """A bar and a percentage; a dash where there is nothing to measure."""
    done = transfers.share(item)
    if done is None or (done >= 1 and not item.moving):
        return DASH
    filled, rest = bar(done, cells)
    return f"{filled}{rest}{percent(done):>6}"


def _row(item: Torrent) -> Row:
    name = printable(item.filename, 128)
    shard_id = transfers.shard_of(item)
    word, style = transfers.state_word(item)
    if item.phase == "seeding" and item.upload_peers:
        word = f"{word} ↑{min(len(item.upload_peers), 99)}"
    done = transfers.share(item)
    reason = transfers.trouble(item)
    moving = item.moving
    down_rate, eta_s = transfers.down_rate(item), transfers.time_left(item)
    down, up = rate(down_rate), rate(item.rate_up)
    cells: tuple[Span, ...] = (
        (name, "strong"),
        (str(shard_id) if shard_id is not None else DASH, "base"),
        (size(item.size), "base"),
        (word, style),
        (progress(item), style if moving else "base"),
        (transfers.pieces_words(item) if item.phase else DASH, "base"),
        (down, "strong" if down != DASH else "dim"),
        (up, "strong" if up != DASH else "dim"),
        (ratio(item.ratio), "base"),
        (transfers.sources_words(item), "base"),
        (left(eta_s), "base"),
        (reason or DASH, "warn" if reason else "dim"),
        (transfers.hash_words(item), "dim"),
    )
    return Row(
        key=item.info_hash,
        cells=cells,
        order=(
            name,
            shard_id or 0,
            item.size,
            word,
            -1.0 if done is None else done,
            item.pieces_done,
            down_rate,
            item.rate_up,
            item.ratio,
            len(item.sources) if moving else len(item.peers),
            inf if eta_s is None else eta_s,
            reason,
            item.info_hash,
        ),
        rank=transfers.rank(item),
    )


def places(item: Torrent) -> str:
    """Where a file lies: on the disk, at how many peers, or nowhere that is known."""
    count = len(transfers.peers_of(item))
    peers = plural(count, "peer")
    if item.local:
        return f"on this node's disk and at {peers}" if count else "on this node's disk"
    if item.offers:
        return f"at peers, in {len(item.offers)} different contents"
    return f"at {peers}" if count else "nobody offers it"
