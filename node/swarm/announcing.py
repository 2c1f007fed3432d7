"""What this node tells about its shards: signed, gossiped at once, kept in the DHT, renewed."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import trio

from node import events as ev
from node.network.dht import Dht
from node.network.gossip import Gossip
from node.network.identity import Identity
from node.swarm import keys
from node.swarm.announcements import Book
from node.swarm.records import (
    VERSION,
    Announcement,
    Capabilities,
    Readiness,
    RecordRefusedError,
    SequenceClock,
    write_record,
)

Emit = Callable[[ev.Event], None]
COPIES_WANTED = 3


class OwnShard:
    """What this node says of one of its shards."""

    def __init__(
        self,
        shard_id: int,
        phase: Literal["none", "file", "downloading", "loading", "loaded"],
        *,
        layers: tuple[int, int] = (0, 0),
        model_name: str = "",
        size: int = 0,
        progress: float = 0.0,
        root: str = "",
    ) -> None:
        self.shard_id = shard_id
        self.phase = phase
        self.layers = layers
        self.model_name = model_name
        self.size = size
        self.progress = progress
        self.root = root


class Announcer:
    """Announces one node's shards: `own` gives their state, `addresses` where it listens."""

    def __init__(
        self,
        identity: Identity,
        book: Book,
        emit: Emit,
        *,
        total_shards: Callable[[], int],
        agent: str,
        republish_s: float,
        capabilities: Callable[[], Capabilities],
        addresses: Callable[[], list[str]],
        own: Callable[[], list[OwnShard]],
    ) -> None:
        self._identity = identity
        self._book = book
        self._emit = emit
        self._total = total_shards
        self._agent = agent
        self._republish_s = republish_s
        self._capabilities = capabilities
        self._addresses = addresses
        self.own = own
        self._sequence = SequenceClock()
        self._dirty: set[int] = set()
        self._wake = trio.Event()
        self._mine: dict[int, bytes] = {}
        self._leaving = False
        self._stored: dict[int, int] = {}
        self._dht: Dht
        self._gossip: Gossip

    def attach(self, dht: Dht, gossip: Gossip) -> None:
        """Give the announcer its two ways; before `run`."""
        self._dht, self._gossip = dht, gossip

    def records(self) -> list[bytes]:
        """This node's current announcements, signed."""
        return list(self._mine.values())

    def changed(self, shard_id: int) -> None:
        """One of this node's shards changed: announce it as soon as possible."""
        self._dirty.add(shard_id)
        self._wake.set()

    def more_peers(self) -> None:
        """A peer joined the routing table: records with few copies are put again."""
        for shard_id, stored in self._stored.items():
            if stored < COPIES_WANTED:
                self.changed(shard_id)

    def _record(self, shard: OwnShard, *, leaving: bool = False) -> Announcement:
        return Announcement(
            cluster=self._book.cluster,
            peer_id=self._identity.peer_id,
            shard_id=shard.shard_id,
            layer_start=shard.layers[0],
            layer_end=shard.layers[1],
            shard_loaded=shard.phase == "loaded" and not leaving,
            addresses=tuple(self._addresses()[:6]),
            capabilities=self._capabilities(),
            model_name=shard.model_name[:96],
            total_shards=self._total(),
            timestamp=round(time.time(), 3),
            version=VERSION,
            sequence=self._sequence.next(),
            phase="none" if leaving else shard.phase,
            progress=round(shard.progress, 3),
            size=shard.size,
            root=shard.root,
            agent=self._agent,
            leaving=leaving,
        )

    async def announce(self, shard: OwnShard) -> None:
        """Tell everybody about one of this node's shards: gossip at once, then the DHT."""
        if self._leaving:
            return  # a newer announcement would take the goodbye back
        record = self._record(shard)
        raw = write_record(record, self._identity.sign)
        try:
            self._book.add(raw)
        except RecordRefusedError as error:
            self._emit(
                ev.Problem(
                    at=time.time(),
                    level="warning",
                    tag="SWARM",
                    sentence=f"Shard {shard.shard_id} cannot be announced: {error.reason}.",
                    next_step="Let another node hold it.",
                )
            )
            return
        self._mine[shard.shard_id] = raw
        await self._gossip.publish(raw)
        key = keys.holder_key(self._book.cluster, shard.shard_id, self._identity.peer_id)
        stored = await self._dht.put(key, raw, shard.shard_id)
        if shard.phase == "loaded":
            key = keys.shard_key(self._book.cluster, shard.shard_id)
            stored = await self._dht.put(key, raw, shard.shard_id)
            await self._dht.provide(key)
        self._stored[shard.shard_id] = stored
        if not stored:
            return  # nobody to tell yet; the first connection announces again
        self._emit(
            ev.ShardAnnounced(
                at=time.time(),
                shard_id=shard.shard_id,
                key=key,
                loaded=shard.phase == "loaded",
                sequence=record.sequence,
                stored_at=stored,
            )
        )

    async def say_goodbye(self, tell: Callable[[list[bytes]], Awaitable[None]]) -> None:
        """Tell everybody that this node leaves. Bounded by the caller's deadline.

        `tell` gives records to every connected peer: gossip alone would miss those whose
        subscription has not come yet, as when a node leaves soon after it joined.
        """
        self._leaving = True
        self._mine = {}
        goodbyes = [
            write_record(self._record(shard, leaving=True), self._identity.sign)
            for shard in self.own()
            if shard.phase != "none"
        ]
        if not goodbyes:
            return
        for raw in goodbyes:
            await self._gossip.publish(raw)
        await tell(goodbyes)

    async def put_readiness(self, ready: bool, available: list[int]) -> None:
        """Put this node's view of readiness under the cluster's readiness key."""
        record = Readiness(
            cluster_name=self._book.cluster,
            total_shards=self._total(),
            available_shards=tuple(available[:256]),
            announcing_peer_id=self._identity.peer_id,
            is_ready=ready,
            timestamp=round(time.time(), 3),
            sequence=self._sequence.next(),
        )
        raw = write_record(record, self._identity.sign)
        await self._dht.put(keys.readiness_key(self._book.cluster), raw)

    async def run(self) -> None:
        """Announce changes and renew what was announced, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._republish)
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                dirty, self._dirty = self._dirty, set()
                for shard in self.own():
                    known = shard.phase != "none" or shard.shard_id in self._mine
                    if shard.shard_id in dirty and known:
                        await self.announce(shard)

    async def _republish(self) -> None:
        while True:
            await trio.sleep(self._republish_s * random.uniform(0.85, 1.15))
            for shard in self.own():
                if shard.phase != "none":
                    self.changed(shard.shard_id)
