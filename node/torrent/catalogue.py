"""What peers say they have: manifests that were checked, and who offers which root.

Nothing here is the truth about a file: a manifest is somebody's signed word, a peer in the list is
a place to ask. Which root is right is decided in node.torrent.choosing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from node.torrent.limits import MAX_PEERS, MAX_PUBLISHERS
from node.torrent.manifest import Manifest, ManifestRefusedError, Verifier, read_manifest
from node.torrent.trust import Offer, offers_of

MAX_FILES = 1024
MAX_FILES_PER_PEER = 256
MAX_SIZES = 16
"""Info hashes under one file name: more are a flood."""


class Entry(NamedTuple):
    """A checked manifest and the exact bytes its publisher signed."""

    manifest: Manifest
    raw: bytes


class Catalogue:
    """Files of others by info hash. Bounded: the first to come stay when it is full.

    Only a file that `primary(filename)` names (a shard of the cluster) takes the place of one that
    it does not: invented names cannot lock shards out.
    """

    def __init__(
        self,
        verify: Verifier,
        clock: Callable[[], float] = time.time,
        primary: Callable[[str], bool] = lambda filename: False,
    ) -> None:
        self._verify = verify
        self._clock = clock
        self._primary = primary
        self._entries: dict[str, dict[tuple[str, str], Entry]] = {}
        self._peers: dict[tuple[str, str], set[str]] = {}
        self._by_peer: dict[str, set[tuple[str, str]]] = {}

    def read(self, raw: bytes) -> Manifest:
        """Check a manifest. Raises ManifestRefusedError."""
        return read_manifest(raw, self._verify, now=self._clock())

    def take(self, raw: bytes, peers: Iterable[str], manifest: Manifest | None = None) -> bool:
        """Enter a manifest and peers that are said to serve its root; whether it was news.

        Raises ManifestRefusedError when the manifest is not to be believed.
        """
        found = manifest or self.read(raw)
        publishers = self._entries.get(found.info_hash)
        if publishers is None:
            self._make_room(found.filename)
            publishers = {}
        key = (found.root, found.publisher)
        mine = [item for item in publishers if item[1] == found.publisher]
        if not mine and len(publishers) >= MAX_PUBLISHERS:
            raise ManifestRefusedError("manifest", "too many publishers of this file")
        news = key not in publishers
        if all(_age(publishers[item].manifest) <= _age(found) for item in mine):
            # A publisher has one word on a file: its newest.
            for item in mine:
                del publishers[item]
            publishers[key] = Entry(found, raw)
        elif news:
            raise ManifestRefusedError("seq", "its publisher has said something newer")
        self._entries[found.info_hash] = publishers
        for peer_id in peers:
            news |= self._add_peer(found.info_hash, found.root, peer_id)
        return news

    def _make_room(self, filename: str) -> None:
        if len(self._entries) >= MAX_FILES:
            self._drop_expired()
        if len(self._entries) >= MAX_FILES and self._primary(filename):
            other = next((key for key in self._entries if not self._is_primary(key)), None)
            if other is not None:
                del self._entries[other]
        if len(self._entries) >= MAX_FILES:
            raise ManifestRefusedError("manifest", "the list of files is full")
        if len(self.named(filename)) >= MAX_SIZES:
            raise ManifestRefusedError("size", f"{MAX_SIZES} sizes of this file are known already")

    def _is_primary(self, info_hash: str) -> bool:
        return any(
            self._primary(item.manifest.filename) for item in self._entries[info_hash].values()
        )

    def _add_peer(self, info_hash: str, root: str, peer_id: str) -> bool:
        place = (info_hash, root)
        mine = self._by_peer.setdefault(peer_id, set())
        peers = self._peers.setdefault(place, set())
        if place in mine:
            return False
        if len(mine) >= MAX_FILES_PER_PEER or len(peers) >= MAX_PEERS:
            return False
        mine.add(place)
        peers.add(peer_id)
        return True

    def places_of(self, peer_id: str) -> set[tuple[str, str]]:
        """What a peer is said to serve, as (info hash, root)."""
        return set(self._by_peer.get(peer_id, ()))

    def keep_only(self, peer_id: str, places: set[tuple[str, str]]) -> list[str]:
        """The peer's whole list came: forget what it no longer names; those info hashes."""
        gone = self._by_peer.get(peer_id, set()) - places
        for place in gone:
            self._peers[place].discard(peer_id)
        if peer_id in self._by_peer:
            self._by_peer[peer_id] &= places
        return sorted({info_hash for info_hash, _ in gone})

    def forget(self, peer_id: str) -> None:
        """The peer is gone: it offers nothing."""
        self.keep_only(peer_id, set())
        self._by_peer.pop(peer_id, None)

    def peers_with(self, info_hash: str, root: str) -> set[str]:
        """Who is said to serve this content."""
        return set(self._peers.get((info_hash, root), ()))

    def entries(self, info_hash: str) -> list[Entry]:
        """The manifests of a file that have not expired."""
        now = self._clock()
        found = self._entries.get(info_hash, {}).values()
        return [item for item in found if item.manifest.expires >= now]

    def offers(self, info_hash: str) -> tuple[Offer, ...]:
        """The contents on offer under an info hash."""
        manifests = [item.manifest for item in self.entries(info_hash)]
        seeders = {item.root: len(self.peers_with(info_hash, item.root)) for item in manifests}
        return offers_of(manifests, seeders=seeders, now=self._clock())

    def named(self, filename: str) -> list[str]:
        """The info hashes on offer under a file name (one per size), sorted."""
        return sorted(
            info_hash
            for info_hash in self._entries
            if any(item.manifest.filename == filename for item in self.entries(info_hash))
        )

    def files(self) -> list[str]:
        """Every info hash with a manifest that has not expired, sorted."""
        return sorted(info_hash for info_hash in self._entries if self.entries(info_hash))

    def _drop_expired(self) -> None:
        for info_hash in list(self._entries):
            if not self.entries(info_hash):
                del self._entries[info_hash]


def _age(manifest: Manifest) -> tuple[int, int]:
    return manifest.seq, manifest.created
