"""Shards: LOCAL, ONLINE or OFFLINE, and why."""

from __future__ import annotations

from math import inf

from swarmtui.panes.pane import Pane
from swarmtui.panes.view import (
    STATUS_RANK,
    STATUS_STYLES,
    STATUS_WORDS,
    View,
    answering,
    shard_layers,
    shard_size,
    why,
)
from swarmtui.widgets.table import Column, Row
from swarmtui.widgets.text import DASH, layers, milliseconds, peer_name, size


class ShardsPane(Pane):
    NUMBER = 1
    NAME = "Shards"
    KIND = "shard"
    COLUMNS = (
        Column("STATUS", 9),
        Column("SHARD", 5, "right"),
        Column("LAYERS", 7, "right", drop=2),
        Column("SIZE", 9, "right", drop=3),
        Column("HOLD", 4, "right"),
        Column("BEST PEER", 9),
        Column("RTT", 6, "right", drop=1),
        Column("WHY", 13, grow=1, most=40),
        Column("SINCE", 5, "right", drop=4),
    )

    def build(self, view: View) -> list[Row]:
        state = view.state
        rows = []
        for shard in state.shards.values():
            status = state.status_of(shard.shard_id)
            near = answering(state, shard)
            local = shard.local.phase == "loaded"
            holders = len(near) + local
            best = "this node" if local else peer_name(near[0][1].peer_id) if near else DASH
            rtt = near[0][1].rtt_ms if near and not local else None
            start, end = shard_layers(shard)
            length = shard_size(shard)
            reason = why(view, shard.shard_id)
            style = STATUS_STYLES[status]
            rows.append(
                Row(
                    key=str(shard.shard_id),
                    cells=(
                        (STATUS_WORDS[status], style),
                        (str(shard.shard_id), "strong"),
                        (layers(start, end), "base"),
                        (size(length), "base"),
                        (str(holders), "base" if holders else "offline"),
                        (best, "base"),
                        (milliseconds(rtt), "base"),
                        (reason, "dim" if status != "OFFLINE" else "warn"),
                        (view.ages.ago(shard.changed_at), "dim"),
                    ),
                    order=(
                        STATUS_RANK[status],
                        shard.shard_id,
                        start,
                        length,
                        holders,
                        best,
                        inf if rtt is None else rtt,
                        reason,
                        -shard.changed_at,
                    ),
                    rank=(STATUS_RANK[status] > 0, shard.shard_id),
                )
            )
        return rows

    def counts(self, view: View, rows: list[Row]) -> str:
        statuses = [view.state.status_of(shard_id) for shard_id in view.state.shards]
        parts = [
            f"{glyph}{count}"
            for glyph, word in (("★", "LOCAL"), ("✓", "ONLINE"), ("✗", "OFFLINE"))
            if (count := statuses.count(word))  # type: ignore[arg-type]
        ]
        return " ".join(parts)

    def hint(self, view: View) -> tuple[str, ...]:
        return (
            "This node knows of no shard.",
            "Start it with --total-shards N, or press 2 to see whom it is connected to.",
        )
