"""The log: what happened and what changed, as lines with the mission's tags and wording.

Pure: an event and the states around it give the same lines every time. Who writes them where is
`node.log_writer`'s business.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

# Imported for the words it registers.
from node import (
    events as ev,
    log_lines_swarm as log_lines_swarm,
    log_lines_torrents as log_lines_torrents,
)
from node.clean import clean
from node.log_lines import rows
from node.state import ShardStatus, State

LEVELS: dict[str, int] = {"debug": 0, "info": 1, "warning": 2, "error": 3}
MARKS: dict[ShardStatus, str] = {
    "LOCAL": "★ LOCAL",
    "ONLINE": "✓ ONLINE",
    "OFFLINE": "✗ OFFLINE",
}
REPORTED_SHARDS = 64
MAX_TEXT = 1200

_encoder = msgspec.json.Encoder()


class LogLine(msgspec.Struct, frozen=True):
    """One line: unix seconds, level (debug, info, warning, error), tag, printable text."""

    at: float
    level: str
    tag: str
    text: str


def lines(event: ev.Event, before: State, after: State) -> list[LogLine]:
    """The lines of one event and of the changes it made; empty for a type without words."""
    found = [*rows(event, before, after), *_changes(event, before, after)]
    return [LogLine(event.at, level, tag, clean(text, MAX_TEXT)) for level, tag, text in found]


def status_report(state: State, now: float) -> list[LogLine]:
    """The periodic [STATUS] report; `now` in unix seconds."""
    text = [f"Discovered Shards: {state.discovered}", "Shard Online Status:"]
    ids = list(state.shard_ids)
    text += [f"  Shard {i}: {shard_words(state, i, now)}" for i in ids[:REPORTED_SHARDS]]
    rest = ids[REPORTED_SHARDS:]
    if rest:
        offline = sum(state.status_of(i) == "OFFLINE" for i in rest)
        text.append(f"  … and {len(rest)} more, {offline} of them ✗ OFFLINE")
    connected = sum(peer.connected for peer in state.peers.values())
    answering = sum(peer.answering for peer in state.peers.values())
    text += [
        f"Pipeline Complete: {_yes(state.complete)}",
        f"Swarm Ready: {_yes(state.ready)}",
        f"Peers: {connected} connected, {answering} answering, {len(state.peers)} known",
    ]
    return [LogLine(now, "info", "STATUS", clean(item, MAX_TEXT)) for item in text]


def shard_words(state: State, shard_id: int, now: float) -> str:
    """`✓ ONLINE (1 holder)`: a shard's status and why it has it."""
    return f"{MARKS[state.status_of(shard_id)]} ({clean(state.why(shard_id, now), 80)})"


def format_text(line: LogLine) -> str:
    """`2025-12-27 14:03:07 [DHT] ✓ Discovered shard 1 …`, local time, no newline."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.at))
    return f"{stamp} [{clean(line.tag, 32)}] {line.text}"


def format_json(line: LogLine, event: ev.Event | None = None) -> str:
    """One JSON object: at, level, tag, text, and the event where the line tells of one."""
    record: dict[str, object] = {
        "at": line.at,
        "level": line.level,
        "tag": line.tag,
        "text": line.text,
    }
    if event is not None:
        record["event"] = event
    return _encoder.encode(record).decode()


def joined(found: Sequence[LogLine]) -> LogLine:
    """Several lines of one event as one: the highest level, the first tag, texts by newlines."""
    level = max((line.level for line in found), key=LEVELS.__getitem__)
    tag = found[0].tag
    text = [line.text if line.tag == tag else f"[{line.tag}] {line.text}" for line in found]
    return LogLine(found[0].at, level, tag, "\n".join(text))


# ---------------------------------------------------------------- what changed


def _changes(event: ev.Event, before: State, after: State) -> list[tuple[ev.Level, str, str]]:
    if before.node is None or after.node is None:
        return []
    found: list[tuple[ev.Level, str, str]] = []
    touched = _touched(event, before, after)
    if touched:
        old, new = before.discovered, after.discovered
        if old != new:
            found.append(("info", "STATUS", f"Discovered Shards: {old} → {new}"))
        for i in touched:
            was, now = before.status_of(i), after.status_of(i)
            if was != now:
                why = f" ({after.why(i, event.at)})" if now == "OFFLINE" else ""
                text = f"Shard {i}: {MARKS[was]} → {MARKS[now]}{why}"
                found.append(("info", "STATUS", text))
        if len(found) > REPORTED_SHARDS:
            rest = len(found) - REPORTED_SHARDS
            found[REPORTED_SHARDS:] = [("info", "STATUS", f"… and {rest} shards more")]
        complete = after.complete
        if before.complete != complete:
            if complete:
                text = "All required shards are now LOADED - swarm ready for inference"
                found.append(("info", "SHARD_LOADED", f"✓✓✓ {text} ✓✓✓"))
            found.append(("info", "STATUS", f"Pipeline Complete: {_turn(complete)}"))
    if before.ready != after.ready:
        found.append(("info", "STATUS", f"Swarm Ready: {_turn(after.ready)}"))
    return found


def _touched(event: ev.Event, before: State, after: State) -> list[int]:
    """The shards whose status may have changed. Most events touch none, and cost nothing here."""
    if before.shards is after.shards and before.peers is after.peers:
        return []
    touched = set()
    if before.shards is not after.shards:
        touched = {i for i, s in after.shards.items() if before.shards.get(i) is not s}
    peer_id = getattr(event, "peer_id", "")
    if before.peers is not after.peers and _answers(before, peer_id) != _answers(after, peer_id):
        touched |= {i for i, s in after.shards.items() if peer_id in s.holders}
    return sorted(touched)


def _answers(state: State, peer_id: str) -> bool:
    peer = state.peers.get(peer_id)
    return peer is not None and peer.answering


def _yes(value: bool) -> str:
    return "✓ YES" if value else "✗ NO"


def _turn(value: bool) -> str:
    return "✗ NO → ✓ YES" if value else "✓ YES → ✗ NO"
