"""A recorded scenario: a small swarm at work, told by events with fixed times."""

from __future__ import annotations

from node import events as ev
from node.door import NodeDoor

T0 = 1_750_000_000.0
NOW = T0 + 3723.0
ME = "12D3KooWAliceAliceAliceAliceAliceAliceAliceAliceA1ce"
BOB = "12D3KooWBobBobBobBobBobBobBobBobBobBobBobBobBobBoB0b"
CARA = "12D3KooWCaraCaraCaraCaraCaraCaraCaraCaraCaraCaraCar4"
DORA = "12D3KooWDoraDoraDoraDoraDoraDoraDoraDoraDoraDoraDor4"
RENDEZVOUS = "12D3KooWRendezvousRendezvousRendezvousRendezvousRv51"
GIB = 2**30
HASH = "e40aeb34da87db7997d21c343d14792f08c27a5de8dab5eedfb099a2105e47fc"


def shift(seconds: float) -> None:
    """Move the whole scenario in time, for a console that reads the real clock."""
    global T0, NOW
    T0 += seconds
    NOW += seconds


def started(total: int = 4, own: tuple[int, ...] = (0,)) -> ev.NodeStarted:
    return ev.NodeStarted(
        at=T0,
        peer_id=ME,
        name="alice",
        role="node",
        cluster="llama-cluster",
        total_shards=total,
        own_shards=own,
        model_name="llama-3-8b-q4",
        transport="dual",
        version="0.1.0",
        shards_dir="/srv/shards",
        data_dir="/srv/data",
    )


def discovered(shard_id: int, peer_id: str, at: float, **more: object) -> ev.ShardDiscovered:
    values: dict[str, object] = {
        "sequence": 1,
        "loaded": True,
        "phase": "loaded",
        "layer_start": shard_id * 8,
        "layer_end": shard_id * 8 + 8,
        "total_shards": 4,
        "model_name": "llama-3-8b-q4",
        "addresses": (f"/ip4/10.0.0.{shard_id + 2}/tcp/4001",),
        "agent": f"swarmtui/0.1.0 node-{shard_id}",
        "source": "gossip",
        "expires_at": at + 300,
        "size": 2 * GIB - 100_000_000,
        **more,
    }
    return ev.ShardDiscovered(at=at, shard_id=shard_id, peer_id=peer_id, **values)  # type: ignore[arg-type]


def connected(peer_id: str, at: float, *, quic: bool = True) -> list[ev.Event]:
    address = f"/ip4/10.0.0.9/tcp/4001/p2p/{peer_id}"
    found: list[ev.Event] = [
        ev.PeerFound(at=at, peer_id=peer_id, addresses=(address,), source="dht"),
        ev.PeerDialing(at=at, peer_id=peer_id, address=address, transport="tcp"),
        ev.PeerConnected(
            at=at, peer_id=peer_id, address=address, transport="tcp", direction="outbound"
        ),
    ]
    if quic:
        found.append(
            ev.PeerConnected(
                at=at, peer_id=peer_id, address=address, transport="quic", direction="outbound"
            )
        )
    return found


def query(number: int, shard_id: int, at: float, **more: object) -> list[ev.Event]:
    key = f"/llama-cluster/llama-cluster/shard/{shard_id}"
    values: dict[str, object] = {
        "duration_ms": 14.0,
        "asked": (
            ev.PeerAnswer(peer_id=BOB, duration_ms=3.2, result="value"),
            ev.PeerAnswer(peer_id=CARA, duration_ms=9.0, result="closer"),
        ),
        "outcome": "found",
        "found": 1,
        **more,
    }
    return [
        ev.DhtQueryStarted(
            at=at, query_id=number, kind="get_value", key=key, shard_id=shard_id
        ),
        ev.DhtQueryFinished(
            at=at + 0.014,
            query_id=number,
            kind="get_value",
            key=key,
            shard_id=shard_id,
            **values,  # type: ignore[arg-type]
        ),
    ]


