"""The Kademlia DHT of a node: py-libp2p's server, tables and stores; lookups of our own.

Stock lookups ask every peer twice, one dead peer delays each by 10 s, and nothing tells what was
asked. Here a lookup sends GET_VALUE straight along the way (its answers carry closer peers), stops
when enough peers agree, and emits one event with every peer's part in it; see node.network.walking.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Literal, cast

import trio
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.records.record import make_signed_put_record
from libp2p.records.validator import NamespacedValidator, Validator

from node import events as ev
from node.network.host import set_handler
from node.network.peers import Peers
from node.network.rpc import Answer, DhtCalls
from node.network.streams import BufferedStream
from node.network.value_store import BoundedProviderStore, BoundedValueStore, StoreFull
from node.network.walking import ALPHA, ANCHORS, Result, Walker
from node.swarm import keys

REPLICATION = 8
AGREE = 2
ASKED_FOR_RECORD = 4
"""So many answers without a record and it is missing; it is asked for often."""
ASKED_FOR_PROVIDERS = REPLICATION
INBOUND_STREAMS = 512
MAX_PROVIDER_KEY = 80
PROVIDES_PER_WINDOW = 256

Emit = Callable[[ev.Event], None]
Check = Callable[[str, bytes, str], None]

_calling_peer: contextvars.ContextVar[str] = contextvars.ContextVar("calling_peer", default="")


class _ClusterValidator(Validator):
    """Lets only checked records into the store; the check raises and reports by itself."""

    def __init__(self, check: Check, select: Callable[[list[bytes]], int]) -> None:
        self._check = check
        self._select = select

    def validate(self, key: str, value: bytes) -> None:
        self._check(key, value, _calling_peer.get())

    def select(self, key: str, values: list[bytes]) -> int:
        return self._select(values)


class Dht:
    """Put, get and provide with events. `check(key, value, from_peer)` raises on bad records."""

    def __init__(
        self,
        host: BasicHost,
        peers: Peers,
        emit: Emit,
        *,
        check: Check,
        select: Callable[[list[bytes]], int],
        timeout_s: float,
    ) -> None:
        self._host = host
        self._peers = peers
        self._emit = emit
        self._check = check
        self._select = select
        self._timeout = timeout_s
        self._ids = itertools.count(1)
        self._calls = DhtCalls(host, lambda peer_id: self._peers.get(peer_id) is not None)
        self._own = host.get_id()
        validator = NamespacedValidator({keys.NAMESPACE: _ClusterValidator(check, select)})
        self._kad = KadDHT(
            host,
            DHTMode.SERVER,
            validator=validator,
            validator_changed=True,
            strict_validation=True,
            # Operators keep a cluster in one subnet; the per-subnet cap is for the open internet.
            max_peers_per_subnet=0,
        )
        # Ten in ten seconds are too few for a node with six files, and going over resets the kept
        # stream; what a peer may store is bounded below.
        self._kad._provider_rate_max = PROVIDES_PER_WINDOW
        self._kad._inbound_limiter = trio.CapacityLimiter(INBOUND_STREAMS)
        self._store = BoundedValueStore(host, self._own)
        self._kad.value_store = self._store
        self._kad.provider_store = BoundedProviderStore(host, self._kad.peer_routing)
        set_handler(host, str(PROTOCOL_ID), self._serve)
        self._walker = Walker(self._own, peers, self._kad.routing_table, timeout_s)
        self._told_size = 0

    async def run(self) -> None:
        """Carry the calls of lookups until cancelled; lookups wait for it to start."""
        await self._walker.run()

    async def _serve(self, stream: INetStream) -> None:
        peer_id = str(stream.muxed_conn.peer_id)
        _calling_peer.set(peer_id)
        self._peers.heard(peer_id)
        await self._kad.handle_stream(cast(INetStream, BufferedStream(stream)))

    # ------------------------------------------------------------ the routing table

    @property
    def size(self) -> int:
        """How many peers the routing table holds."""
        return int(self._kad.routing_table.size())

    async def add_peer(self, peer_id: str) -> None:
        """Put a connected peer into the routing table."""
        peer = ID.from_base58(peer_id)
        entry = self._peers.get(peer_id)
        if entry is not None and entry.addresses:
            self._host.get_peerstore().add_addrs(peer, entry.addresses, 3600)
        await self._kad.add_peer(peer, skip_server_mode_check=True)
        self._tell_size(peer_id)

    async def remove_peer(self, peer_id: str) -> None:
        """Take a silent peer out; others may still name it, which quarantine covers."""
        peer = ID.from_base58(peer_id)
        self._kad.routing_table.remove_peer(peer)
        await self._calls.forget(peer)
        self._tell_size(peer_id)

    def _tell_size(self, peer_id: str) -> None:
        # py-libp2p's server adds callers by itself, so the size before a call says nothing.
        if self.size != self._told_size:
            self._told_size = self.size
            self._emit(ev.RoutingUpdated(at=time.time(), peer_id=peer_id, size=self.size))

    def _begin(self, kind: ev.QueryKind, key: str, shard_id: int | None) -> tuple[int, float]:
        query_id = next(self._ids)
        self._emit(
            ev.DhtQueryStarted(
                at=time.time(), query_id=query_id, kind=kind, key=key, shard_id=shard_id
            )
        )
        return query_id, time.perf_counter()

    def _end(
        self,
        begun: tuple[int, float],
        kind: ev.QueryKind,
        key: str,
        shard_id: int | None,
        asked: list[ev.PeerAnswer],
        outcome: Literal["found", "missing", "stored", "partial", "failed"],
        found: int,
    ) -> None:
        self._emit(
            ev.DhtQueryFinished(
                at=time.time(),
                query_id=begun[0],
                kind=kind,
                key=key,
                shard_id=shard_id,
                duration_ms=round((time.perf_counter() - begun[1]) * 1000, 2),
                asked=tuple(asked),
                outcome=outcome,
                found=found,
            )
        )

    async def get(self, key: str, shard_id: int | None = None) -> list[bytes]:
        """Ask the network for `key`; every valid value found, best first.

        The network is asked even when a copy lies here (py-libp2p's own get would go stale).
        """
        begun = self._begin("get_value", key, shard_id)
        raw_key = key.encode("utf-8")
        asked: list[ev.PeerAnswer] = []
        values: list[bytes] = []

        async def ask(peer: ID) -> tuple[Answer, Result, str]:
            answer = await self._calls.get_value(peer, raw_key, self._timeout)
            if answer.value is None:
                return answer, "none", ""
            try:
                self._check(key, answer.value, str(peer))
            except ValueError as error:
                return answer, "refused", str(error)
            values.append(answer.value)
            return answer, "value", ""

        def enough() -> bool:
            answers = sum(item.result in ("value", "none", "refused") for item in asked)
            return len(values) >= AGREE or answers >= ASKED_FOR_RECORD

        await self._walker.walk(raw_key, ask, enough, asked, anchors=1)
        local = self._store.get(raw_key)
        if local is not None:
            values.append(bytes(local.value))
        best = list(dict.fromkeys(values))
        if best:
            best.insert(0, best.pop(self._select(best)))
            self._keep(raw_key, best[0])
        answered = any(item.result in ("value", "none", "refused") for item in asked)
        outcome: Literal["found", "missing", "failed"] = (
            "found" if best else "missing" if answered or not asked else "failed"
        )
        self._end(begun, "get_value", key, shard_id, asked, outcome, len(values))
        return best

    def _keep(self, raw_key: bytes, value: bytes) -> None:
        known = self._store.get(raw_key)
        if known is None or (
            known.value != value and self._select([bytes(known.value), value]) == 1
        ):
            record = make_signed_put_record(raw_key, value, self._host.get_private_key())
            with contextlib.suppress(StoreFull):  # the copy here is a convenience, others keep it
                self._store.put_record(raw_key, record)

    async def _approach(self, raw_key: bytes, call: Callable[[ID], Awaitable[Answer]]) -> None:
        """Meet the peers closest to a key before something is stored there.

        Whoever looks for it learns of closer peers from every answer; storing has no answers that
        name any. In a large swarm the two would end at different peers.
        """
        if len(self._walker.nearest(raw_key)) <= REPLICATION:
            return  # all of them get it anyway

        async def ask(peer: ID) -> tuple[Answer, Result, str]:
            return await call(peer), "closer", ""

        await self._walker.walk(raw_key, ask, lambda: False, [], limit=2 * ALPHA)

    async def put(self, key: str, value: bytes, shard_id: int | None = None) -> int:
        """Store a record here and at the REPLICATION closest peers; returns how many took it.

        Raises ValueError when this node's own check refuses the record.
        """
        self._check(key, value, "")
        begun = self._begin("put_value", key, shard_id)
        raw_key = key.encode("utf-8")
        asked: list[ev.PeerAnswer] = []
        self._keep(raw_key, value)
        record = make_signed_put_record(raw_key, value, self._host.get_private_key())

        async def ask(peer: ID) -> tuple[Answer, Result, str]:
            await self._calls.put_value(peer, record, self._timeout)
            return Answer(), "stored", ""

        def enough() -> bool:
            return sum(item.result == "stored" for item in asked) >= REPLICATION

        if keys.parse(key).kind == "torrent":  # the others are announced by gossip, too
            await self._approach(
                raw_key, lambda peer: self._calls.get_value(peer, raw_key, self._timeout)
            )
        await self._walker.walk(
            raw_key, ask, enough, asked, limit=REPLICATION + ALPHA, anchors=ANCHORS
        )
        stored = sum(item.result == "stored" for item in asked)
        outcome: Literal["stored", "partial", "failed"] = (
            "stored" if stored == len(asked) else "partial" if stored else "failed"
        )
        self._end(begun, "put_value", key, shard_id, asked, outcome, stored)
        return stored

    async def refresh(self) -> int:
        """Look for the peers closest to ourselves; returns how many answered."""
        begun = self._begin("refresh", str(self._own), None)
        asked: list[ev.PeerAnswer] = []
        target = self._own.to_bytes()

        async def ask(peer: ID) -> tuple[Answer, Result, str]:
            answer = await self._calls.find_node(peer, target, self._timeout)
            return answer, "closer", f"{len(answer.closer)} peers"

        found = await self._walker.walk(target, ask, lambda: False, asked)
        for peer in found:
            await self.add_peer(str(peer))
        outcome: Literal["found", "missing"] = "found" if found else "missing"
        self._end(begun, "refresh", str(self._own), None, asked, outcome, len(found))
        return len(found)

    async def provide(self, key: str) -> int:
        """Tell the REPLICATION closest peers that this node offers `key`."""
        begun = self._begin("provide", key, None)
        raw_key = _provider_key(key)
        asked: list[ev.PeerAnswer] = []
        addresses = list(self._host.get_addrs())

        async def ask(peer: ID) -> tuple[Answer, Result, str]:
            await self._calls.add_provider(peer, raw_key, self._own, addresses, self._timeout)
            return Answer(), "stored", ""

        def enough() -> bool:
            return sum(item.result == "stored" for item in asked) >= REPLICATION

        await self._approach(
            raw_key, lambda peer: self._calls.get_providers(peer, raw_key, self._timeout)
        )
        await self._walker.walk(
            raw_key, ask, enough, asked, limit=REPLICATION + ALPHA, anchors=ANCHORS
        )
        stored = sum(item.result == "stored" for item in asked)
        outcome: Literal["stored", "failed"] = "stored" if stored or not asked else "failed"
        self._end(begun, "provide", key, None, asked, outcome, stored)
        return stored

    async def find_providers(self, key: str, shard_id: int | None = None) -> list[str]:
        """The peers that offer `key`; their addresses are learnt on the way."""
        begun = self._begin("find_providers", key, shard_id)
        raw_key = _provider_key(key)
        asked: list[ev.PeerAnswer] = []
        found: dict[str, None] = {}
        for known in self._kad.provider_store.get_providers(raw_key):
            if known.peer_id != self._own:
                found[str(known.peer_id)] = None
                if known.addrs:
                    self._peers.learn(str(known.peer_id), list(known.addrs), "dht")

        async def ask(peer: ID) -> tuple[Answer, Result, str]:
            answer = await self._calls.get_providers(peer, raw_key, self._timeout)
            for peer_id, addresses in answer.providers:
                if addresses:
                    self._peers.learn(peer_id, addresses, "dht")
                if peer_id != str(self._own):
                    found[peer_id] = None
            return answer, "providers" if answer.providers else "none", ""

        def enough() -> bool:
            named = sum(item.result == "providers" for item in asked)
            answers = named + sum(item.result == "none" for item in asked)
            return named >= AGREE or answers >= ASKED_FOR_PROVIDERS

        await self._walker.walk(raw_key, ask, enough, asked, anchors=1)
        outcome: Literal["found", "missing"] = "found" if found else "missing"
        self._end(begun, "find_providers", key, shard_id, asked, outcome, len(found))
        return list(found)

    def expire(self) -> None:
        """Drop records and providers past their time."""
        self._store.cleanup_expired()
        self._kad.provider_store.cleanup_expired()


def _provider_key(key: str) -> bytes:
    """The key as ADD_PROVIDER takes it: servers refuse more than 80 bytes, so a longer one is
    hashed, in the form of a SHA-256 multihash as content ids have it.
    """
    raw = key.encode("utf-8")
    return raw if len(raw) <= MAX_PROVIDER_KEY else b"\x12\x20" + hashlib.sha256(raw).digest()
