"""Torrents: shard files on this node's disk and at peers, with their info hashes."""

from __future__ import annotations

import re

from swarmtui.panes.pane import Pane
from swarmtui.panes.view import View
from swarmtui.widgets.table import Column, Row
from swarmtui.widgets.text import DASH, printable, size

_NAMED = re.compile(r"shard-(\d{1,4})\.gguf", re.ASCII)


class TorrentsPane(Pane):
    NUMBER = 4
    NAME = "Torrents"
    KIND = "torrent"
    COLUMNS = (
        Column("FILE", 14, grow=3, most=40),
        Column("SHARD", 5, "right"),
        Column("SIZE", 9, "right", drop=1),
        Column("WHERE", 9, grow=1, most=20),
        Column("INFO HASH", 9, drop=2, grow=2, most=64),
    )

    def build(self, view: View) -> list[Row]:
        rows = []
        for item in view.state.torrents.values():
            where = places(item.local, len(item.peers))
            name = printable(item.filename, 128)
            shard_id = item.shard_id if item.shard_id is not None else named_shard(name)
            number = str(shard_id) if shard_id is not None else DASH
            rows.append(
                Row(
                    key=item.info_hash,
                    cells=(
                        (name, "strong"),
                        (number, "base"),
                        (size(item.size), "base"),
                        (where, "local" if item.local else "online"),
                        (item.info_hash, "dim"),
                    ),
                    order=(name, shard_id or 0, item.size, where, item.info_hash),
                    rank=(not item.local, shard_id is None, shard_id or 0, name),
                )
            )
        return rows

    def counts(self, view: View, rows: list[Row]) -> str:
        here = sum(item.local for item in view.state.torrents.values())
        return f"{here} here · {len(rows)} known" if rows else "none"

    def hint(self, view: View) -> tuple[str, ...]:
        node = view.state.node
        where = printable(node.shards_dir, 200) if node is not None else "the shards folder"
        return (
            "No shard file is known.",
            f"Put shard files into {where},",
            "or cut a model: swarmtui split MODEL.gguf --shards N --out DIR",
        )


def named_shard(filename: str) -> int | None:
    """The shard a file is by its name, `shard-3.gguf`; a peer's list tells nothing more."""
    match = _NAMED.fullmatch(filename)
    return int(match.group(1)) if match else None


def places(local: bool, peers: int) -> str:
    """Where a file lies: `here`, `here +2`, `3 peers`."""
    if local:
        return f"here +{peers}" if peers else "here"
    return f"{peers} peer{'s' * (peers != 1)}" if peers else DASH
