"""How each event changes the state. One function per event, registered by its type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec.structs import replace

from node import events as ev
from node.state import (
    MAX_HOLDERS_PER_SHARD,
    MAX_PEERS,
    RECENT_COMMANDS,
    RECENT_PROBLEMS,
    RECENT_QUERIES,
    Bootstrap,
    CommandRow,
    Holder,
    LocalShard,
    NodeInfo,
    Peer,
    Query,
    Shard,
    State,
    Torrent,
)

MAX_LEARNT_SHARDS = 256
E = TypeVar("E", bound=ev.Event)
_FOLDS: dict[type[ev.Event], Callable[[State, Any], State]] = {}


def fold(state: State, event: ev.Event) -> State:
    """The state after `event`; the same state object is never changed."""
    change = _FOLDS.get(type(event))
    after = change(state, event) if change is not None else state
    return replace(after, updated_at=max(event.at, state.updated_at))


def _on(
    kind: type[E],
) -> Callable[[Callable[[State, E], State]], Callable[[State, E], State]]:
    def register(change: Callable[[State, E], State]) -> Callable[[State, E], State]:
        _FOLDS[kind] = change
        return change

    return register


def _with_peer(state: State, peer_id: str, at: float, **changes: Any) -> State:
    peer = state.peers.get(peer_id)
    peers = dict(state.peers)
    if peer is None:
        if state.node is not None and peer_id == state.node.peer_id:
            return state
        peer = Peer(peer_id=peer_id, first_seen=at)
        while len(peers) >= MAX_PEERS:
            quietest = min(peers.values(), key=lambda item: (item.connected, item.heard_at))
            del peers[quietest.peer_id]
    peers[peer_id] = replace(peer, **changes)
    return replace(state, peers=peers)


def _with_shard(state: State, shard_id: int, **changes: Any) -> State:
    shard = state.shards.get(shard_id) or Shard(shard_id=shard_id)
    return replace(state, shards={**state.shards, shard_id: replace(shard, **changes)})


def _with_local(state: State, shard_id: int, at: float, **changes: Any) -> State:
    shard = state.shards.get(shard_id) or Shard(shard_id=shard_id)
    return _with_shard(state, shard_id, local=replace(shard.local, **changes), changed_at=at)


def _with_node(state: State, **changes: Any) -> State:
    return state if state.node is None else replace(state, node=replace(state.node, **changes))


def _count(state: State, **more: float) -> State:
    values = {name: getattr(state.counters, name) + value for name, value in more.items()}
    return replace(state, counters=replace(state.counters, **values))


# ---------------------------------------------------------------- the node itself


@_on(ev.NodeStarted)
def _started(state: State, event: ev.NodeStarted) -> State:
    node = NodeInfo(
        peer_id=event.peer_id,
        name=event.name,
        role=event.role,
        cluster=event.cluster,
        total_shards=event.total_shards,
        own_shards=event.own_shards,
        model_name=event.model_name,
        transport=event.transport,
        version=event.version,
        shards_dir=event.shards_dir,
        data_dir=event.data_dir,
        started_at=event.at,
    )
    shards = {
        shard_id: Shard(
            shard_id=shard_id,
            local=LocalShard(wanted=shard_id in event.own_shards),
            changed_at=event.at,
        )
        for shard_id in range(event.total_shards)
    }
    return replace(state, node=node, shards=shards, missing=tuple(shards))


@_on(ev.NodeListening)
def _listening(state: State, event: ev.NodeListening) -> State:
    return _with_node(state, addresses=event.addresses)


@_on(ev.NodeAlone)
def _alone(state: State, event: ev.NodeAlone) -> State:
    return _with_node(state, join_command=event.join_command)


@_on(ev.NodeStopping)
def _stopping(state: State, event: ev.NodeStopping) -> State:
    return _with_node(state, stopping=event.reason)


@_on(ev.NodeStopped)
def _stopped(state: State, event: ev.NodeStopped) -> State:
    return _with_node(state, stopped=True)


@_on(ev.Problem)
def _problem(state: State, event: ev.Problem) -> State:
    return replace(state, problems=(event, *state.problems)[:RECENT_PROBLEMS])


# ---------------------------------------------------------------- peers


@_on(ev.BootstrapConnected)
def _bootstrap_connected(state: State, event: ev.BootstrapConnected) -> State:
    entry = Bootstrap(
        address=event.address, peer_id=event.peer_id, connected=True, changed_at=event.at
    )
    state = replace(state, bootstraps={**state.bootstraps, event.address: entry})
    return _with_peer(state, event.peer_id, event.at, bootstrap=True)


@_on(ev.BootstrapLost)
def _bootstrap_lost(state: State, event: ev.BootstrapLost) -> State:
    known = state.bootstraps.get(event.address) or Bootstrap(address=event.address)
    entry = replace(
        known,
        connected=False,
        changed_at=event.at,
        reason=event.reason,
        retry_in_s=event.retry_in_s,
    )
    return replace(state, bootstraps={**state.bootstraps, event.address: entry})


@_on(ev.PeerFound)
def _peer_found(state: State, event: ev.PeerFound) -> State:
    known = state.peers.get(event.peer_id)
    source = known.source if known is not None and known.source else event.source
    return _with_peer(state, event.peer_id, event.at, addresses=event.addresses, source=source)


@_on(ev.PeerDialing)
def _peer_dialing(state: State, event: ev.PeerDialing) -> State:
    return _with_peer(state, event.peer_id, event.at, note=f"dialling over {event.transport}")


@_on(ev.PeerDialFailed)
def _peer_dial_failed(state: State, event: ev.PeerDialFailed) -> State:
    return _with_peer(state, event.peer_id, event.at, note=f"dial failed: {event.reason}")


@_on(ev.PeerConnected)
def _peer_connected(state: State, event: ev.PeerConnected) -> State:
    known = state.peers.get(event.peer_id)
    before = known.transports if known is not None else ()
    transports = tuple(sorted({*before, event.transport}, reverse=True))
    connected_at = known.connected_at if known is not None and before else event.at
    return _with_peer(
        state,
        event.peer_id,
        event.at,
        transports=transports,
        direction=event.direction,
        connected_at=connected_at,
        note="",
    )


@_on(ev.PeerDisconnected)
def _peer_disconnected(state: State, event: ev.PeerDisconnected) -> State:
    if event.peer_id not in state.peers:
        return state
    note = "" if event.remaining else "disconnected"
    return _with_peer(state, event.peer_id, event.at, transports=event.remaining, note=note)


@_on(ev.PeerIdentified)
def _peer_identified(state: State, event: ev.PeerIdentified) -> State:
    return _with_peer(state, event.peer_id, event.at, agent=event.agent)


@_on(ev.PeerHeard)
def _peer_heard(state: State, event: ev.PeerHeard) -> State:
    known = state.peers.get(event.peer_id)
    measured: dict[str, Any] = {}
    if event.rtt_ms is not None:
        pings = known.pings if known is not None else 0
        measured = {"rtt_ms": event.rtt_ms, "pings": pings + 1}
    return _with_peer(
        state, event.peer_id, event.at, heard_at=event.at, silent=False, note="", **measured
    )


@_on(ev.PeerSilent)
def _peer_silent(state: State, event: ev.PeerSilent) -> State:
    return _with_peer(
        state,
        event.peer_id,
        event.at,
        silent=True,
        silent_since=event.at,
        note=event.reason,
    )


@_on(ev.PeerQuarantined)
def _peer_quarantined(state: State, event: ev.PeerQuarantined) -> State:
    return _with_peer(
        state, event.peer_id, event.at, quarantined_until=event.until, note=event.reason
    )


@_on(ev.PeerReleased)
def _peer_released(state: State, event: ev.PeerReleased) -> State:
    return _with_peer(state, event.peer_id, event.at, quarantined_until=0.0, note="")


@_on(ev.PeerGone)
def _peer_gone(state: State, event: ev.PeerGone) -> State:
    peers = {key: peer for key, peer in state.peers.items() if key != event.peer_id}
    return replace(state, peers=peers)


# ---------------------------------------------------------------- DHT


@_on(ev.DhtQueryStarted)
def _query_started(state: State, event: ev.DhtQueryStarted) -> State:
    query = Query(
        query_id=event.query_id,
        kind=event.kind,
        key=event.key,
        shard_id=event.shard_id,
        started_at=event.at,
    )
    return replace(state, queries=(query, *state.queries)[:RECENT_QUERIES])


@_on(ev.DhtQueryFinished)
def _query_finished(state: State, event: ev.DhtQueryFinished) -> State:
    query = Query(
        query_id=event.query_id,
        kind=event.kind,
        key=event.key,
        shard_id=event.shard_id,
        started_at=event.at - event.duration_ms / 1000,
        duration_ms=event.duration_ms,
        asked=event.asked,
        outcome=event.outcome,
        found=event.found,
        detail=event.detail,
    )
    others = tuple(item for item in state.queries if item.query_id != event.query_id)
    running = len(others) < len(state.queries)
    if running:
        queries = tuple(
            query if item.query_id == event.query_id else item for item in state.queries
        )
    else:
        queries = (query, *others)[:RECENT_QUERIES]
    state = _count(
        state,
        queries=1,
        queries_failed=event.outcome == "failed",
        query_ms=event.duration_ms,
    )
    return replace(state, queries=queries)


@_on(ev.RoutingUpdated)
def _routing(state: State, event: ev.RoutingUpdated) -> State:
    return replace(state, routing_size=event.size)


@_on(ev.RecordRefused)
def _record_refused(state: State, event: ev.RecordRefused) -> State:
    return _count(state, records_refused=1)


@_on(ev.ShardAnnounced)
def _announced(state: State, event: ev.ShardAnnounced) -> State:
    shard = state.shards.get(event.shard_id)
    if shard is None:
        return state
    local = replace(shard.local, announced_at=event.at)
    return _with_shard(state, event.shard_id, local=local)


# ---------------------------------------------------------------- shards


def _with_total(state: State, total: int, at: float) -> State:
    """A rendezvous node holds no shard and was told no number: it learns it from the holders."""
    node = state.node
    if node is None or node.role != "rendezvous" or total <= node.total_shards:
        return state
    total = min(total, MAX_LEARNT_SHARDS)
    more = {
        shard_id: Shard(shard_id=shard_id, changed_at=at)
        for shard_id in range(node.total_shards, total)
    }
    state = _with_node(state, total_shards=max(node.total_shards, total))
    return replace(state, shards={**state.shards, **more})


@_on(ev.ShardDiscovered)
def _discovered(state: State, event: ev.ShardDiscovered) -> State:
    state = _with_total(state, event.total_shards, event.at)
    shard = state.shards.get(event.shard_id)
    if shard is None:
        return state
    known = shard.holders.get(event.peer_id)
    if known is None and len(shard.holders) >= MAX_HOLDERS_PER_SHARD:
        return state
    holder = Holder(
        peer_id=event.peer_id,
        sequence=event.sequence,
        loaded=event.loaded,
        phase=event.phase,
        progress=event.progress,
        layer_start=event.layer_start,
        layer_end=event.layer_end,
        model_name=event.model_name,
        agent=event.agent,
        size=event.size,
        root=event.root,
        expires_at=event.expires_at,
        discovered_at=known.discovered_at if known is not None else event.at,
        updated_at=event.at,
        source=known.source if known is not None else event.source,
    )
    state = _with_shard(
        state,
        event.shard_id,
        holders={**shard.holders, event.peer_id: holder},
        changed_at=event.at,
    )
    return _with_peer(state, event.peer_id, event.at, addresses=event.addresses, agent=event.agent)


@_on(ev.ShardForgotten)
def _forgotten(state: State, event: ev.ShardForgotten) -> State:
    shard = state.shards.get(event.shard_id)
    if shard is None or event.peer_id not in shard.holders:
        return state
    holders = {key: item for key, item in shard.holders.items() if key != event.peer_id}
    return _with_shard(state, event.shard_id, holders=holders, changed_at=event.at)


@_on(ev.ShardFileFound)
def _file_found(state: State, event: ev.ShardFileFound) -> State:
    shard = state.shards.get(event.shard_id)
    if shard is not None and shard.local.phase in ("loading", "loaded"):
        return state
    return _with_local(
        state,
        event.shard_id,
        event.at,
        phase="file",
        path=event.path,
        size=event.size,
        layer_start=event.layer_start,
        layer_end=event.layer_end,
        model_name=event.model_name,
        sentence="",
        next_step="",
    )


@_on(ev.ShardFileMissing)
def _file_missing(state: State, event: ev.ShardFileMissing) -> State:
    return _with_local(
        state,
        event.shard_id,
        event.at,
        phase="none",
        sentence=event.sentence,
        next_step=event.next_step,
    )


@_on(ev.ShardLoading)
def _loading(state: State, event: ev.ShardLoading) -> State:
    return _with_local(
        state,
        event.shard_id,
        event.at,
        phase="loading",
        progress=event.progress,
        path=event.path,
        wanted=True,
    )


@_on(ev.ShardLoaded)
def _loaded(state: State, event: ev.ShardLoaded) -> State:
    return _with_local(
        state,
        event.shard_id,
        event.at,
        phase="loaded",
        wanted=True,
        progress=1.0,
        path=event.path,
        size=event.size,
        layer_start=event.layer_start,
        layer_end=event.layer_end,
        model_name=event.model_name,
        load_seconds=event.seconds,
        sentence="",
        next_step="",
    )


@_on(ev.ShardLoadFailed)
def _load_failed(state: State, event: ev.ShardLoadFailed) -> State:
    return _with_local(
        state,
        event.shard_id,
        event.at,
        phase="failed",
        sentence=event.sentence,
        next_step=event.next_step,
    )


@_on(ev.ShardUnloaded)
def _unloaded(state: State, event: ev.ShardUnloaded) -> State:
    return _with_local(state, event.shard_id, event.at, phase="file", progress=0.0, wanted=False)


@_on(ev.ReadinessChanged)
def _readiness(state: State, event: ev.ReadinessChanged) -> State:
    return replace(state, ready=event.ready, missing=event.missing)


# ---------------------------------------------------------------- messages and commands


def _with_command(state: State, row: CommandRow) -> State:
    return replace(state, commands=(row, *state.commands)[:RECENT_COMMANDS])


@_on(ev.CommandSent)
def _sent(state: State, event: ev.CommandSent) -> State:
    row = CommandRow(
        request_id=event.request_id,
        command=event.command,
        peer_id=event.to,
        direction="out",
        at=event.at,
        summary=event.summary,
        origin=event.origin,
    )
    return _with_command(_count(state, messages_out=1), row)


@_on(ev.CommandReceived)
def _received(state: State, event: ev.CommandReceived) -> State:
    row = CommandRow(
        request_id=event.request_id,
        command=event.command,
        peer_id=event.peer_id,
        direction="in",
        at=event.at,
        summary=event.summary,
    )
    return _with_command(_count(state, messages_in=1), row)


def _settle(state: State, direction: str, event: ev.CommandAnswered | ev.CommandServed) -> State:
    detail = event.detail if isinstance(event, ev.CommandAnswered) else ""
    rows = tuple(
        replace(
            row,
            status=event.status,
            duration_ms=event.duration_ms,
            summary=event.summary,
            detail=detail,
        )
        if row.request_id == event.request_id
        and row.direction == direction
        and row.peer_id == event.peer_id
        else row
        for row in state.commands
    )
    return replace(state, commands=rows)


@_on(ev.CommandAnswered)
def _answered(state: State, event: ev.CommandAnswered) -> State:
    return _settle(state, "out", event)


@_on(ev.CommandServed)
def _served(state: State, event: ev.CommandServed) -> State:
    return _settle(state, "in", event)


@_on(ev.MessageReceived)
def _message(state: State, event: ev.MessageReceived) -> State:
    row = CommandRow(
        request_id="",
        command="MESSAGE",
        peer_id=event.peer_id,
        direction="in",
        at=event.at,
        status="received",
        summary=event.text,
    )
    return _with_command(_count(state, messages_in=1), row)


@_on(ev.MessageRefused)
def _message_refused(state: State, event: ev.MessageRefused) -> State:
    return _count(state, messages_refused=1)


# ---------------------------------------------------------------- torrents


@_on(ev.TorrentSeeded)
def _seeded(state: State, event: ev.TorrentSeeded) -> State:
    known = state.torrents.get(event.info_hash)
    torrent = Torrent(
        info_hash=event.info_hash,
        filename=event.filename,
        size=event.size,
        shard_id=event.shard_id,
        local=True,
        peers=known.peers if known is not None else (),
    )
    return replace(state, torrents={**state.torrents, event.info_hash: torrent})


@_on(ev.TorrentWithdrawn)
def _withdrawn(state: State, event: ev.TorrentWithdrawn) -> State:
    known = state.torrents.get(event.info_hash)
    if known is None:
        return state
    torrents = {key: item for key, item in state.torrents.items() if key != event.info_hash}
    if known.peers:
        torrents[event.info_hash] = replace(known, local=False)
    return replace(state, torrents=torrents)


@_on(ev.TorrentListed)
def _listed(state: State, event: ev.TorrentListed) -> State:
    known = state.torrents.get(event.info_hash) or Torrent(
        info_hash=event.info_hash, filename=event.filename, size=event.size
    )
    peers = tuple(sorted({*known.peers, event.peer_id}))
    torrents = {**state.torrents, event.info_hash: replace(known, peers=peers)}
    return replace(state, torrents=torrents)
