"""Putting this node's files into the DHT, and keeping them there.

A file has a record under its info hash, and this node is a provider of the info hash and of the
root. All of it goes in after the first routing update, once per start, and again before it ages,
or when the routing table was still small.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import msgspec
import trio

from node import events as ev
from node.clean import clean
from node.network.dht import Dht
from node.network.identity import Identity
from node.swarm import keys
from node.swarm.records import SequenceClock, TorrentRecord, write_record
from node.torrent.library import Seeded
from node.torrent.manifest import make_manifest, write_manifest

Emit = Callable[[ev.Event], None]
AGAIN_S = 1200.0
"""A third of what a torrent record lives: two rounds may fail."""
FRESH_S = 3600.0
COPIES_WANTED = 3
FEW_COPIES_S = 15.0


class _Author(msgspec.Struct):
    peer_id: str


class Registering:
    """Registers what `files()` gives. `first`: tell the log of the start as a whole."""

    def __init__(
        self, identity: Identity, cluster: str, emit: Emit, files: Callable[[], list[Seeded]]
    ) -> None:
        self._identity = identity
        self._own_id = identity.peer_id
        self._cluster = cluster
        self._emit = emit
        self._files = files
        self._sequence = SequenceClock()
        self._stored: dict[str, int] = {}
        self._manifests: dict[str, tuple[str, float, bytes]] = {}
        self._again_at: dict[str, float] = {}
        self._scanned = trio.Event()
        self._routing = trio.Event()
        self._wake = trio.Event()
        self._grew = False
        self._dht: Dht

    def attach(self, dht: Dht) -> None:
        """Give it its DHT; before `run`."""
        self._dht = dht

    # ------------------------------------------------------------ what is told from outside

    def scanned(self) -> None:
        """The first scan is over: the start's files are known."""
        self._scanned.set()

    def more_peers(self) -> None:
        """The routing table grew: records with few copies are put again."""
        self._routing.set()
        self._grew = True
        self._wake.set()

    def changed(self) -> None:
        """A file was added or withdrawn."""
        self._wake.set()

    def manifest(self, item: Seeded) -> bytes:
        """This node's own signed word on a file of its own; the same for FRESH_S."""
        kept = self._manifests.get(item.file.filename)
        now = trio.current_time()
        if kept is not None and kept[0] == item.root and now - kept[1] < FRESH_S:
            return kept[2]
        layout = item.hashes.layout
        raw = write_manifest(
            make_manifest(
                filename=item.file.filename,
                size=layout.size,
                root=item.hashes.root,
                piece_length=layout.piece_length,
                publisher=self._identity.peer_id,
                seq=self._sequence.next(),
                now=time.time(),
            ),
            self._identity.sign,
        )
        self._manifests[item.file.filename] = (item.root, now, raw)
        return raw

    # ------------------------------------------------------------ running

    async def run(self) -> None:
        """Register until cancelled."""
        await self._scanned.wait()
        await self._routing.wait()
        files = self._files()
        if files:
            self._emit(ev.TorrentsRegistering(at=time.time(), count=len(files)))
            for item in files:
                await self._register(item)
            self._emit(ev.TorrentsRegistered(at=time.time(), count=len(files)))
        while True:
            # Before the look, so that a change during it is not missed.
            self._wake = trio.Event()
            await self._round()
            with trio.move_on_at(self._next_at()):
                await self._wake.wait()

    async def _round(self) -> None:
        now = trio.current_time()
        grew, self._grew = self._grew, False
        present = {item.file.info_hash for item in self._files()}
        names = {item.file.filename for item in self._files()}
        for name in self._manifests.keys() - names:
            del self._manifests[name]
        for old in self._again_at.keys() - present:
            self._again_at.pop(old)
            self._stored.pop(old, None)
        for item in self._files():
            info_hash = item.file.info_hash
            few = self._stored.get(info_hash, 0) < COPIES_WANTED
            if self._again_at.get(info_hash, 0.0) <= now or (grew and few):
                await self._register(item)

    def _next_at(self) -> float:
        return min(self._again_at.values(), default=trio.current_time() + AGAIN_S)

    async def _register(self, item: Seeded) -> None:
        info_hash = item.file.info_hash
        again = info_hash in self._again_at
        key = keys.torrent_key(self._cluster, info_hash)
        stored = await self._dht.put(key, self._record(item))
        if stored:
            await self._dht.provide(key)
            await self._dht.provide(keys.root_key(self._cluster, item.root))
        self._stored[info_hash] = stored
        pause = AGAIN_S if stored else FEW_COPIES_S
        self._again_at[info_hash] = trio.current_time() + pause * random.uniform(0.8, 1.2)
        if stored:
            self._emit(
                ev.TorrentRegistered(
                    at=time.time(),
                    info_hash=info_hash,
                    filename=clean(item.file.filename, 255),
                    stored_at=stored,
                    again=again,
                )
            )

    def _record(self, item: Seeded) -> bytes:
        manifest = self.manifest(item).decode("utf-8")
        try:
            return self._signed(item, manifest)
        except ValueError:
            return self._signed(item, "")  # a very long name leaves no room; LIST_FILES has it

    def _signed(self, item: Seeded, manifest: str, *, withdrawn: bool = False) -> bytes:
        record = TorrentRecord(
            cluster=self._cluster,
            info_hash=item.file.info_hash,
            filename=item.file.filename,
            size=item.file.size,
            peer_id=self._identity.peer_id,
            timestamp=round(time.time(), 3),
            sequence=self._sequence.next(),
            root=item.root,
            piece_length=item.hashes.layout.piece_length,
            publisher=self._identity.peer_id,
            manifest=manifest,
            withdrawn=withdrawn,
        )
        return write_record(record, self._identity.sign)

    async def withdraw(self, item: Seeded) -> None:
        """Take this node's word back, where it is still the newest under the key."""
        info_hash = item.file.info_hash
        if info_hash not in self._again_at:
            return
        self._again_at.pop(info_hash)
        self._stored.pop(info_hash, None)
        key = keys.torrent_key(self._cluster, info_hash)
        found = await self._dht.get(key)
        if not found or msgspec.json.decode(found[0], type=_Author).peer_id != self._own_id:
            return  # another seeder's word stands there, and is right
        await self._dht.put(key, self._signed(item, "", withdrawn=True))
