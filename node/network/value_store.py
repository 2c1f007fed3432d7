"""The DHT's stores with limits: one peer, however busy, cannot fill another's memory.

Only records that passed the check come here. Per author and in total the number of keys is
bounded, the old ones stay when it is full (a flood must not push honest records out), and each
record leaves with its own age instead of py-libp2p's 24 hours.
"""

from __future__ import annotations

import time
from collections import Counter

import msgspec
from libp2p.host.basic_host import BasicHost
from libp2p.kad_dht.pb.kademlia_pb2 import Record
from libp2p.kad_dht.peer_routing import PeerRouting
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.kad_dht.value_store import ValueStore
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo

from node.network.addresses import MAX_ADDRESSES
from node.network.peerstore import short
from node.swarm.records import MAX_AGE_S, MAX_TORRENT_AGE_S

MAX_KEYS = 4096
# A holder has two keys for each of the 64 shards it may announce, and those of its files.
MAX_KEYS_PER_AUTHOR = 192
MAX_PROVIDERS_PER_KEY = 20  # py-libp2p's k, which it enforces too
PROVIDER_AGE_S = 3600.0
"""As torrent records; nodes provide again every twenty minutes."""
CLEAN_AGAIN_S = 30.0


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
    """py-libp2p's provider store with limits; the first providers stay when a key is full.

    They leave after PROVIDER_AGE_S instead of 48 hours, so that invented ones cannot keep a key
    full for long after whoever made them has gone.
    """

    def __init__(self, host: BasicHost, routing: PeerRouting) -> None:
        super().__init__(host=host, peer_routing=routing)
        self._keys_by: Counter[str] = Counter()
        self._cleaned_at = 0.0

    def add_provider(self, key: bytes, provider: PeerInfo) -> None:
        """Remember that a peer offers `key`, within the limits."""
        self._clean(key)
        entries = self.providers.get(key, {})
        mine = str(provider.peer_id)
        if mine not in entries:
            if len(entries) >= MAX_PROVIDERS_PER_KEY:
                return
            if self._full(key, mine):
                # A flood must not have every one of its messages look through the whole store.
                if time.time() - self._cleaned_at < CLEAN_AGAIN_S:
                    return
                self.cleanup_expired()
                if self._full(key, mine):
                    return
            self._keys_by[mine] += 1
        # Every answer that names this provider carries its addresses.
        addresses = short(provider.addrs)[:MAX_ADDRESSES]
        super().add_provider(key, PeerInfo(provider.peer_id, addresses))

    def _full(self, key: bytes, peer_id: str) -> bool:
        """Whether a peer may not provide one more key, or this key not be a new one."""
        new_key = key not in self.providers
        return self._keys_by[peer_id] >= MAX_KEYS_PER_AUTHOR or (
            new_key and len(self.providers) >= MAX_KEYS
        )

    def get_providers(self, key: bytes) -> list[PeerInfo]:
        """The providers of a key whose time is not up."""
        self._clean(key)
        return super().get_providers(key)

    def cleanup_expired(self) -> None:
        """Drop the providers whose time is up."""
        self._cleaned_at = time.time()
        for key in list(self.providers):
            self._clean(key)

    def _clean(self, key: bytes) -> None:
        entries = self.providers.get(key)
        if entries is None:
            return
        oldest = time.time() - PROVIDER_AGE_S
        for peer_id in [name for name, item in entries.items() if item.timestamp < oldest]:
            del entries[peer_id]
            self._keys_by[peer_id] -= 1
            if not self._keys_by[peer_id]:
                del self._keys_by[peer_id]
        if not entries:
            del self.providers[key]
