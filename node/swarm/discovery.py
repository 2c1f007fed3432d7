"""Discovery: how a node learns who holds which shard, and stays connected to them.

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
from node.clean import clean, short_id
from node.network.addresses import parse_addresses
from node.network.dht import Dht
from node.network.identity import verify
from node.network.messages import JsonProtocol
from node.network.peers import Peers
from node.swarm import keys
from node.swarm.announcements import Book, Entry
from node.swarm.announcing import Announcer
from node.swarm.exchange import Exchange
from node.swarm.records import (
    Announcement,
    RecordRefusedError,
    TorrentRecord,
    author,
    read_record,
)

Emit = Callable[[ev.Event], None]
Way = Literal["dht", "gossip", "message"]
HOLDERS_WANTED = 3
WATCHED_PER_SHARD = 2
INBOUND_GRACE_S = 0.6
MAX_WARNED = 1024
PROVIDER_EVERY = 5
REACHING_AT_ONCE = 3


class Discovery:
    """Checks, enters, queries and expires announcements, and keeps their holders connected."""

    def __init__(
        self,
        own_id: str,
        peers: Peers,
        book: Book,
        emit: Emit,
        *,
        total_shards: Callable[[], int],
        requery_s: float,
        announcer: Announcer | None,
        agent: str = "",
    ) -> None:
        self._own_id = own_id
        self._peers = peers
        self.book = book
        self._emit = emit
        self._total = total_shards
        self._requery_s = requery_s
        self._announcer = announcer
        self._agent = agent
        self._nursery: trio.Nursery | None = None
        self._reaching = trio.Semaphore(REACHING_AT_ONCE)
        self._warned: set[tuple[str, str]] = set()
        self.dht: Dht
        self.exchange: Exchange
        self.on_torrent: Callable[[TorrentRecord], None] = lambda record: None
        """Told of every checked torrent record of this cluster."""
        self.on_welcome: Callable[[], None] = lambda: None
        """Told when one peer more can be asked to keep records."""
        book.standing = self._standing
        book.on_evicted = lambda entry: self._forget(entry, "replaced")
        peers.watched = self.watched
        peers.on_connected(self._on_connected)
        peers.on_lost(self._on_lost)

    @property
    def cluster(self) -> str:
        return self.book.cluster

    def attach(self, dht: Dht, protocol: JsonProtocol) -> None:
        """Give discovery the DHT and the exchange's protocol; before `run`."""
        self.dht = dht
        own = self._announcer.records if self._announcer is not None else list
        self.exchange = Exchange(
            protocol,
            self.book,
            own,
            self.take_from_exchange,
            agent=self._agent,
            identified=self._identified,
        )

    # ------------------------------------------------------------ checking what others say

    def check(self, key: str, raw: bytes, from_peer: str) -> None:
        """The DHT's validator: ValueError on a record that is not to be stored or believed."""
        try:
            record = read_record(key, raw, verify)
            if keys.parse(key).cluster == self.cluster:
                if isinstance(record, Announcement):
                    self._take(raw, record, "dht")
                elif isinstance(record, TorrentRecord):
                    self.on_torrent(record)
        except RecordRefusedError as error:
            if from_peer:
                self.refuse(from_peer, key, error, "dht")
            raise ValueError(str(error)) from error

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

    def _identified(self, peer_id: str, agent: str) -> None:
        text = clean(agent, 96)
        if text:
            self._emit(ev.PeerIdentified(at=time.time(), peer_id=peer_id, agent=text, protocols=()))

    def take_from_exchange(self, raw: bytes, from_peer: str) -> None:
        """An announcement a peer passed on in an exchange."""
        self._take_raw(raw, from_peer, "message")

    def _take_raw(self, raw: bytes, from_peer: str, way: Way) -> None:
        try:
            self._take(raw, self.book.read(raw), way)
        except RecordRefusedError as error:
            self.refuse(from_peer, "announcement", error, way)

    def _take(self, raw: bytes, record: Announcement, way: Way) -> None:
        if record.peer_id == self._own_id:
            return
        if self._announcer is not None and record.shard_id >= self._total():
            # Of no use here, and a thousand ids would be room for a flood.
            self._compare(record)
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
                self._peers.forget(record.peer_id, "said goodbye")
            return
        addresses = parse_addresses(record.addresses, record.peer_id)
        self._peers.learn(record.peer_id, addresses, "gossip" if way == "gossip" else "dht")
        self._compare(record)
        if record.shard_id < self._total() or self._announcer is None:
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

    def _compare(self, record: Announcement) -> None:
        """Warn, once per peer, of nodes in this cluster that were cut from something else."""
        if self._announcer is None:
            return
        total = self._total()
        ours = next((i.model_name for i in self._announcer.own() if i.phase == "loaded"), "")
        who = short_id(record.peer_id)
        if record.total_shards != total:
            self._warn_once(
                record.peer_id,
                "total",
                f"Peer {who} counts {record.total_shards} shards, this node {total}: they cannot"
                " serve one model.",
                "Give all nodes the same --total-shards, or another --cluster to one of them.",
            )
        elif ours and record.model_name and record.model_name != ours:
            self._warn_once(
                record.peer_id,
                "model",
                f"Peer {who} holds shards of '{clean(record.model_name, 64)}', this node of"
                f" '{clean(ours, 64)}'.",
                "Give one of the two models another --cluster.",
            )

    def _warn_once(self, peer_id: str, what: str, sentence: str, next_step: str) -> None:
        if (peer_id, what) in self._warned or len(self._warned) >= MAX_WARNED:
            return
        self._warned.add((peer_id, what))
        self._emit(
            ev.Problem(
                at=time.time(),
                level="warning",
                tag="SWARM",
                sentence=sentence,
                next_step=next_step,
                detail=peer_id,
            )
        )

    # ------------------------------------------------------------ connecting to holders

    async def _reach(self, shard_id: int, peer_id: str, way: Way) -> None:
        """Connect to a holder when the shard has too few connected ones.

        A newcomer that gossips is dialling us already; give its connection a moment so that two
        nodes do not dial each other at once.
        """
        if way == "gossip":
            await self._peers.wait_connected(peer_id, INBOUND_GRACE_S)
        async with self._reaching:
            # In turns, so that those before count: else every holder of a shard would be dialled.
            holders = [item.record.peer_id for item in self.book.of_shard(shard_id)]
            connected = sum(self._peers.is_connected(item) for item in holders)
            if connected < HOLDERS_WANTED:
                await self._peers.connect(peer_id)

    def watched(self) -> Collection[str]:
        """The peers to ping: for each shard its best holders, sole ones always."""
        result: set[str] = set()
        for shard_id in range(self._total()):
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
        if self._announcer is not None:
            self._announcer.more_peers()
        self.on_welcome()

    def _on_lost(self, peer_id: str) -> None:
        if self._nursery is None:
            return
        self._nursery.start_soon(self.dht.remove_peer, peer_id)
        for entry in self.book.of_peer(peer_id):
            for other in self.book.of_shard(entry.record.shard_id):
                if other.record.peer_id != peer_id:
                    self._peers.check_soon(other.record.peer_id)

    async def tell_everybody(self, records: list[bytes]) -> None:
        """Give every connected peer these records, all at once; until each answered."""
        async with trio.open_nursery() as nursery:
            for peer_id in self._peers.connected_ids():
                nursery.start_soon(self.exchange.tell, peer_id, records)

    # ------------------------------------------------------------ running

    async def run(self) -> None:
        """Query, expire and keep holders connected until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for peer_id in self._peers.connected_ids():
                nursery.start_soon(self._welcome, peer_id, True)
            nursery.start_soon(self._query)
            nursery.start_soon(self._expire)
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None  # a closed one takes no more tasks: others ask before

    async def _query(self) -> None:
        rounds = 0
        while True:
            next_round = trio.current_time() + self._requery_s * random.uniform(0.85, 1.2)
            await self._query_once(rounds)
            rounds += 1
            await trio.sleep_until(next_round)

    async def _query_once(self, rounds: int) -> None:
        if not self._peers.connected_ids():
            return
        if rounds % PROVIDER_EVERY == 0:
            await self.dht.refresh()
        if self._announcer is None:
            return  # a rendezvous node keeps records for others and looks for no shard itself
        for shard_id in range(self._total()):
            await self.dht.get(keys.shard_key(self.cluster, shard_id), shard_id)
        await self.dht.get(keys.readiness_key(self.cluster))
        if rounds % PROVIDER_EVERY == 1:
            await self._query_holders(random.randrange(self._total()))

    async def _query_holders(self, shard_id: int) -> None:
        """Replicas of one shard, by its providers and each one's own key."""
        key = keys.shard_key(self.cluster, shard_id)
        for peer_id in (await self.dht.find_providers(key, shard_id))[:HOLDERS_WANTED]:
            if peer_id != self._own_id and self.book.get(shard_id, peer_id) is None:
                await self.dht.get(keys.holder_key(self.cluster, shard_id, peer_id), shard_id)

    async def _expire(self) -> None:
        while True:
            await trio.sleep(self._requery_s)
            self.dht.expire()
            for entry in self.book.expired():
                record = entry.record
                self.book.drop(record.shard_id, record.peer_id)
                self._forget(entry, "expired")

    def _forget(self, entry: Entry, reason: Literal["expired", "replaced"]) -> None:
        record = entry.record
        if record.peer_id != self._own_id and not record.leaving:
            self._emit(
                ev.ShardForgotten(
                    at=time.time(),
                    shard_id=record.shard_id,
                    peer_id=record.peer_id,
                    reason=reason,
                )
            )

    def _standing(self, peer_id: str) -> int:
        """2 this node, 1 a peer it was connected to or heard from, 0 a stranger."""
        if peer_id == self._own_id:
            return 2
        known = self._peers.get(peer_id)
        return int(known is not None and bool(known.heard or known.transports))
