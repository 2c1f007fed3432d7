"""DHT queries: what was asked, of how many, and how it came out."""

from __future__ import annotations

from math import inf

from swarmtui.panes.pane import Pane
from swarmtui.panes.view import View
from swarmtui.widgets.table import Column, Row
from swarmtui.widgets.text import DASH, milliseconds, printable

_OUTCOMES = {
    "running": "warn",
    "found": "good",
    "stored": "good",
    "missing": "dim",
    "partial": "warn",
    "failed": "bad",
}


class QueriesPane(Pane):
    NUMBER = 3
    NAME = "DHT queries"
    KIND = "query"
    FOLLOW_TOP = True
    COLUMNS = (
        Column("ID", 5, "right", drop=2),
        Column("KIND", 14, drop=1),
        Column("KEY", 12, grow=1, most=44),
        Column("ASKED", 5, "right"),
        Column("FOUND", 5, "right", drop=3),
        Column("TIME", 7, "right"),
        Column("OUTCOME", 8),
    )

    def build(self, view: View) -> list[Row]:
        rows = []
        for query in view.state.queries:
            running = query.duration_ms is None
            key = short_key(query.key, query.shard_id)
            rows.append(
                Row(
                    key=str(query.query_id),
                    cells=(
                        (str(query.query_id), "dim"),
                        (query.kind, "base"),
                        (key, "strong"),
                        (str(len(query.asked)) if not running else DASH, "base"),
                        (str(query.found) if not running else DASH, "base"),
                        (milliseconds(query.duration_ms) if not running else "…", "base"),
                        (query.outcome, _OUTCOMES.get(query.outcome, "base")),
                    ),
                    order=(
                        query.query_id,
                        query.kind,
                        key,
                        len(query.asked),
                        query.found,
                        inf if query.duration_ms is None else query.duration_ms,
                        query.outcome,
                    ),
                    rank=(not running, -query.query_id),
                )
            )
        return rows

    def counts(self, view: View, rows: list[Row]) -> str:
        total = view.state.counters
        live = sum(query.duration_ms is None for query in view.state.queries)
        mean = f" · mean {milliseconds(total.query_ms / total.queries)}" if total.queries else ""
        failed = f" · {total.queries_failed} failed" if total.queries_failed else ""
        return f"{live} live{mean}{failed}"

    def hint(self, view: View) -> tuple[str, ...]:
        return (
            "No DHT query yet.",
            "They begin with the first peer; press 2 to see whether there is one.",
        )


def short_key(key: str, shard_id: int | None) -> str:
    """A DHT key as an operator reads it: `shard/3`, `shard/3 12D3…Kq4f`, `swarm-ready`."""
    parts = [part for part in printable(key, 256).split("/") if part]
    if "shard" in parts:
        rest = parts[parts.index("shard") + 1 :]
        label = f"shard/{rest[0]}" if rest else "shard"
        return f"{label} {_short(rest[1])}" if len(rest) > 1 else label
    if "torrent" in parts:
        return f"torrent/{_short(parts[-1])}"
    if "swarm-ready" in parts:
        return "swarm-ready"
    if shard_id is not None:
        return f"shard/{shard_id}"
    return _short(parts[-1]) if parts else DASH


def _short(text: str) -> str:
    return text if len(text) <= 16 else f"{text[:4]}…{text[-4:]}"
