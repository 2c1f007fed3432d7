"""What a node knows of files, as a table for people and as values for machines."""

from __future__ import annotations

from typing import Any

import msgspec

from node.clean import clean
from node.state import State, Torrent
from swarmtui import transfers
from swarmtui.amounts import DASH, left, percent, rate, ratio, size

_HEAD = ("FILE", "SHARD", "SIZE", "STATE", "DONE", "DOWN", "UP", "RATIO", "SRC", "ETA", "INFO HASH")
_RIGHT = frozenset((1, 2, 4, 5, 6, 7, 8, 9))
_LONGEST_NAME = 48


def as_table(state: State) -> str:
    """The files, one in a line, with the reason and the next step below those that need it."""
    items = transfers.ordered(state.torrents.values())
    if not items:
        where = clean(state.node.shards_dir, 300) if state.node is not None else "its shards folder"
        return f"The node knows of no file. Put shard files into {where}."
    rows = [_cells(item) for item in items]
    widths = [max(len(row[i]) for row in (_HEAD, *rows)) for i in range(len(_HEAD))]
    lines = [_line(_HEAD, widths)]
    for item, row in zip(items, rows, strict=True):
        lines.append(_line(row, widths))
        if reason := transfers.trouble(item):
            lines.append(f"    {reason}")
            lines += [f"    → {clean(item.next_step, 600)}"] if item.next_step else []
            what = transfers.what_of(state, item)
            lines += [f"    {text}" for text in offer_lines(what, item)]
    return "\n".join(lines)


def offer_lines(what: str, item: Torrent) -> list[str]:
    """For each of two contents of one name, what is told of it and the command that takes it."""
    lines = []
    for root, words in map(transfers.offer_parts, item.offers):
        told = f"  # {words}" if words else ""
        lines.append(f"swarmtui torrent get {what}@{root}{told}" if root else words)
    return lines


def _cells(item: Torrent) -> tuple[str, ...]:
    shard_id = transfers.shard_of(item)
    done = transfers.share(item)
    word, _ = transfers.state_word(item)
    return (
        clean(item.filename, _LONGEST_NAME),
        DASH if shard_id is None else str(shard_id),
        size(item.size),
        word,
        DASH if done is None else percent(done),
        rate(transfers.down_rate(item)),
        rate(item.rate_up),
        ratio(item.ratio),
        transfers.sources_words(item),
        left(transfers.time_left(item)),
        transfers.hash_words(item)[:16],
    )


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    parts = [
        text.rjust(width) if number in _RIGHT else text.ljust(width)
        for number, (text, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(parts).rstrip()


def as_values(state: State) -> dict[str, Any]:
    """The same ready for JSON: sizes in bytes, rates in bytes per second, times in seconds.

    info_hash is None while nobody named the size, pin is name@root or None; sources, peers and
    reasons are as in the state.
    """
    node = state.node
    return {
        "name": node.name if node is not None else "",
        "peer_id": node.peer_id if node is not None else "",
        "files": [_values(item) for item in transfers.ordered(state.torrents.values())],
    }


def _values(item: Torrent) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(item)
    pending = item.info_hash.startswith(transfers.PENDING)
    return {
        **values,
        "info_hash": None if pending else item.info_hash,
        "shard_id": transfers.shard_of(item),
        "state": transfers.state_word(item)[0],
        "share": transfers.share(item),
        "ratio": round(item.ratio, 4),
        "pin": transfers.pin_of(item) or None,
    }
