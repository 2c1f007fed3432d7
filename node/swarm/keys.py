"""The DHT keys of a cluster: written and read in one place."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

PREFIX = "/llama-cluster"
NAMESPACE = "llama-cluster"
DEFAULT_CLUSTER = "llama-cluster"
CLUSTER_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MAX_SHARDS = 1000

Kind = Literal["shard", "holder", "torrent", "readiness"]


class Key(NamedTuple):
    """A parsed key. `name` is the shard id, or the info hash of a torrent, as text."""

    kind: Kind
    cluster: str
    name: str
    peer_id: str


def shard_key(cluster: str, shard_id: int) -> str:
    """Best announcement for a shard."""
    return f"{PREFIX}/{cluster}/shard/{shard_id}"


def holder_key(cluster: str, shard_id: int, peer_id: str) -> str:
    """That holder's own announcement, so that replicas never overwrite each other."""
    return f"{shard_key(cluster, shard_id)}/{peer_id}"


def torrent_key(cluster: str, info_hash: str) -> str:
    """The metadata record of a file."""
    return f"{PREFIX}/{cluster}/torrent/{info_hash}"


def root_key(cluster: str, root: str) -> str:
    """Under which the seeders of one content provide; `root` in hex. Never holds a value."""
    return f"{PREFIX}/{cluster}/root/{root}"


def readiness_key(cluster: str) -> str:
    """Readiness of the swarm; the default cluster keeps the origin's key."""
    if cluster == DEFAULT_CLUSTER:
        return f"{PREFIX}/swarm-ready"
    return f"{PREFIX}/{cluster}/swarm-ready"


def parse(key: str) -> Key:
    """Read a key; ValueError naming the part that is wrong."""
    if len(key) > 256:
        raise ValueError("key: longer than 256 characters")
    parts = key.split("/")
    if len(parts) < 3 or parts[0] or parts[1] != NAMESPACE:
        raise ValueError("key: not in /llama-cluster")
    if parts[2:] == ["swarm-ready"]:
        return Key("readiness", DEFAULT_CLUSTER, "", "")
    cluster = parts[2]
    if not CLUSTER_PATTERN.fullmatch(cluster):
        raise ValueError("key: bad cluster name")
    rest = parts[3:]
    if rest == ["swarm-ready"]:
        return Key("readiness", cluster, "", "")
    if len(rest) == 2 and rest[0] == "torrent":
        if not re.fullmatch(r"[0-9a-f]{64}", rest[1]):
            raise ValueError("key: the info hash is not 64 hex digits")
        return Key("torrent", cluster, rest[1], "")
    if len(rest) in (2, 3) and rest[0] == "shard":
        if not re.fullmatch(r"0|[1-9][0-9]{0,2}|1000", rest[1]) or int(rest[1]) >= MAX_SHARDS:
            raise ValueError(f"key: the shard id is not 0..{MAX_SHARDS - 1}")
        if len(rest) == 2:
            return Key("shard", cluster, rest[1], "")
        if not re.fullmatch(r"[A-Za-z0-9]{40,128}", rest[2]):
            raise ValueError("key: bad peer id")
        return Key("holder", cluster, rest[1], rest[2])
    raise ValueError("key: unknown kind")
