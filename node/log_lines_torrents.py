"""What seeding, finding and transfers read like in the log. See node.log_lines."""

from __future__ import annotations

from collections.abc import Iterator

from node import events as ev
from node.clean import clean
from node.log_lines import DEBUG, ERROR, INFO, WARNING, Row, on
from node.log_lines_swarm import size_words
from node.state import State

_NEWS = frozenset(["waiting", "stalled", "paused", "endgame", "failed"])


def _hash(info_hash: str) -> str:
    return f"(hash: {clean(info_hash[:16])}...)"


def rate_words(rate: float) -> str:
    """Bytes per second as `98.5 MB/s`."""
    return f"{rate / 1e6:.1f} MB/s"


@on(ev.TorrentHashing)
def _hashing(event: ev.TorrentHashing, before: State, after: State) -> Iterator[Row]:
    text = f"Hashing {clean(event.filename, 120)}: {event.progress * 100:.0f} %"
    yield DEBUG, "TORRENT", f"{text} of {size_words(event.size)}"


@on(ev.TorrentSeeded)
def _seeded(event: ev.TorrentSeeded, before: State, after: State) -> Iterator[Row]:
    kind = "file" if event.shard_id is None else "primary shard"
    name = clean(event.filename, 120)
    yield INFO, "TORRENT", f"✓ Seeding {kind}: {name} {_hash(event.info_hash)}"
    if event.root:
        yield DEBUG, "TORRENT", f"  Root of {name}: {clean(event.root, 64)}"


@on(ev.TorrentWithdrawn)
def _withdrawn(event: ev.TorrentWithdrawn, before: State, after: State) -> Iterator[Row]:
    text = f"✗ No longer seeding: {clean(event.filename, 120)} ({clean(event.reason)})"
    yield INFO, "TORRENT", text


@on(ev.TorrentsScanned)
def _scanned(event: ev.TorrentsScanned, before: State, after: State) -> Iterator[Row]:
    last = event.total_shards - 1
    yield (
        INFO,
        "TORRENT",
        f"Primary shards (0-{last}): {event.primary}/{event.total_shards} seeded",
    )
    yield INFO, "TORRENT", f"Total files available for seeding: {event.files}"


@on(ev.TorrentsRegistering)
def _registering(event: ev.TorrentsRegistering, before: State, after: State) -> Iterator[Row]:
    text = f"Registering {event.count} torrent file(s) in DHT for auto-propagation..."
    yield INFO, "TORRENT", text


@on(ev.TorrentRegistered)
def _registered(event: ev.TorrentRegistered, before: State, after: State) -> Iterator[Row]:
    name = clean(event.filename, 120)
    yield (
        DEBUG if event.again else INFO,
        "TORRENT",
        f"✓ Registered torrent file in DHT: {name} {_hash(event.info_hash)}",
    )


@on(ev.TorrentsRegistered)
def _all_registered(event: ev.TorrentsRegistered, before: State, after: State) -> Iterator[Row]:
    yield (
        INFO,
        "TORRENT",
        "✓ All torrent files registered in DHT - auto-propagation enabled",
    )


@on(ev.TorrentListed)
def _listed(event: ev.TorrentListed, before: State, after: State) -> Iterator[Row]:
    text = f"Peer {clean(event.peer_id, 128)} has {clean(event.filename, 120)}"
    yield DEBUG, "TORRENT_SYNC", f"{text} ({size_words(event.size)})"


@on(ev.TorrentsSynced)
def _synced(event: ev.TorrentsSynced, before: State, after: State) -> Iterator[Row]:
    yield (
        INFO,
        "TORRENT_SYNC",
        f"✓ Received {event.files} available file(s) from rendezvous server",
    )
    if not event.missing:
        yield INFO, "TORRENT_SYNC", "✓ All required shards are already present"


