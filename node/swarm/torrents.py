"""All that has to do with files of one node, put together: seeding, finding, fetching, serving."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import trio

from node.door import NodeDoor
from node.network.bootstrap import Bootstraps
from node.network.bulk import BulkStreams
from node.network.dht import Dht
from node.network.identity import Identity, verify
from node.network.peers import Peers
from node.settings import Settings
from node.shards.inspect import shard_id_of
from node.shards.service import Shards
from node.swarm import keys
from node.swarm.announcements import Book
from node.swarm.fetching import Fetching
from node.swarm.holding import Holding
from node.swarm.registering import Registering
from node.swarm.seeding import Seeding
from node.swarm.serving import Commands
from node.swarm.sharing import Sharing
from node.swarm.sources import Sources
from node.swarm.syncing import Syncing
from node.swarm.transferring import Transferring
from node.torrent.catalogue import Catalogue
from node.torrent.hash_cache import HashCache
from node.torrent.library import Library
from node.torrent.own_manifests import ManifestStore
from node.torrent.transfer.upload import Uploads
from node.torrent.trust import KnownRoots

MB = 1e6


class Torrents:
    """The file services of one node. Build it in the node's loop, `attach`, then `start`."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        door: NodeDoor,
        shards: Shards,
        peers: Peers,
        book: Book,
        streams: BulkStreams,
        *,
        total_shards: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._shards = shards
        self._streams = streams
        self._total = total_shards
        self.library = Library()
        self._kept = ManifestStore(settings.node_data_dir / "manifests", verify)
        self._verify = verify
        catalogue = Catalogue(verify, primary=self._is_shard)
        roots = KnownRoots(settings.roots_path)
        uploads = Uploads(max_up=settings.max_up * MB or None)
        self.registering = Registering(
            identity, settings.cluster, door.emit, lambda: self.library.seeded
        )
        self.seeding = Seeding(
            shards,
            self.library,
            self.registering,
            HashCache(settings.hashes_dir),
            roots,
            door.emit,
            total_shards=total_shards,
            rescan_s=settings.requery_s,
        )
        self.sources = Sources(
            identity.peer_id,
            settings.cluster,
            peers,
            book,
            catalogue,
            self.library,
            verify,
            door.emit,
            self._manifests,
        )
        self.transferring = Transferring(
            self.sources,
            self.seeding,
            self.library,
            streams,
            self._kept,
            uploads,
            door.emit,
            folder=settings.shards_dir,
            max_down=settings.max_down * MB or None,
        )
        self.fetching = Fetching(
            self.sources,
            self.seeding,
            self.transferring,
            roots,
            door.emit,
            folder=settings.shards_dir,
            pins=dict(_pin(item) for item in settings.pins),
            trusted=frozenset(settings.trusted),
            resume=settings.fetch and settings.role == "node",
        )
        self.holding = Holding(
            shards,
            self.fetching,
            door.emit,
            plan=settings.shards if settings.role == "node" else (),
            fetch=settings.fetch,
            retry_s=settings.requery_s,
            cluster=settings.cluster,
        )
        self.seeding.changed = self.holding.look
        self._sharing = Sharing(self.library, uploads, self.seeding.corrupt, door.emit)
        self._door = door
        self.syncing: Syncing

    def attach(self, dht: Dht, commands: Commands, bootstraps: Bootstraps) -> None:
        """Give the services their ways out; before `start`."""
        settings = self._settings
        self.registering.attach(dht)
        self.sources.attach(dht, commands)
        self.holding.attach(commands)
        self.transferring.provide = self._provide(dht)
        self._sharing.attach(self._streams)
        self.syncing = Syncing(
            self.sources,
            bootstraps,
            self._door.emit,
            total_shards=self._total,
            missing=lambda: self.holding.missing,
            again_s=settings.requery_s,
            serves=settings.role == "node",
            reconnected=self.transferring.reconnected,
        )
        self._door.tap(self.syncing.tap)

    def _is_shard(self, filename: str) -> bool:
        shard_id = shard_id_of(filename)
        return shard_id is not None and shard_id < self._total()

    def on_moved(self, told: Callable[[int], None]) -> None:
        """Have `told(shard_id)` called when the download of a shard begins or goes on."""
        self.fetching.moved = self.transferring.moved = told

    def _provide(self, dht: Dht) -> Callable[[str], Awaitable[None]]:
        async def provide(root: str) -> None:
            await dht.provide(keys.root_key(self._settings.cluster, root))

        return provide

    def start(self, nursery: trio.Nursery) -> None:
        """Start every service of this node as a task."""
        nursery.start_soon(self.fetching.run)
        nursery.start_soon(self._sharing.run)
        nursery.start_soon(self.syncing.run)
        if self._seeds:
            nursery.start_soon(self.seeding.run)
            nursery.start_soon(self.registering.run)
        if self._settings.role == "node":
            nursery.start_soon(self.holding.run)

    @property
    def _seeds(self) -> bool:
        # A rendezvous node keeps no shards, unless it was given a folder to offer.
        return self._settings.role == "node" or "shards_dir" in self._settings.sources

    def close(self) -> None:
        """Let the files go."""
        self.library.close()

    def _manifests(self, filename: str) -> list[bytes]:
        """This node's own word on a file, then what others say of the same content."""
        item = self.library.get(filename)
        if item is None:
            return []
        found = [self.registering.manifest(item)]
        kept = self._kept.get(item.root, time.time())
        if kept is not None:
            found.append(kept[1])
        trusted = self._settings.trusted
        for entry in self.sources.catalogue.entries(item.file.info_hash):
            if entry.manifest.root == item.root and entry.manifest.publisher in trusted:
                found.append(entry.raw)
        return list(dict.fromkeys(found))


def _pin(text: str) -> tuple[str, str]:
    name, _, root = text.rpartition("@")
    return name, root
