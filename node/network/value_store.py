"""The DHT's stores with limits: one peer, however busy, cannot fill another's memory.

Only records that passed the check come here. Per author and in total the number of keys is
bounded, the old ones stay when it is full (a flood must not push honest records out), and each
record leaves with its own age instead of py-libp2p's 24 hours.
"""

from __future__ import annotations

import time

import msgspec
from libp2p.host.basic_host import BasicHost
from libp2p.kad_dht.pb.kademlia_pb2 import Record
from libp2p.kad_dht.peer_routing import PeerRouting
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.kad_dht.value_store import ValueStore
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo

from node.swarm.records import MAX_AGE_S, MAX_TORRENT_AGE_S

MAX_KEYS = 4096
# A holder has two keys for each of the 64 shards it may announce, and those of its files.
MAX_KEYS_PER_AUTHOR = 192
MAX_PROVIDERS_PER_KEY = 20  # py-libp2p's k, which it enforces too


class _Author(msgspec.Struct):
    peer_id: str = ""
    announcing_peer_id: str = ""
    timestamp: float = 0.0


def _author(value: bytes) -> tuple[str, float]:
    try:
        fields = msgspec.json.decode(value, type=_Author)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", 0.0
    return fields.peer_id or fields.announcing_peer_id, fields.timestamp


class StoreFull(ValueError):
    """The author or the whole store has as many keys as are allowed."""


class BoundedValueStore(ValueStore):
    """py-libp2p's value store with limits per author and in total."""

    def __init__(self, host: BasicHost, own: ID) -> None:
        super().__init__(host=host, local_peer_id=own)
        self._keys_of: dict[str, set[bytes]] = {}
        self._author_of: dict[bytes, str] = {}

    def put_record(self, key: bytes, record: Record) -> None:
        """Keep a checked record until its age is up; StoreFull when the limits are reached."""
        author, timestamp = _author(bytes(record.value))
        if self._refusal(key, author):
            self.cleanup_expired()
            refusal = self._refusal(key, author)
            if refusal:
                raise StoreFull(refusal)
        self._disown(key)
        self._author_of[key] = author
        self._keys_of.setdefault(author, set()).add(key)
        longest = MAX_TORRENT_AGE_S if b"/torrent/" in key else MAX_AGE_S
        self.store[key] = (record, min(timestamp, time.time()) + longest)

    def _refusal(self, key: bytes, author: str) -> str:
        """Why a record of `author` may not be put under `key`; empty when it may.

        A key taken over from another author counts like a new one.
        """
        if key not in self.store and len(self.store) >= MAX_KEYS:
            return f"the store has {MAX_KEYS} keys"
        owned = self._keys_of.get(author, ())
        if key not in owned and len(owned) >= MAX_KEYS_PER_AUTHOR:
            return f"this author has {MAX_KEYS_PER_AUTHOR} keys"
        return ""

    def remove(self, key: bytes) -> bool:
        """Drop a record; whether there was one."""
        self._disown(key)
        return super().remove(key)

    def cleanup_expired(self) -> int:
        """Drop the records whose age is up; returns how many."""
        now = time.time()
        old = [key for key, (_, until) in self.store.items() if until < now]
        for key in old:
            self.remove(key)
        return len(old)

    def _disown(self, key: bytes) -> None:
        author = self._author_of.pop(key, None)
        if author is not None:
            owned = self._keys_of[author]
            owned.discard(key)
            if not owned:
                del self._keys_of[author]


class BoundedProviderStore(ProviderStore):
    """py-libp2p's provider store with limits; the first providers stay when a key is full."""

    def __init__(self, host: BasicHost, routing: PeerRouting) -> None:
        super().__init__(host=host, peer_routing=routing)

    def add_provider(self, key: bytes, provider: PeerInfo) -> None:
        """Remember that a peer offers `key`, within the limits."""
        entries = self.providers.get(key, {})
        mine = str(provider.peer_id)
        if mine not in entries:
            if len(entries) >= MAX_PROVIDERS_PER_KEY:
                return
            if key not in self.providers and len(self.providers) >= MAX_KEYS:
                self.cleanup_expired()
                if len(self.providers) >= MAX_KEYS:
                    return
            owned = sum(mine in item for item in self.providers.values())
            if owned >= MAX_KEYS_PER_AUTHOR:
                return
        super().add_provider(key, provider)
