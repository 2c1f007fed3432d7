"""Folds of shards: what this node has of them, who else holds them, readiness."""

from __future__ import annotations

from msgspec.structs import replace

from node import events as ev
from node.folding.registry import on, with_local, with_node, with_peer, with_shard
from node.state import (
    MAX_HOLDERS_PER_SHARD,
    Holder,
    Shard,
    State,
)

MAX_LEARNT_SHARDS = 256


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
    state = with_node(state, total_shards=max(node.total_shards, total))
    return replace(state, shards={**state.shards, **more})


@on(ev.ShardDiscovered)
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
    state = with_shard(
        state,
        event.shard_id,
        holders={**shard.holders, event.peer_id: holder},
        changed_at=event.at,
    )
    return with_peer(state, event.peer_id, event.at, addresses=event.addresses, agent=event.agent)


@on(ev.ShardForgotten)
def _forgotten(state: State, event: ev.ShardForgotten) -> State:
    shard = state.shards.get(event.shard_id)
    if shard is None or event.peer_id not in shard.holders:
        return state
    holders = {key: item for key, item in shard.holders.items() if key != event.peer_id}
    return with_shard(state, event.shard_id, holders=holders, changed_at=event.at)


@on(ev.ShardFileFound)
def _file_found(state: State, event: ev.ShardFileFound) -> State:
    shard = state.shards.get(event.shard_id)
    if shard is not None and shard.local.phase in ("loading", "loaded"):
        return state
    return with_local(
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


@on(ev.ShardFileMissing)
def _file_missing(state: State, event: ev.ShardFileMissing) -> State:
    return with_local(
        state,
        event.shard_id,
        event.at,
        phase="none",
        sentence=event.sentence,
        next_step=event.next_step,
    )


@on(ev.ShardLoading)
def _loading(state: State, event: ev.ShardLoading) -> State:
    return with_local(
        state,
        event.shard_id,
        event.at,
        phase="loading",
        progress=event.progress,
        path=event.path,
        wanted=True,
    )


@on(ev.ShardLoaded)
def _loaded(state: State, event: ev.ShardLoaded) -> State:
    return with_local(
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


@on(ev.ShardLoadFailed)
def _load_failed(state: State, event: ev.ShardLoadFailed) -> State:
    return with_local(
        state,
        event.shard_id,
        event.at,
        phase="failed",
        sentence=event.sentence,
        next_step=event.next_step,
    )


@on(ev.ShardUnloaded)
def _unloaded(state: State, event: ev.ShardUnloaded) -> State:
    return with_local(state, event.shard_id, event.at, phase="file", progress=0.0, wanted=False)


@on(ev.ReadinessChanged)
def _readiness(state: State, event: ev.ReadinessChanged) -> State:
    return replace(state, ready=event.ready, missing=event.missing)
