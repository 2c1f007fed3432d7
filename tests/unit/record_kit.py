"""Signed records for tests."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec

from node.network.identity import Identity
from node.swarm import keys
from node.swarm.records import Announcement, Capabilities, Readiness, TorrentRecord, write_record
from node.torrent.files import info_hash

CLUSTER = "test"
AUTHOR = Identity.create()
STRANGER = Identity.create()


def announcement(identity: Identity = AUTHOR, **changes: Any) -> Announcement:
    """A good announcement of `identity`, with changes."""
    fields: dict[str, Any] = {
        "cluster": CLUSTER,
        "peer_id": identity.peer_id,
        "shard_id": 1,
        "layer_start": 2,
        "layer_end": 4,
        "shard_loaded": True,
        "addresses": ("/ip4/192.0.2.7/tcp/4001",),
        "capabilities": Capabilities(cpu_cores=2, memory_total_mb=1024),
        "model_name": "tiny",
        "total_shards": 4,
        "timestamp": round(time.time(), 3),
        "version": 2,
        "sequence": 5,
        "phase": "loaded",
        "size": 1000,
        "agent": "swarmtui/test",
    }
    return Announcement(**(fields | changes))


def readiness(identity: Identity = AUTHOR, **changes: Any) -> Readiness:
    """A good readiness record."""
    fields: dict[str, Any] = {
        "cluster_name": CLUSTER,
        "total_shards": 4,
        "available_shards": (0, 1, 2, 3),
        "announcing_peer_id": identity.peer_id,
        "is_ready": True,
        "timestamp": round(time.time(), 3),
        "sequence": 5,
    }
    return Readiness(**(fields | changes))


def torrent(identity: Identity = AUTHOR, **changes: Any) -> TorrentRecord:
    """A good torrent record."""
    fields: dict[str, Any] = {
        "cluster": CLUSTER,
        "info_hash": info_hash("shard-1.gguf", 1000),
        "filename": "shard-1.gguf",
        "size": 1000,
        "peer_id": identity.peer_id,
        "timestamp": round(time.time(), 3),
        "sequence": 5,
    }
    return TorrentRecord(**(fields | changes))


def signed(record: Announcement | Readiness | TorrentRecord, identity: Identity = AUTHOR) -> bytes:
    """The record as `identity` signs it."""
    return write_record(record, identity.sign)


def signed_fields(fields: dict[str, Any], identity: Identity = AUTHOR) -> bytes:
    """Any fields at all, with a signature of `identity` that fits them."""
    import base64

    from node.swarm.records import _signed_bytes

    signature = base64.b64encode(identity.sign(_signed_bytes(fields))).decode()
    return json.dumps(fields | {"sig": signature}, ensure_ascii=False).encode("utf-8")


def fields_of(record: Announcement | Readiness | TorrentRecord) -> dict[str, Any]:
    """The record as a JSON object, unsigned."""
    fields = msgspec.to_builtins(record)
    del fields["sig"]
    return dict(fields)


def holder_key(record: Announcement) -> str:
    """The key under which a holder's own announcement lies."""
    return keys.holder_key(record.cluster, record.shard_id, record.peer_id)
