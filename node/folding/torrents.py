"""Folds of files: what this node has, what others have, and what is on its way."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from node import events as ev
from node.folding.registry import on, with_local
from node.state import MAX_TORRENTS, State, Torrent

MAX_BLAMED = 8
MAX_LISTED_PEERS = 256
LOOKING = frozenset(["resolving", "waiting"])
_PENDING = "?"


def _pending(filename: str) -> str:
    """The key of a wanted file whose info hash nobody knows yet."""
    return _PENDING + filename


def _with(
    state: State, info_hash: str, filename: str, size: int, at: float, **changes: Any
) -> State:
    known = state.torrents.get(info_hash)
    if known is None:
        if len(state.torrents) >= MAX_TORRENTS:
            return state
        known = Torrent(info_hash=info_hash, filename=filename, size=size)
    changed = replace(known, filename=filename, size=size, changed_at=at, **changes)
    return replace(state, torrents={**state.torrents, info_hash: changed})


def _without(state: State, info_hash: str) -> State:
    if info_hash not in state.torrents:
        return state
    rest = {key: item for key, item in state.torrents.items() if key != info_hash}
    return replace(state, torrents=rest)


@on(ev.TorrentHashing)
def _hashing(state: State, event: ev.TorrentHashing) -> State:
    return _with(
        state,
        event.info_hash,
        event.filename,
        event.size,
        event.at,
        shard_id=event.shard_id,
        phase="hashing",
        progress=event.progress,
        reason="",
        next_step="",
    )


@on(ev.TorrentSeeded)
def _seeded(state: State, event: ev.TorrentSeeded) -> State:
    return _with(
        state,
        event.info_hash,
        event.filename,
        event.size,
        event.at,
        shard_id=event.shard_id,
        local=True,
        root=event.root,
        piece_length=event.piece_length,
        pieces=event.pieces,
        pieces_done=event.pieces,
        phase="seeding",
        progress=1.0,
        done=event.size,
        rate_down=0.0,
        eta_s=None,
        sources=(),
        reason="",
        next_step="",
        offers=(),
        piece_map="",
    )


@on(ev.TorrentWithdrawn)
def _withdrawn(state: State, event: ev.TorrentWithdrawn) -> State:
    known = state.torrents.get(event.info_hash)
    if known is None:
        return state
    if not known.peers:
        return _without(state, event.info_hash)
    left = Torrent(
        info_hash=known.info_hash,
        filename=known.filename,
        size=known.size,
        shard_id=known.shard_id,
        peers=known.peers,
        changed_at=event.at,
    )
    return replace(state, torrents={**state.torrents, event.info_hash: left})


@on(ev.TorrentsScanned)
def _scanned(state: State, event: ev.TorrentsScanned) -> State:
    return replace(state, files=replace(state.files, scanned_at=event.at))


@on(ev.TorrentsRegistering)
def _registering(state: State, event: ev.TorrentsRegistering) -> State:
    return replace(state, files=replace(state.files, to_register=event.count))


@on(ev.TorrentsRegistered)
def _all_registered(state: State, event: ev.TorrentsRegistered) -> State:
    return replace(state, files=replace(state.files, registered_at=event.at))


@on(ev.TorrentsSynced)
def _synced(state: State, event: ev.TorrentsSynced) -> State:
    files = replace(state.files, synced_at=event.at, synced_with=event.peer_id, listed=event.files)
    return replace(state, files=files)


@on(ev.TorrentRegistered)
def _registered(state: State, event: ev.TorrentRegistered) -> State:
    known = state.torrents.get(event.info_hash)
    if known is None:
        return state
    changed = replace(known, registered_at=event.at)
    return replace(state, torrents={**state.torrents, event.info_hash: changed})


@on(ev.TorrentListed)
def _listed(state: State, event: ev.TorrentListed) -> State:
    known = state.torrents.get(event.info_hash)
    peers = known.peers if known is not None else ()
    if event.peer_id in peers:
        return state
    if len(peers) >= MAX_LISTED_PEERS:
        return state
    root = known.root if known is not None and known.root else event.root
    return _with(
        state,
        event.info_hash,
        event.filename,
        event.size,
        event.at,
        peers=tuple(sorted({*peers, event.peer_id})),
        root=root,
    )


def _unlist(state: State, info_hash: str, peer_id: str) -> State:
    known = state.torrents.get(info_hash)
    if known is None or peer_id not in known.peers:
        return state
    peers = tuple(item for item in known.peers if item != peer_id)
    if not peers and not known.local and not known.phase:
        return _without(state, info_hash)
    return replace(state, torrents={**state.torrents, info_hash: replace(known, peers=peers)})


@on(ev.TorrentUnlisted)
def _unlisted(state: State, event: ev.TorrentUnlisted) -> State:
    return _unlist(state, event.info_hash, event.peer_id)


@on(ev.TransferWanted)
def _wanted(state: State, event: ev.TransferWanted) -> State:
    pending = _pending(event.filename)
    if event.info_hash:
        state = _without(state, pending)
    known = state.torrents.get(event.info_hash)
    state = _with(
        state,
        event.info_hash or pending,
        event.filename,
        known.size if known is not None else 0,
        event.at,
        shard_id=event.shard_id,
        phase="resolving",
        wanted_by=event.wanted_by,
        reason="",
        next_step="",
        offers=(),
    )
    return state


@on(ev.TransferChanged)
def _changed(state: State, event: ev.TransferChanged) -> State:
    if event.info_hash:
        state = _without(state, _pending(event.filename))
    state = _with(
        state,
        event.info_hash or _pending(event.filename),
        event.filename,
        event.size,
        event.at,
        shard_id=event.shard_id,
        root=event.root,
        phase=event.phase,
        reason=event.reason,
        done=event.done,
        fetched=event.fetched,
        wasted=event.wasted,
        uploaded=event.uploaded,
        pieces=event.pieces,
        pieces_done=event.pieces_done,
        piece_length=event.piece_length,
        rate_down=event.rate_down,
        rate_up=event.rate_up,
        eta_s=event.eta_s,
        seconds=event.elapsed_s,
        sources=event.sources,
        piece_map=event.piece_map,
    )
    if event.phase in LOOKING:
        return state  # nothing is on its way: the shard still has no file
    share = event.done / event.size if event.size else 0.0
    return _shard_downloading(state, event.shard_id, event.at, share)


def _shard_downloading(state: State, shard_id: int | None, at: float, share: float) -> State:
    shard = state.shards.get(shard_id) if shard_id is not None else None
    if shard is None or shard.local.phase in ("loading", "loaded", "file"):
        return state
    assert shard_id is not None
    return with_local(
        state,
        shard_id,
        at,
        phase="downloading",
        progress=round(share, 4),
        wanted=True,
        sentence="",
        next_step="",
    )


@on(ev.TransferFinished)
def _finished(state: State, event: ev.TransferFinished) -> State:
    state = _with(
        state,
        event.info_hash,
        event.filename,
        event.size,
        event.at,
        shard_id=event.shard_id,
        local=True,
        root=event.root,
        phase="done",
        reason="",
        next_step="",
        done=event.size,
        fetched=event.fetched,
        rate_down=0.0,
        eta_s=None,
        seconds=event.seconds,
        came_from=event.sources,
        mb_per_s=event.mb_per_s,
    )
    shard = state.shards.get(event.shard_id) if event.shard_id is not None else None
    if shard is None or shard.local.phase != "downloading":
        return state
    assert event.shard_id is not None
    return with_local(
        state, event.shard_id, event.at, phase="file", path=event.path, size=event.size
    )


@on(ev.TransferFailed)
def _failed(state: State, event: ev.TransferFailed) -> State:
    key = event.info_hash or _pending(event.filename)
    known = state.torrents.get(key)
    state = _with(
        state,
        key,
        event.filename,
        known.size if known is not None else 0,
        event.at,
        shard_id=event.shard_id,
        phase="cancelled" if event.cancelled else "failed",
        reason=event.sentence,
        next_step=event.next_step,
        offers=event.offers,
        rate_down=0.0,
        eta_s=None,
        sources=(),
    )
    shard = state.shards.get(event.shard_id) if event.shard_id is not None else None
    if shard is None or shard.local.phase != "downloading":
        return state
    assert event.shard_id is not None
    return with_local(
        state,
        event.shard_id,
        event.at,
        phase="none" if event.cancelled else "failed",
        progress=0.0,
        sentence=event.sentence,
        next_step=event.next_step,
    )


@on(ev.TransferSourceBlamed)
def _blamed(state: State, event: ev.TransferSourceBlamed) -> State:
    known = state.torrents.get(event.info_hash)
    if known is None:
        return state
    blamed = (*known.blamed, event.reason)[-MAX_BLAMED:]
    return replace(
        state, torrents={**state.torrents, event.info_hash: replace(known, blamed=blamed)}
    )


@on(ev.SeedingChanged)
def _seeding(state: State, event: ev.SeedingChanged) -> State:
    known = state.torrents.get(event.info_hash)
    if known is None:
        return state
    changed = replace(
        known,
        uploaded=event.uploaded,
        rate_up=event.rate_up,
        upload_peers=event.peers,
    )
    return replace(state, torrents={**state.torrents, event.info_hash: changed})


def forget_peer(state: State, peer_id: str) -> State:
    """A peer that said goodbye has no files any more."""
    for info_hash, item in list(state.torrents.items()):
        if peer_id in item.peers:
            state = _unlist(state, info_hash, peer_id)
    return state


@on(ev.PeerGone)
def _peer_gone(state: State, event: ev.PeerGone) -> State:
    peers = {key: peer for key, peer in state.peers.items() if key != event.peer_id}
    return forget_peer(replace(state, peers=peers), event.peer_id)


@on(ev.RemoteLoadEnded)
def _remote_load(state: State, event: ev.RemoteLoadEnded) -> State:
    rows = tuple(
        replace(row, status="success" if event.ok else "error", summary=event.sentence)
        if row.command == "LOAD_SHARD"
        and row.direction == "out"
        and row.peer_id == event.peer_id
        and f"shard_id={event.shard_id} " in f"{row.summary} "
        and "downloading" in row.summary
        else row
        for row in state.commands
    )
    return replace(state, commands=rows)