def recorded() -> list[ev.Event]:
    """Shard 0 LOCAL, 1 ONLINE twice, 2 OFFLINE for its holder's silence, 3 file only."""
    path = "/srv/shards/shard-0.gguf"
    found: list[ev.Event] = [
        started(),
        ev.NodeListening(at=T0 + 1, addresses=(f"/ip4/10.0.0.1/tcp/4001/p2p/{ME}",)),
        ev.ShardFileFound(
            at=T0 + 1, shard_id=0, path=path, size=2 * GIB, layer_start=0, layer_end=8,
            model_name="llama-3-8b-q4",
        ),
        ev.TorrentSeeded(
            at=T0 + 1, info_hash=HASH, filename="shard-0.gguf", size=2 * GIB, shard_id=0
        ),
        ev.ShardLoading(at=T0 + 2, shard_id=0, progress=0.4, path=path),
        ev.ShardLoaded(
            at=T0 + 6, shard_id=0, path=path, size=2 * GIB, layer_start=0, layer_end=8,
            model_name="llama-3-8b-q4", seconds=3.6,
        ),
        ev.BootstrapConnected(
            at=T0 + 7, address="/ip4/10.0.0.250/tcp/51820", peer_id=RENDEZVOUS
        ),
        *connected(RENDEZVOUS, T0 + 7),
        *connected(BOB, T0 + 20),
        *connected(CARA, T0 + 25, quic=False),
        *connected(DORA, T0 + 30),
        ev.RoutingUpdated(at=T0 + 30, peer_id=DORA, size=4),
        discovered(1, BOB, T0 + 40),
        discovered(1, CARA, T0 + 41),
        discovered(2, DORA, T0 + 42),
        discovered(3, CARA, T0 + 43, loaded=False, phase="file"),
        ev.TorrentListed(
            at=T0 + 50, info_hash=HASH[::-1], filename="shard-3.gguf", size=GIB, peer_id=CARA
        ),
        ev.ShardAnnounced(
            at=T0 + 51, shard_id=0, key="/llama-cluster/llama-cluster/shard/0", loaded=True,
            sequence=7, stored_at=3,
        ),
        ev.PeerHeard(at=NOW - 200, peer_id=DORA, rtt_ms=18.0, transport="tcp"),
        ev.PeerSilent(at=NOW - 180, peer_id=DORA, silent_s=20.0, reason="no answer to 4 pings"),
        *query(41, 1, NOW - 30),
        *query(
            42, 2, NOW - 20, outcome="missing", found=0, duration_ms=840.0,
            asked=(
                ev.PeerAnswer(peer_id=BOB, duration_ms=4.0, result="none"),
                ev.PeerAnswer(
                    peer_id=DORA, duration_ms=800.0, result="timeout", detail="no answer in 800 ms"
                ),
            ),
        ),
        ev.PeerHeard(at=NOW - 3, peer_id=RENDEZVOUS, rtt_ms=0.6, transport="tcp"),
        ev.PeerHeard(at=NOW - 2, peer_id=BOB, rtt_ms=3.1, transport="tcp"),
        ev.PeerHeard(at=NOW - 1, peer_id=CARA, rtt_ms=31.4, transport="tcp"),
        ev.PeerIdentified(
            at=NOW - 1, peer_id=RENDEZVOUS, agent="swarmtui/0.1.0", protocols=("/ipfs/kad/1.0.0",)
        ),
        ev.ReadinessChanged(at=NOW - 1, ready=False, missing=(2, 3)),
        ev.DhtQueryStarted(
            at=NOW - 1, query_id=43, kind="get_value",
            key=f"/llama-cluster/llama-cluster/shard/3/{CARA}", shard_id=3,
        ),
        ev.CommandReceived(
            at=NOW - 1, request_id="req-9", command="GET_STATUS", peer_id=BOB, summary=""
        ),
        ev.MessageReceived(at=NOW - 1, peer_id=BOB, text="good evening"),
    ]
    return found


def recorded_door() -> NodeDoor:
    """A door after the whole scenario."""
    door = NodeDoor()
    for event in recorded():
        door.emit(event)
    return door