@on(ev.TransferWanted)
def _wanted(event: ev.TransferWanted, before: State, after: State) -> Iterator[Row]:
    name = clean(event.filename, 120)
    what = name if event.shard_id is None else f"shard {event.shard_id}"
    if event.info_hash:
        yield INFO, "TORRENT_SYNC", f"📥 Starting download for {what}"
        yield (
            INFO,
            "TORRENT_SYNC",
            f"✓ Download initiated (info_hash: {clean(event.info_hash, 64)})",
        )
    else:
        yield INFO, "TORRENT_QUERY", f"Looking for {name}: this node is to have it"


@on(ev.TransferChanged)
def _changed(event: ev.TransferChanged, before: State, after: State) -> Iterator[Row]:
    known = before.torrents.get(event.info_hash) or before.torrents.get("?" + event.filename)
    name = clean(event.filename, 120)
    phase, reason = (known.phase, known.reason) if known is not None else ("", "")
    if event.phase in _NEWS and (event.phase, event.reason) != (phase, reason):
        text = f"{name}: {event.phase}"
        level = INFO if event.phase in ("paused", "endgame") else WARNING
        yield level, "DOWNLOAD", f"{text}. {clean(event.reason, 400)}" if event.reason else text
        return
    tenths = event.done * 10 // event.size if event.size else 0
    told = known.done * 10 // event.size if known is not None and event.size else 0
    if event.phase == "transfer" and tenths > told:
        yield (
            INFO,
            "DOWNLOAD",
            f"{name}: {tenths * 10} % of {size_words(event.size)} at "
            f"{rate_words(event.rate_down)} from {_active(event)} source(s)",
        )
    elif event.phase != phase:
        yield DEBUG, "DOWNLOAD", f"{name}: {event.phase}"


def _active(event: ev.TransferChanged) -> int:
    return sum(item.state in ("active", "idle", "parole") for item in event.sources)


@on(ev.TransferFinished)
def _finished(event: ev.TransferFinished, before: State, after: State) -> Iterator[Row]:
    yield (
        INFO,
        "DOWNLOAD",
        f"✓ {clean(event.filename, 120)} is complete and verified: {size_words(event.size)} in "
        f"{event.seconds:.1f} s ({event.mb_per_s:.1f} MB/s) from {event.sources} source(s)",
    )


@on(ev.TransferFailed)
def _failed(event: ev.TransferFailed, before: State, after: State) -> Iterator[Row]:
    sentence = f"{clean(event.sentence, 600)} {clean(event.next_step, 400)}".strip()
    yield INFO if event.cancelled else ERROR, "DOWNLOAD", f"✗ {sentence}"
    for offer in event.offers:
        yield INFO, "DOWNLOAD", f"  offered: {clean(offer, 300)}"


@on(ev.TransferSourceBlamed)
def _blamed(event: ev.TransferSourceBlamed, before: State, after: State) -> Iterator[Row]:
    yield WARNING, "SECURITY", f"{clean(event.filename, 120)}: {clean(event.reason, 400)}"


@on(ev.RemoteLoadEnded)
def _remote(event: ev.RemoteLoadEnded, before: State, after: State) -> Iterator[Row]:
    mark = "✓" if event.ok else "✗"
    yield (
        INFO if event.ok else WARNING,
        "RESPONSE",
        f"{mark} LOAD_SHARD {event.shard_id} at peer {clean(event.peer_id, 128)}: "
        f"{clean(event.sentence, 400)}",
    )


@on(ev.TorrentUnlisted)
def _unlisted(event: ev.TorrentUnlisted, before: State, after: State) -> Iterator[Row]:
    known = before.torrents.get(event.info_hash)
    name = clean(known.filename, 120) if known is not None else clean(event.info_hash[:16])
    yield DEBUG, "TORRENT_SYNC", f"Peer {clean(event.peer_id, 128)} no longer has {name}"


@on(ev.SeedingChanged)
def _seeding(event: ev.SeedingChanged, before: State, after: State) -> Iterator[Row]:
    known = before.torrents.get(event.info_hash)
    name = clean(known.filename, 120) if known is not None else clean(event.info_hash[:16])
    yield (
        DEBUG,
        "TORRENT",
        f"Sending {name} to {len(event.peers)} peer(s) at {rate_words(event.rate_up)}, "
        f"{size_words(event.uploaded)} so far",
    )
