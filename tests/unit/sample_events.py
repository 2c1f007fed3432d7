"""A small swarm's events, as a node with shard 0 of 2 sees them."""

from __future__ import annotations

from node import events as ev
from node.state import State

ME = "12D3KooWMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMME"
PEER = "12D3KooWPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPE"
RENDEZVOUS = "12D3KooWRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRE"
ADDRESS = "/ip4/192.0.2.9/udp/61500/quic-v1"


def started(at: float = 100.0, shards: int = 2) -> ev.NodeStarted:
    return ev.NodeStarted(
        at=at,
        peer_id=ME,
        name="shard-0",
        role="node",
        cluster="llama-cluster",
        total_shards=shards,
        own_shards=(0,),
        model_name="",
        transport="dual",
        version="0.1.0",
        shards_dir="/s",
        data_dir="/d",
    )


def loaded(at: float = 101.0, shard_id: int = 0) -> ev.ShardLoaded:
    return ev.ShardLoaded(
        at=at,
        shard_id=shard_id,
        path="/s/shard-0.gguf",
        size=2**21,
        layer_start=0,
        layer_end=4,
        model_name="synth",
        seconds=0.5,
    )


def discovered(at: float = 103.0, shard_id: int = 1, peer_id: str = PEER) -> ev.ShardDiscovered:
    return ev.ShardDiscovered(
        at=at,
        shard_id=shard_id,
        peer_id=peer_id,
        sequence=1,
        loaded=True,
        layer_start=4,
        layer_end=8,
        total_shards=2,
        model_name="synth",
        addresses=(ADDRESS,),
        agent="swarmtui/0.1.0",
        source="dht",
        expires_at=400.0,
        size=2**20,
        phase="loaded",
    )


def connected(at: float = 104.0, peer_id: str = PEER) -> ev.PeerConnected:
    return ev.PeerConnected(
        at=at, peer_id=peer_id, address=ADDRESS, transport="quic", direction="outbound"
    )


def heard(at: float = 105.0, peer_id: str = PEER) -> ev.PeerHeard:
    return ev.PeerHeard(at=at, peer_id=peer_id, rtt_ms=1.5, transport="quic")


def ready(at: float = 106.0) -> ev.ReadinessChanged:
    return ev.ReadinessChanged(at=at, ready=True, missing=())


def joining() -> list[ev.Event]:
    """From the start to a ready swarm of two."""
    return [
        started(),
        ev.NodeListening(at=100.5, addresses=(f"/ip4/127.0.0.1/tcp/1/p2p/{ME}",)),
        loaded(),
        ev.BootstrapConnected(at=102.0, address="/ip4/192.0.2.7/tcp/51820", peer_id=RENDEZVOUS),
        discovered(),
        connected(),
        heard(),
        ready(),
    ]


def state_after(events: list[ev.Event]) -> State:
    state = State()
    for event in events:
        state = state.apply(event)
    return state
