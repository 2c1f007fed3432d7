"""What DHT, shards and messages read like in the log. See node.log_lines."""

from __future__ import annotations

from collections.abc import Iterator

from node import events as ev
from node.clean import clean
from node.log_lines import DEBUG, ERROR, INFO, WARNING, Row, on, peer_words
from node.state import State


def size_words(size: int) -> str:
    """A number of bytes as the mission writes it: `492.0 MB` (MiB)."""
    return f"{size / 2**20:.1f} MB" if size >= 2**20 else f"{size / 2**10:.1f} KB"


_BY_ITSELF = frozenset(["LIST_FILES", "SHARD_LOADED"])


def _sparse(count: int) -> bool:
    """Whether the `count`-th of a kind is worth a line: the first ten, then powers of ten."""
    return count <= 10 or str(count).strip("0") == "1"


# ---------------------------------------------------------------- DHT


@on(ev.DhtQueryStarted)
def _query(event: ev.DhtQueryStarted, before: State, after: State) -> Iterator[Row]:
    yield DEBUG, "DHT", f"[QUERY {event.query_id}] {event.kind} {clean(event.key, 200)}"


@on(ev.DhtQueryFinished)
def _queried(event: ev.DhtQueryFinished, before: State, after: State) -> Iterator[Row]:
    number = f"[QUERY {event.query_id}]"
    tail = f"{event.duration_ms:.0f} ms, {len(event.asked)} peers asked"
    shard = event.shard_id
    if event.outcome == "found" and shard is not None:
        # The queries repeat every few seconds: only the first find of a shard is news.
        again = any(item.shard_id == shard and item.outcome == "found" for item in before.queries)
        level = DEBUG if again else INFO
        yield level, "DHT", f"{number} ✓ Record found in DHT for shard {shard}"
        yield DEBUG, "DHT", f"{number} {tail}"
    elif event.outcome == "missing" and shard is not None:
        yield DEBUG, "DHT", f"{number} Record not found in DHT for shard {shard} ({tail})"
    else:
        why = f": {clean(event.detail)}" if event.detail else ""
        yield (
            DEBUG,
            "DHT",
            f"{number} {event.kind} {clean(event.key, 200)}: {event.outcome} ({tail}){why}",
        )


@on(ev.RoutingUpdated)
def _routing(event: ev.RoutingUpdated, before: State, after: State) -> Iterator[Row]:
    level = INFO if event.size > before.routing_size else DEBUG
    yield level, "DHT", f"Routing updated: {clean(event.peer_id, 128)}"


@on(ev.RecordRefused)
def _record_refused(event: ev.RecordRefused, before: State, after: State) -> Iterator[Row]:
    count = after.counters.records_refused
    yield (
        WARNING if _sparse(count) else DEBUG,
        "SECURITY",
        f"Refused a {event.source} record of peer {clean(event.peer_id, 128)}: field "
        f"{clean(event.field, 64)}: {clean(event.reason)} ({count} refused so far)",
    )


@on(ev.ShardAnnounced)
def _announced(event: ev.ShardAnnounced, before: State, after: State) -> Iterator[Row]:
    shard = before.shards.get(event.shard_id)
    if shard is None or not shard.local.announced_at:
        yield INFO, "DHT", f"✓✓✓ ANNOUNCED SHARD {event.shard_id} TO DHT ✓✓✓"
    yield (
        DEBUG,
        "DHT",
        f"Announcement {event.sequence} of shard {event.shard_id} "
        f"({'loaded' if event.loaded else 'not loaded'}) stored at {event.stored_at} peers",
    )


# ---------------------------------------------------------------- shards


@on(ev.ShardDiscovered)
def _discovered(event: ev.ShardDiscovered, before: State, after: State) -> Iterator[Row]:
    shard = before.shards.get(event.shard_id)
    news = shard is not None and event.peer_id not in shard.holders
    text = f"✓ Discovered shard {event.shard_id} from peer: {clean(event.peer_id, 128)}"
    yield INFO if news else DEBUG, "DHT", text


@on(ev.ShardForgotten)
def _forgotten(event: ev.ShardForgotten, before: State, after: State) -> Iterator[Row]:
    yield (
        INFO,
        "DHT",
        f"✗ Forgot shard {event.shard_id} of peer: {clean(event.peer_id, 128)} ({event.reason})",
    )


@on(ev.ShardFileFound)
def _file(event: ev.ShardFileFound, before: State, after: State) -> Iterator[Row]:
    yield (
        INFO,
        "SHARD",
        f"Found shard {event.shard_id}: {clean(event.path, 400)} ({size_words(event.size)}, "
        f"layers {event.layer_start}-{event.layer_end})",
    )


@on(ev.ShardFileMissing)
def _no_file(event: ev.ShardFileMissing, before: State, after: State) -> Iterator[Row]:
    sentence = f"{clean(event.sentence, 600)} {clean(event.next_step, 600)}".strip()
    yield WARNING, "SHARD", sentence


