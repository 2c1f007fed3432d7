"""Discovery: what this node tells about its shards, and how it learns of the others'.

Three ways carry the same signed announcements: the exchange on a new connection, gossip, and the
DHT. Each one alone is enough to find everybody in the end; together they are quick. What is learnt
goes through one door, `take`, which checks, enters it in the book, emits an event and sees to it
that enough holders of each shard are connected.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from typing import Literal

import trio

from node import events as ev
from node.clean import clean
from node.network.addresses import parse_addresses
from node.network.dht import Dht
from node.network.gossip import Gossip
from node.network.identity import Identity, verify
from node.network.messages import JsonProtocol
from node.network.peers import Peers
from node.swarm import keys
from node.swarm.announcements import Book
from node.swarm.exchange import Exchange
from node.swarm.records import (
    VERSION,
    Announcement,
    Capabilities,
    Readiness,
    RecordRefusedError,
    SequenceClock,
    author,
    read_record,
    write_record,
)

Emit = Callable[[ev.Event], None]
Way = Literal["dht", "gossip", "message"]
HOLDERS_WANTED = 3
WATCHED_PER_SHARD = 2
INBOUND_GRACE_S = 0.6
COPIES_WANTED = 3
PROVIDER_EVERY = 5


class OwnShard:
    """What this node says of one of its shards."""

    def __init__(
        self,
        shard_id: int,
        phase: Literal["none", "file", "loading", "loaded"],
        *,
        layers: tuple[int, int] = (0, 0),
        model_name: str = "",
        size: int = 0,
        progress: float = 0.0,
    ) -> None:
        self.shard_id = shard_id
        self.phase = phase
        self.layers = layers
        self.model_name = model_name
        self.size = size
        self.progress = progress


class Discovery:
    """Announces, queries, republishes and expires for one node."""

    def __init__(
        self,
        identity: Identity,
        peers: Peers,
        emit: Emit,
        *,
        cluster: str,
        total_shards: int,
        agent: str,
        requery_s: float,
        republish_s: float,
        capabilities: Callable[[], Capabilities],
        addresses: Callable[[], list[str]],
        own: Callable[[], list[OwnShard]],
        announces: bool,
    ) -> None:
        self._identity = identity
        self._peers = peers
        self._emit = emit
        self.cluster = cluster
        self._total = total_shards
        self._agent = agent
        self._requery_s = requery_s
        self._republish_s = republish_s
        self._capabilities = capabilities
        self._addresses = addresses
        self._own = own
        self._announces = announces
        self._sequence = SequenceClock()
        self._nursery: trio.Nursery | None = None
        self._dirty: set[int] = set()
        self._wake = trio.Event()
        self._mine: dict[int, bytes] = {}
        self._stored: dict[int, int] = {}
        self._left: set[str] = set()
        self.book = Book(cluster, verify)
        self.dht: Dht
        self.gossip: Gossip
        self.exchange: Exchange
        peers.watched = self.watched
        peers.on_connected(self._on_connected)
        peers.on_lost(self._on_lost)

    def attach(self, dht: Dht, gossip: Gossip, protocol: JsonProtocol) -> None:
        """Give discovery its three ways; before `run`."""
        self.dht, self.gossip = dht, gossip
        self.exchange = Exchange(protocol, self.book, self.own_records, self.take_from_exchange)

    # ------------------------------------------------------------ checking what others say

    def check(self, key: str, raw: bytes, from_peer: str) -> None:
        """The DHT's validator: ValueError on a record that is not to be stored or believed."""
        try:
            record = read_record(key, raw, verify)
        except RecordRefusedError as error:
            if from_peer:
                self.refuse(from_peer, key, error, "dht")
            raise ValueError(str(error)) from error
        if keys.parse(key).cluster == self.cluster and isinstance(record, Announcement):
            self._take(raw, record, "dht")

    def refuse(self, peer_id: str, key: str, error: RecordRefusedError, way: Way) -> None:
        """Report a refused record."""
        self._emit(
            ev.RecordRefused(
                at=time.time(),
                peer_id=clean(peer_id, 64),
                key=clean(key, 200),
                field=error.field,
                reason=error.reason,
                source=way,
            )
        )

    def accept_gossip(self, raw: bytes, author_id: str, forwarder: str) -> bool:
        """Gossip's validator: whether the message may be passed on."""
        try:
            record = self.book.read(raw)
            if author(record) != author_id:
                raise RecordRefusedError("peer_id", "is not the author of the message")
        except RecordRefusedError as error:
            self.refuse(forwarder, "gossip", error, "gossip")
            return False
        return True

    async def receive_gossip(self, raw: bytes, author_id: str) -> None:
        """A message that passed `accept_gossip`."""
        self._take_raw(raw, author_id, "gossip")

    def take_from_exchange(self, raw: bytes, from_peer: str) -> None:
        """An announcement a peer passed on in an exchange."""
        self._take_raw(raw, from_peer, "message")

    def _take_raw(self, raw: bytes, from_peer: str, way: Way) -> None:
        try:
            self._take(raw, self.book.read(raw), way)
        except RecordRefusedError as error:
            self.refuse(from_peer, "announcement", error, way)

    def _take(self, raw: bytes, record: Announcement, way: Way) -> None:
        if record.peer_id == self._identity.peer_id:
            return
        news = self.book.add(raw, record)
        if news is None:
            return
        now = time.time()
        if record.leaving or record.phase == "none":
            self._emit(
                ev.ShardForgotten(
                    at=now,
                    shard_id=record.shard_id,
                    peer_id=record.peer_id,
                    reason="goodbye" if record.leaving else "unloaded",
                )
            )
            if record.leaving:
                self._left.add(record.peer_id)
                self._peers.forget(record.peer_id, "said goodbye")
            return
        self._left.discard(record.peer_id)
        addresses = parse_addresses(record.addresses, record.peer_id)
        self._peers.learn(record.peer_id, addresses, "gossip" if way == "gossip" else "dht")
        if record.shard_id < self._total:
            self._emit(
                ev.ShardDiscovered(
                    at=now,
                    shard_id=record.shard_id,
                    peer_id=record.peer_id,
                    sequence=record.sequence,
                    loaded=record.shard_loaded,
                    layer_start=record.layer_start,
                    layer_end=record.layer_end,
                    total_shards=record.total_shards,
                    model_name=clean(record.model_name, 96),
                    addresses=tuple(str(item) for item in addresses),
                    agent=clean(record.agent, 96),
                    source=way,
                    expires_at=record.timestamp + 300.0,
                    size=record.size,
                    root=record.root,
                    progress=record.progress,
                    phase="loaded" if record.shard_loaded else record.phase,  # type: ignore[arg-type]
                )
            )
        if self._nursery is not None and not self._peers.is_connected(record.peer_id):
            self._nursery.start_soon(self._reach, record.shard_id, record.peer_id, way)

    # ------------------------------------------------------------ connecting to holders

    async def _reach(self, shard_id: int, peer_id: str, way: Way) -> None:
        """Connect to a holder when the shard has too few connected ones.

        A newcomer that gossips is dialling us already; give its connection a moment so that two
        nodes do not dial each other at once.
        """
        if way == "gossip":
            await self._peers.wait_connected(peer_id, INBOUND_GRACE_S)
        holders = [item.record.peer_id for item in self.book.of_shard(shard_id)]
        connected = sum(self._peers.is_connected(item) for item in holders)
        if connected < HOLDERS_WANTED or self._peers.is_connected(peer_id):
            await self._peers.connect(peer_id)

    def watched(self) -> Collection[str]:
        """The peers to ping: for each shard its best holders, sole ones always."""
        result: set[str] = set()
        for shard_id in range(self._total):
            holders = [
                item.record
                for item in self.book.of_shard(shard_id)
                if not item.record.leaving and item.record.phase != "none"
            ]
            holders.sort(key=self._rank)
            result.update(item.peer_id for item in holders[:WATCHED_PER_SHARD])
        return result

    def _rank(self, record: Announcement) -> tuple[bool, bool, bool, str]:
        entry = self._peers.get(record.peer_id)
        return (
            not record.shard_loaded,
            entry is None or entry.silent,
            entry is None or not entry.transports,
            record.peer_id,
        )

    def _on_connected(self, peer_id: str, outbound: bool) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._welcome, peer_id, outbound)

    async def _welcome(self, peer_id: str, outbound: bool) -> None:
        if outbound:
            await self.exchange.with_peer(peer_id)
        await self.dht.add_peer(peer_id)
        for shard_id, stored in self._stored.items():
            if stored < COPIES_WANTED:
                self.changed(shard_id)

    def _on_lost(self, peer_id: str) -> None:
        if self._nursery is None:
            return
        self._nursery.start_soon(self.dht.remove_peer, peer_id)
        for entry in self.book.of_peer(peer_id):
            for other in self.book.of_shard(entry.record.shard_id):
                if other.record.peer_id != peer_id:
                    self._peers.check_soon(other.record.peer_id)

    # ------------------------------------------------------------ announcing

    def own_records(self) -> list[bytes]:
        """This node's current announcements, signed."""
        return list(self._mine.values())

    def changed(self, shard_id: int) -> None:
        """One of this node's shards changed: announce it as soon as possible."""
        self._dirty.add(shard_id)
        self._wake.set()

    def _record(self, shard: OwnShard, *, leaving: bool = False) -> Announcement:
        loaded = shard.phase == "loaded" and not leaving
        return Announcement(
            cluster=self.cluster,
            peer_id=self._identity.peer_id,
            shard_id=shard.shard_id,
            layer_start=shard.layers[0],
            layer_end=shard.layers[1],
            shard_loaded=loaded,
            addresses=tuple(self._addresses()[:6]),
            capabilities=self._capabilities(),
            model_name=shard.model_name[:96],
            total_shards=self._total,
            timestamp=round(time.time(), 3),
            version=VERSION,
            sequence=self._sequence.next(),
            phase="none" if leaving else shard.phase,
            progress=round(shard.progress, 3),
            size=shard.size,
            agent=self._agent,
            leaving=leaving,
        )

    async def announce(self, shard: OwnShard) -> None:
        """Tell everybody about one of this node's shards: gossip at once, then the DHT."""
        record = self._record(shard)
        raw = write_record(record, self._identity.sign)
        self._mine[shard.shard_id] = raw
        self.book.add(raw)
        await self.gossip.publish(raw)
        own_key = keys.holder_key(self.cluster, shard.shard_id, self._identity.peer_id)
        stored = await self.dht.put(own_key, raw, shard.shard_id)
        key = own_key
        if shard.phase == "loaded":
            key = keys.shard_key(self.cluster, shard.shard_id)
            stored = await self.dht.put(key, raw, shard.shard_id)
            await self.dht.provide(key)
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

    async def say_goodbye(self) -> None:
        """Tell everybody that this node leaves. Bounded by the caller's deadline."""
        for shard in self._own():
            if shard.phase != "none":
                goodbye = self._record(shard, leaving=True)
                await self.gossip.publish(write_record(goodbye, self._identity.sign))

    async def put_readiness(self, ready: bool, available: list[int]) -> None:
        """Put this node's view of readiness under the cluster's readiness key."""
        record = Readiness(
            cluster_name=self.cluster,
            total_shards=self._total,
            available_shards=tuple(available[:256]),
            announcing_peer_id=self._identity.peer_id,
            is_ready=ready,
            timestamp=round(time.time(), 3),
            sequence=self._sequence.next(),
        )
        raw = write_record(record, self._identity.sign)
        await self.dht.put(keys.readiness_key(self.cluster), raw)

    # ------------------------------------------------------------ running

    async def run(self) -> None:
        """Announce changes, republish, query and expire until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for peer_id in self._peers.connected_ids():
                nursery.start_soon(self._welcome, peer_id, True)
            if self._announces:
                nursery.start_soon(self._announce_changes)
                nursery.start_soon(self._republish)
            nursery.start_soon(self._query)
            nursery.start_soon(self._expire)

    async def _announce_changes(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            dirty, self._dirty = self._dirty, set()
            for shard in self._own():
                if shard.shard_id in dirty and (
                    shard.phase != "none" or shard.shard_id in self._mine
                ):
                    await self.announce(shard)

    async def _republish(self) -> None:
        while True:
            await trio.sleep(self._republish_s * random.uniform(0.85, 1.15))
            for shard in self._own():
                if shard.phase != "none":
                    self.changed(shard.shard_id)

    async def _query(self) -> None:
        rounds = 0
        while True:
            with trio.move_on_after(self._requery_s * random.uniform(0.85, 1.2)):
                await self._query_once(rounds)
                await trio.sleep_forever()
            rounds += 1

    async def _query_once(self, rounds: int) -> None:
        if not self._peers.connected_ids():
            return
        if rounds % PROVIDER_EVERY == 0:
            await self.dht.refresh()
        for shard_id in range(self._total):
            await self.dht.get(keys.shard_key(self.cluster, shard_id), shard_id)
        await self.dht.get(keys.readiness_key(self.cluster))
        if rounds % PROVIDER_EVERY == 1:
            await self._query_holders(random.randrange(self._total))

    async def _query_holders(self, shard_id: int) -> None:
        """Replicas of one shard, by its providers and each one's own key."""
        key = keys.shard_key(self.cluster, shard_id)
        for peer_id in (await self.dht.find_providers(key, shard_id))[:HOLDERS_WANTED]:
            if peer_id != self._identity.peer_id and self.book.get(shard_id, peer_id) is None:
                await self.dht.get(keys.holder_key(self.cluster, shard_id, peer_id), shard_id)

    async def _expire(self) -> None:
        while True:
            await trio.sleep(self._requery_s)
            self.dht.expire()
            for entry in self.book.expired():
                record = entry.record
                self.book.drop(record.shard_id, record.peer_id)
                if record.peer_id != self._identity.peer_id and not record.leaving:
                    self._emit(
                        ev.ShardForgotten(
                            at=time.time(),
                            shard_id=record.shard_id,
                            peer_id=record.peer_id,
                            reason="expired",
                        )
                    )
