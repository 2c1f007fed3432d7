"""Folds of what happens to the node itself, its bootstraps and its peers."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from node import events as ev
from node.folding.registry import on, with_node, with_peer
from node.state import (
    RECENT_PROBLEMS,
    Bootstrap,
    LocalShard,
    NodeInfo,
    Shard,
    State,
)


@on(ev.NodeStarted)
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


@on(ev.NodeListening)
def _listening(state: State, event: ev.NodeListening) -> State:
    return with_node(state, addresses=event.addresses)


@on(ev.NodeAlone)
def _alone(state: State, event: ev.NodeAlone) -> State:
    return with_node(state, join_command=event.join_command)


@on(ev.NodeStopping)
def _stopping(state: State, event: ev.NodeStopping) -> State:
    return with_node(state, stopping=event.reason)


@on(ev.NodeStopped)
def _stopped(state: State, event: ev.NodeStopped) -> State:
    return with_node(state, stopped=True)


@on(ev.Problem)
def _problem(state: State, event: ev.Problem) -> State:
    return replace(state, problems=(event, *state.problems)[:RECENT_PROBLEMS])


@on(ev.BootstrapConnected)
def _bootstrap_connected(state: State, event: ev.BootstrapConnected) -> State:
    entry = Bootstrap(
        address=event.address, peer_id=event.peer_id, connected=True, changed_at=event.at
    )
    state = replace(state, bootstraps={**state.bootstraps, event.address: entry})
    return with_peer(state, event.peer_id, event.at, bootstrap=True)


@on(ev.BootstrapLost)
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


@on(ev.PeerFound)
def _peer_found(state: State, event: ev.PeerFound) -> State:
    known = state.peers.get(event.peer_id)
    source = known.source if known is not None and known.source else event.source
    return with_peer(state, event.peer_id, event.at, addresses=event.addresses, source=source)


@on(ev.PeerDialing)
def _peer_dialing(state: State, event: ev.PeerDialing) -> State:
    return with_peer(state, event.peer_id, event.at, note=f"dialling over {event.transport}")


@on(ev.PeerDialFailed)
def _peer_dial_failed(state: State, event: ev.PeerDialFailed) -> State:
    return with_peer(state, event.peer_id, event.at, note=f"dial failed: {event.reason}")


@on(ev.PeerConnected)
def _peer_connected(state: State, event: ev.PeerConnected) -> State:
    known = state.peers.get(event.peer_id)
    before = known.transports if known is not None else ()
    transports = tuple(sorted({*before, event.transport}, reverse=True))
    connected_at = known.connected_at if known is not None and before else event.at
    return with_peer(
        state,
        event.peer_id,
        event.at,
        transports=transports,
        direction=event.direction,
        connected_at=connected_at,
        note="",
    )


@on(ev.PeerDisconnected)
def _peer_disconnected(state: State, event: ev.PeerDisconnected) -> State:
    if event.peer_id not in state.peers:
        return state
    note = "" if event.remaining else "disconnected"
    return with_peer(state, event.peer_id, event.at, transports=event.remaining, note=note)


@on(ev.PeerIdentified)
def _peer_identified(state: State, event: ev.PeerIdentified) -> State:
    return with_peer(state, event.peer_id, event.at, agent=event.agent)


@on(ev.PeerHeard)
def _peer_heard(state: State, event: ev.PeerHeard) -> State:
    known = state.peers.get(event.peer_id)
    measured: dict[str, Any] = {}
    if event.rtt_ms is not None:
        pings = known.pings if known is not None else 0
        measured = {
            "rtt_ms": event.rtt_ms,
            "pings": pings + 1,
            "carries": event.transport,
        }
    return with_peer(
        state, event.peer_id, event.at, heard_at=event.at, silent=False, note="", **measured
    )


@on(ev.PeerSilent)
def _peer_silent(state: State, event: ev.PeerSilent) -> State:
    return with_peer(
        state,
        event.peer_id,
        event.at,
        silent=True,
        silent_since=event.at,
        note=event.reason,
    )


@on(ev.PeerQuarantined)
def _peer_quarantined(state: State, event: ev.PeerQuarantined) -> State:
    return with_peer(
        state, event.peer_id, event.at, quarantined_until=event.until, note=event.reason
    )


@on(ev.PeerReleased)
def _peer_released(state: State, event: ev.PeerReleased) -> State:
    return with_peer(state, event.peer_id, event.at, quarantined_until=0.0, note="")