@on(ev.ShardLoading)
def _loading(event: ev.ShardLoading, before: State, after: State) -> Iterator[Row]:
    shard = before.shards.get(event.shard_id)
    first = shard is None or shard.local.phase != "loading"
    text = f"Loading shard {event.shard_id}: {event.progress * 100:.0f} %"
    yield INFO if first else DEBUG, "SHARD_LOADER", text


@on(ev.ShardLoaded)
def _loaded(event: ev.ShardLoaded, before: State, after: State) -> Iterator[Row]:
    yield (
        INFO,
        "SHARD_LOADER",
        f"✓ Shard {event.shard_id} is LOADED: {clean(event.model_name, 100)}, layers "
        f"{event.layer_start}-{event.layer_end}, {size_words(event.size)}, "
        f"{event.seconds:.2f} s",
    )


@on(ev.ShardLoadFailed)
def _load_failed(event: ev.ShardLoadFailed, before: State, after: State) -> Iterator[Row]:
    sentence = f"{clean(event.sentence, 600)} {clean(event.next_step, 600)}".strip()
    yield ERROR, "SHARD_LOADER", f"✗ Shard {event.shard_id}: {sentence}"
    if event.detail:
        yield DEBUG, "SHARD_LOADER", f"  {clean(event.detail, 900)}"


@on(ev.ShardUnloaded)
def _unloaded(event: ev.ShardUnloaded, before: State, after: State) -> Iterator[Row]:
    yield INFO, "SHARD_LOADER", f"Shard {event.shard_id} unloaded: {clean(event.reason)}"


# ---------------------------------------------------------------- messages and commands


@on(ev.CommandSent)
def _sent(event: ev.CommandSent, before: State, after: State) -> Iterator[Row]:
    # What nodes ask each other by themselves, over and over, is no news.
    quiet = event.origin == "again" or (event.command in _BY_ITSELF and event.origin == "node")
    level = DEBUG if quiet else INFO
    if event.command == "SYNC_TORRENTS" and event.origin == "node":
        yield (
            INFO,
            "TORRENT_SYNC",
            "🔄 Initiating automatic torrent synchronization with rendezvous server...",
        )
    yield level, "MSG", f"📤 SENT MESSAGE TO PEER: {clean(event.to, 128)}"
    if event.command != "MESSAGE":
        yield level, "MSG", f"  Command: {clean(event.command, 64)}"
    yield level, "MSG", f"  Request ID: {clean(event.request_id, 128)}"
    if event.summary:
        yield level, "MSG", f"  Message: {clean(event.summary, 400)}"


@on(ev.CommandAnswered)
def _answered(event: ev.CommandAnswered, before: State, after: State) -> Iterator[Row]:
    good = event.status == "success"
    text = (
        f"{'✓' if good else '✗'} {clean(event.command, 64)} to peer {clean(event.peer_id, 128)}: "
        f"{event.status} after {event.duration_ms:.0f} ms: {clean(event.summary, 400)}"
    )
    sent = next((row for row in before.commands if row.request_id == event.request_id), None)
    repeated = sent is not None and sent.origin == "again"
    level = DEBUG if repeated or event.command in _BY_ITSELF else INFO
    yield level if good else WARNING, "RESPONSE", text
    if event.detail:
        yield DEBUG, "RESPONSE", f"  {clean(event.detail, 900)}"


@on(ev.CommandReceived)
def _received(event: ev.CommandReceived, before: State, after: State) -> Iterator[Row]:
    level = DEBUG if event.command in _BY_ITSELF else INFO
    yield level, "MSG", f"📥 RECEIVED MESSAGE FROM PEER: {clean(event.peer_id, 128)}"
    yield level, "MSG", f"  Command: {clean(event.command, 64)}"
    if event.summary:
        yield level, "MSG", f"  Message: {clean(event.summary, 400)}"
    if event.command == "SYNC_TORRENTS":
        yield (
            INFO,
            "TORRENT_SYNC",
            f"📥 Received SYNC_TORRENTS request from {clean(event.peer_id, 128)}",
        )


@on(ev.CommandServed)
def _served(event: ev.CommandServed, before: State, after: State) -> Iterator[Row]:
    good = event.status == "success"
    yield (
        DEBUG if good else INFO,
        "COMMAND",
        f"{'✓' if good else '✗'} Answered {clean(event.command, 64)} of peer "
        f"{clean(event.peer_id, 128)} in {event.duration_ms:.0f} ms: {clean(event.summary, 400)}",
    )


@on(ev.MessageReceived)
def _message(event: ev.MessageReceived, before: State, after: State) -> Iterator[Row]:
    yield INFO, "MSG", f"📥 RECEIVED MESSAGE FROM PEER: {clean(event.peer_id, 128)}"
    yield INFO, "MSG", f"  From: {peer_words(after, event.peer_id)}"
    yield INFO, "MSG", f"  Message: {clean(event.text, 600)}"


@on(ev.MessageRefused)
def _message_refused(event: ev.MessageRefused, before: State, after: State) -> Iterator[Row]:
    count = after.counters.messages_refused
    yield (
        WARNING if _sparse(count) else DEBUG,
        "SECURITY",
        f"Refused a message of peer {clean(event.peer_id, 128)}: field {clean(event.field, 64)}: "
        f"{clean(event.reason)} ({count} refused so far)",
    )
