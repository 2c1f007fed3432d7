"""The table of folds, and the small changes they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec.structs import replace

from node import events as ev
from node.state import (
    MAX_PEERS,
    Peer,
    Shard,
    State,
)

E = TypeVar("E", bound=ev.Event)
FOLDS: dict[type[ev.Event], Callable[[State, Any], State]] = {}


def on(
    kind: type[E],
) -> Callable[[Callable[[State, E], State]], Callable[[State, E], State]]:
    def register(change: Callable[[State, E], State]) -> Callable[[State, E], State]:
        FOLDS[kind] = change
        return change

    return register


def with_peer(state: State, peer_id: str, at: float, **changes: Any) -> State:
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


def with_shard(state: State, shard_id: int, **changes: Any) -> State:
    shard = state.shards.get(shard_id) or Shard(shard_id=shard_id)
    return replace(state, shards={**state.shards, shard_id: replace(shard, **changes)})


def with_local(state: State, shard_id: int, at: float, **changes: Any) -> State:
    shard = state.shards.get(shard_id) or Shard(shard_id=shard_id)
    return with_shard(state, shard_id, local=replace(shard.local, **changes), changed_at=at)


def with_node(state: State, **changes: Any) -> State:
    return state if state.node is None else replace(state, node=replace(state.node, **changes))


def count(state: State, **more: float) -> State:
    values = {name: getattr(state.counters, name) + value for name, value in more.items()}
    return replace(state, counters=replace(state.counters, **values))
