"""What each event reads like in the log, in the mission's words. One function per event type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from node import events as ev
from node.clean import clean
from node.state import State

RULE = "\u2550" * 75
INFO: ev.Level = "info"
DEBUG: ev.Level = "debug"
WARNING: ev.Level = "warning"
ERROR: ev.Level = "error"

Row = tuple[ev.Level, str, str]
"""Level, tag and text of one line."""

E = TypeVar("E", bound=ev.Event)
_WORDS: dict[type[ev.Event], Callable[[Any, State, State], Iterator[Row]]] = {}


def rows(event: ev.Event, before: State, after: State) -> Iterator[Row]:
    """The lines of one event, without the changes of status it caused."""
    words = _WORDS.get(type(event))
    if words is not None:
        yield from words(event, before, after)


def _on(
    kind: type[E],
) -> Callable[
    [Callable[[E, State, State], Iterator[Row]]], Callable[[E, State, State], Iterator[Row]]
]:
    def register(
        words: Callable[[E, State, State], Iterator[Row]],
    ) -> Callable[[E, State, State], Iterator[Row]]:
        _WORDS[kind] = words
        return words

    return register


def _peer_words(state: State, peer_id: str) -> str:
    """The peer id in full, with the shards it announces: `12D3… (shard 1 node)`."""
    held = [str(i) for i, shard in sorted(state.shards.items()) if peer_id in shard.holders][:8]
    words = clean(peer_id, 128)
    if held:
        return f"{words} ({'shard' if len(held) == 1 else 'shards'} {', '.join(held)} node)"
    peer = state.peers.get(peer_id)
    return f"{words} (rendezvous node)" if peer is not None and peer.bootstrap else words


def _sparse(count: int) -> bool:
    """Whether the `count`-th of a kind is worth a line: the first ten, then powers of ten."""
    return count <= 10 or str(count).strip("0") == "1"


# ---------------------------------------------------------------- the node itself


@_on(ev.NodeStarted)
def _started(event: ev.NodeStarted, before: State, after: State) -> Iterator[Row]:
    kind = "Rendezvous node" if event.role == "rendezvous" else "Node"
    yield INFO, "SERVER", f"{kind} {event.name}, swarmtui {event.version}"
    yield INFO, "SERVER", f"  Peer ID: {event.peer_id}"
    yield INFO, "SERVER", f"  Cluster: {event.cluster}"
    if event.role == "node":
        held = ", ".join(str(item) for item in event.own_shards) or "none (observer)"
        yield INFO, "SERVER", f"  Shards: {held} of {event.total_shards}"
        yield INFO, "SERVER", f"  Shard files: {clean(event.shards_dir, 400)}"
    yield DEBUG, "SERVER", f"  Data: {clean(event.data_dir, 400)}"


@_on(ev.NodeListening)
def _listening(event: ev.NodeListening, before: State, after: State) -> Iterator[Row]:
    for address in event.addresses:
        yield INFO, "LISTEN", f"Listening on {clean(address, 400)}"


@_on(ev.NodeAlone)
def _alone(event: ev.NodeAlone, before: State, after: State) -> Iterator[Row]:
    yield INFO, "SWARM", "No other node found: this is a swarm of one."
    yield INFO, "SWARM", f"The next node joins with: {clean(event.join_command, 600)}"


@_on(ev.NodeStopping)
def _stopping(event: ev.NodeStopping, before: State, after: State) -> Iterator[Row]:
    yield INFO, "SERVER", f"Leaving the swarm: {clean(event.reason)}"


@_on(ev.NodeStopped)
def _stopped(event: ev.NodeStopped, before: State, after: State) -> Iterator[Row]:
    yield INFO, "SERVER", "Stopped"


@_on(ev.Problem)
def _problem(event: ev.Problem, before: State, after: State) -> Iterator[Row]:
    sentence = f"{clean(event.sentence, 600)} {clean(event.next_step, 600)}".strip()
    yield event.level, clean(event.tag, 32), sentence
    if event.detail:
        yield DEBUG, clean(event.tag, 32), f"  {clean(event.detail, 900)}"


# ---------------------------------------------------------------- peers


@_on(ev.BootstrapConnected)
def _bootstrap(event: ev.BootstrapConnected, before: State, after: State) -> Iterator[Row]:
    yield INFO, "CONNECT", RULE
    yield INFO, "CONNECT", "✓✓✓ CONNECTED TO BOOTSTRAP NODE ✓✓✓"
    yield INFO, "CONNECT", f"  Peer ID: {clean(event.peer_id, 128)}"
    yield INFO, "CONNECT", f"  Address: {clean(event.address, 400)}"


@_on(ev.BootstrapLost)
def _bootstrap_lost(event: ev.BootstrapLost, before: State, after: State) -> Iterator[Row]:
    known = before.bootstraps.get(event.address)
    # Said when it is lost; every failed redial after that only for who asks for details.
    news = known is None or known.connected or known.reason != event.reason
    yield (
        WARNING if news else DEBUG,
        "BOOTSTRAP",
        f"Bootstrap node {clean(event.address, 400)} does not answer: {clean(event.reason)}; "
        f"dialled again in {event.retry_in_s:.0f} s",
    )


@_on(ev.PeerFound)
def _found(event: ev.PeerFound, before: State, after: State) -> Iterator[Row]:
    where = ", ".join(clean(item, 200) for item in event.addresses[:4])
    yield DEBUG, "DISCOVERY", f"Found peer {clean(event.peer_id, 128)} by {event.source}: {where}"


@_on(ev.PeerDialing)
def _dialing(event: ev.PeerDialing, before: State, after: State) -> Iterator[Row]:
    yield (
        INFO,
        "DISCOVERY",
        f"📡 Dialing discovered peer {clean(event.peer_id, 128)} "
        f"using {event.transport.upper()} transport",
    )
    yield DEBUG, "DISCOVERY", f"  Address: {clean(event.address, 400)}"


@_on(ev.PeerDialFailed)
def _dial_failed(event: ev.PeerDialFailed, before: State, after: State) -> Iterator[Row]:
    again = f"; dialled again in {event.retry_in_s:.0f} s" if event.retry_in_s else ""
    yield (
        INFO,
        "DISCOVERY",
        f"✗ Could not reach peer {clean(event.peer_id, 128)} over {event.transport.upper()}: "
        f"{clean(event.reason)}{again}",
    )


@_on(ev.PeerConnected)
def _connected(event: ev.PeerConnected, before: State, after: State) -> Iterator[Row]:
    known = before.peers.get(event.peer_id)
    if known is not None and known.connected:
        yield (
            DEBUG,
            "CONNECT",
            f"Peer {clean(event.peer_id, 128)} is now reached over {event.transport.upper()} too",
        )
        return
    yield INFO, "CONNECT", "✓✓✓ CONNECTED TO PEER ✓✓✓"
    yield INFO, "CONNECT", f"  Peer ID: {_peer_words(after, event.peer_id)}"
    yield INFO, "CONNECT", f"  Transport: {event.transport.upper()}"
    yield INFO, "CONNECT", f"  Address: {clean(event.address, 400)}"


@_on(ev.PeerDisconnected)
def _disconnected(event: ev.PeerDisconnected, before: State, after: State) -> Iterator[Row]:
    if event.remaining:
        yield (
            DEBUG,
            "DISCONNECT",
            f"Peer {clean(event.peer_id, 128)} closed {event.transport.upper()}; "
            f"{', '.join(event.remaining).upper()} stays open",
        )
    else:
        yield INFO, "DISCONNECT", f"Peer disconnected: {_peer_words(before, event.peer_id)}"


@_on(ev.PeerIdentified)
def _identified(event: ev.PeerIdentified, before: State, after: State) -> Iterator[Row]:
    yield (
        DEBUG,
        "IDENTIFY",
        f"Peer {clean(event.peer_id, 128)} runs {clean(event.agent, 100)}, "
        f"{len(event.protocols)} protocols",
    )


@_on(ev.PeerHeard)
def _heard(event: ev.PeerHeard, before: State, after: State) -> Iterator[Row]:
    trip = "" if event.rtt_ms is None else f" in {event.rtt_ms:.1f} ms"
    yield DEBUG, "P2P", f"Peer {clean(event.peer_id, 128)} answered{trip}"


@_on(ev.PeerSilent)
def _silent(event: ev.PeerSilent, before: State, after: State) -> Iterator[Row]:
    since = f"silent for {event.silent_s:.0f} s" if event.silent_s >= 1 else "does not answer"
    who = _peer_words(after, event.peer_id)
    yield WARNING, "P2P", f"Peer {since}: {who}: {clean(event.reason)}"


@_on(ev.PeerQuarantined)
def _quarantined(event: ev.PeerQuarantined, before: State, after: State) -> Iterator[Row]:
    yield (
        INFO,
        "P2P",
        f"Peer {clean(event.peer_id, 128)} is left out of DHT work for "
        f"{max(event.until - event.at, 0):.0f} s: {clean(event.reason)}",
    )


@_on(ev.PeerReleased)
def _released(event: ev.PeerReleased, before: State, after: State) -> Iterator[Row]:
    yield INFO, "P2P", f"Peer {clean(event.peer_id, 128)} answers again"


@_on(ev.PeerGone)
def _gone(event: ev.PeerGone, before: State, after: State) -> Iterator[Row]:
    yield INFO, "DISCONNECT", f"Peer left: {_peer_words(before, event.peer_id)}: " + clean(
        event.reason
    )


# ---------------------------------------------------------------- DHT


@_on(ev.DhtQueryStarted)
def _query(event: ev.DhtQueryStarted, before: State, after: State) -> Iterator[Row]:
    yield DEBUG, "DHT", f"[QUERY {event.query_id}] {event.kind} {clean(event.key, 200)}"


@_on(ev.DhtQueryFinished)
def _queried(event: ev.DhtQueryFinished, before: State, after: State) -> Iterator[Row]:
    number = f"[QUERY {event.query_id}]"
    tail = f"{event.duration_ms:.0f} ms, {len(event.asked)} peers asked"
    shard = event.shard_id
    if event.outcome == "found" and shard is not None:
        # The queries repeat every few seconds: only the first find of a shard is news.
        again = any(
            item.shard_id == shard and item.outcome == "found" for item in before.queries
        )
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


@_on(ev.RoutingUpdated)
def _routing(event: ev.RoutingUpdated, before: State, after: State) -> Iterator[Row]:
    level = INFO if event.size > before.routing_size else DEBUG
    yield level, "DHT", f"Routing updated: {clean(event.peer_id, 128)}"


@_on(ev.RecordRefused)
def _record_refused(event: ev.RecordRefused, before: State, after: State) -> Iterator[Row]:
    count = after.counters.records_refused
    yield (
        WARNING if _sparse(count) else DEBUG,
        "SECURITY",
        f"Refused a {event.source} record of peer {clean(event.peer_id, 128)}: field "
        f"{clean(event.field, 64)}: {clean(event.reason)} ({count} refused so far)",
    )


@_on(ev.ShardAnnounced)
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


@_on(ev.ShardDiscovered)
def _discovered(event: ev.ShardDiscovered, before: State, after: State) -> Iterator[Row]:
    shard = before.shards.get(event.shard_id)
    news = shard is not None and event.peer_id not in shard.holders
    text = f"✓ Discovered shard {event.shard_id} from peer: {clean(event.peer_id, 128)}"
    yield INFO if news else DEBUG, "DHT", text


@_on(ev.ShardForgotten)
def _forgotten(event: ev.ShardForgotten, before: State, after: State) -> Iterator[Row]:
    yield (
        INFO,
        "DHT",
        f"✗ Forgot shard {event.shard_id} of peer: {clean(event.peer_id, 128)} ({event.reason})",
    )


@_on(ev.ShardFileFound)
def _file(event: ev.ShardFileFound, before: State, after: State) -> Iterator[Row]:
    yield (
        INFO,
        "SHARD",
        f"Found shard {event.shard_id}: {clean(event.path, 400)} ({size_words(event.size)}, "
        f"layers {event.layer_start}-{event.layer_end})",
    )


@_on(ev.ShardFileMissing)
def _no_file(event: ev.ShardFileMissing, before: State, after: State) -> Iterator[Row]:
    sentence = f"{clean(event.sentence, 600)} {clean(event.next_step, 600)}".strip()
    yield WARNING, "SHARD", sentence


@_on(ev.ShardLoading)
def _loading(event: ev.ShardLoading, before: State, after: State) -> Iterator[Row]:
    shard = before.shards.get(event.shard_id)
    first = shard is None or shard.local.phase != "loading"
    text = f"Loading shard {event.shard_id}: {event.progress * 100:.0f} %"
    yield INFO if first else DEBUG, "SHARD_LOADER", text


@_on(ev.ShardLoaded)
def _loaded(event: ev.ShardLoaded, before: State, after: State) -> Iterator[Row]:
    yield (
        INFO,
        "SHARD_LOADER",
        f"✓ Shard {event.shard_id} is LOADED: {clean(event.model_name, 100)}, layers "
        f"{event.layer_start}-{event.layer_end}, {size_words(event.size)}, "
        f"{event.seconds:.2f} s",
    )


@_on(ev.ShardLoadFailed)
def _load_failed(event: ev.ShardLoadFailed, before: State, after: State) -> Iterator[Row]:
    sentence = f"{clean(event.sentence, 600)} {clean(event.next_step, 600)}".strip()
    yield ERROR, "SHARD_LOADER", f"✗ Shard {event.shard_id}: {sentence}"
    if event.detail:
        yield DEBUG, "SHARD_LOADER", f"  {clean(event.detail, 900)}"


@_on(ev.ShardUnloaded)
def _unloaded(event: ev.ShardUnloaded, before: State, after: State) -> Iterator[Row]:
    yield INFO, "SHARD_LOADER", f"Shard {event.shard_id} unloaded: {clean(event.reason)}"


# ---------------------------------------------------------------- messages and commands


@_on(ev.CommandSent)
def _sent(event: ev.CommandSent, before: State, after: State) -> Iterator[Row]:
    if event.command == "SYNC_TORRENTS" and event.origin == "node":
        yield (
            INFO,
            "TORRENT_SYNC",
            "🔄 Initiating automatic torrent synchronization with rendezvous server...",
        )
    yield INFO, "MSG", f"📤 SENT MESSAGE TO PEER: {clean(event.to, 128)}"
    if event.command != "MESSAGE":
        yield INFO, "MSG", f"  Command: {clean(event.command, 64)}"
    yield INFO, "MSG", f"  Request ID: {clean(event.request_id, 128)}"
    if event.summary:
        yield INFO, "MSG", f"  Message: {clean(event.summary, 400)}"


@_on(ev.CommandAnswered)
def _answered(event: ev.CommandAnswered, before: State, after: State) -> Iterator[Row]:
    good = event.status == "success"
    text = (
        f"{'✓' if good else '✗'} {clean(event.command, 64)} to peer {clean(event.peer_id, 128)}: "
        f"{event.status} after {event.duration_ms:.0f} ms: {clean(event.summary, 400)}"
    )
    yield INFO if good else WARNING, "RESPONSE", text
    if event.detail:
        yield DEBUG, "RESPONSE", f"  {clean(event.detail, 900)}"


@_on(ev.CommandReceived)
def _received(event: ev.CommandReceived, before: State, after: State) -> Iterator[Row]:
    yield INFO, "MSG", f"📥 RECEIVED MESSAGE FROM PEER: {clean(event.peer_id, 128)}"
    yield INFO, "MSG", f"  Command: {clean(event.command, 64)}"
    if event.summary:
        yield INFO, "MSG", f"  Message: {clean(event.summary, 400)}"
    if event.command == "SYNC_TORRENTS":
        yield (
            INFO,
            "TORRENT_SYNC",
            f"📥 Received SYNC_TORRENTS request from {clean(event.peer_id, 128)}",
        )


@_on(ev.CommandServed)
def _served(event: ev.CommandServed, before: State, after: State) -> Iterator[Row]:
    good = event.status == "success"
    yield (
        DEBUG if good else INFO,
        "COMMAND",
        f"{'✓' if good else '✗'} Answered {clean(event.command, 64)} of peer "
        f"{clean(event.peer_id, 128)} in {event.duration_ms:.0f} ms: {clean(event.summary, 400)}",
    )


@_on(ev.MessageReceived)
def _message(event: ev.MessageReceived, before: State, after: State) -> Iterator[Row]:
    yield INFO, "MSG", f"📥 RECEIVED MESSAGE FROM PEER: {clean(event.peer_id, 128)}"
    yield INFO, "MSG", f"  From: {_peer_words(after, event.peer_id)}"
    yield INFO, "MSG", f"  Message: {clean(event.text, 600)}"


@_on(ev.MessageRefused)
def _message_refused(event: ev.MessageRefused, before: State, after: State) -> Iterator[Row]:
    count = after.counters.messages_refused
    yield (
        WARNING if _sparse(count) else DEBUG,
        "SECURITY",
        f"Refused a message of peer {clean(event.peer_id, 128)}: field {clean(event.field, 64)}: "
        f"{clean(event.reason)} ({count} refused so far)",
    )


# ---------------------------------------------------------------- torrents


@_on(ev.TorrentSeeded)
def _seeded(event: ev.TorrentSeeded, before: State, after: State) -> Iterator[Row]:
    kind = "file" if event.shard_id is None else "primary shard"
    yield (
        INFO,
        "TORRENT",
        f"✓ Seeding {kind}: {clean(event.filename, 120)} (hash: {clean(event.info_hash[:16])}...)",
    )


@_on(ev.TorrentWithdrawn)
def _withdrawn(event: ev.TorrentWithdrawn, before: State, after: State) -> Iterator[Row]:
    text = f"✗ No longer seeding: {clean(event.filename, 120)} ({clean(event.reason)})"
    yield INFO, "TORRENT", text


@_on(ev.TorrentListed)
def _listed(event: ev.TorrentListed, before: State, after: State) -> Iterator[Row]:
    text = f"Peer {clean(event.peer_id, 128)} has {clean(event.filename, 120)}"
    yield DEBUG, "TORRENT_SYNC", f"{text} ({size_words(event.size)})"


def size_words(size: int) -> str:
    """A number of bytes as the mission writes it: `492.0 MB` (MiB)."""
    return f"{size / 2**20:.1f} MB" if size >= 2**20 else f"{size / 2**10:.1f} KB"
