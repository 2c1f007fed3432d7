"""One lookup in the DHT: peers asked ever closer to a key, and one that no attacker chose.

A lookup asks at most ALPHA peers at a time with a deadline each, leaves quarantined peers out and
stops when its caller has enough. Whoever makes ids around a key can be every peer that is close to
it. So records and providers also go to the ANCHORS, the peers that were known before all others
(the node joined through, first of all), and no lookup ends before one of its own was asked.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Literal

import trio
from libp2p.kad_dht.routing_table import RoutingTable
from libp2p.kad_dht.utils import sort_peer_ids_by_distance
from libp2p.peer.id import ID

from node import events as ev
from node.network.peers import Peers
from node.network.rpc import Answer, CallFailed

ALPHA = 3
MAX_ASKED = 12
ANCHORS = 2
# Who does not answer for so long no longer takes one of the ALPHA places, and a lookup with other
# answers does not wait for it: dead peers cost less than a second, whatever their deadline. What
# comes later still counts for the peer.
PATIENCE_S = 0.7

Result = Literal["value", "closer", "stored", "providers", "none", "timeout", "error", "refused"]
Ask = Callable[[ID], Awaitable[tuple[Answer, Result, str]]]


class Walker:
    """Carries the lookups of one host. `table` is its routing table."""

    def __init__(self, own: ID, peers: Peers, table: RoutingTable, timeout_s: float) -> None:
        self._own = own
        self._peers = peers
        self._table = table
        self._timeout = timeout_s
        self._nursery: trio.Nursery | None = None
        self._running = trio.Event()

    async def run(self) -> None:
        """Carry the calls of lookups until cancelled; lookups wait for it to start."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._running.set()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None  # the node is stopping: lookups end with what they have

    def nearest(self, key: bytes) -> list[ID]:
        """The peers that may be asked, those of the routing table and the connected ones."""
        table = list(self._table.find_local_closest_peers(key, 20))
        for peer_id in self._peers.connected_ids():
            peer = ID.from_base58(peer_id)
            if peer not in table:
                table.append(peer)
        return sort_peer_ids_by_distance(key, [peer for peer in table if self._may_ask(peer)])

    def _may_ask(self, peer: ID) -> bool:
        return peer != self._own and self._peers.usable(str(peer))

    def _anchors(self) -> list[ID]:
        """The connected peers known the longest."""
        # Those that are connected come in the order in which they were first known.
        known = (ID.from_base58(item) for item in self._peers.connected_ids())
        return [peer for peer in known if self._may_ask(peer)][:ANCHORS]

    async def walk(
        self,
        key: bytes,
        ask: Ask,
        enough: Callable[[], bool],
        asked: list[ev.PeerAnswer],
        limit: int = MAX_ASKED,
        anchors: int = 0,
    ) -> list[ID]:
        """Ask peers ever closer to `key`; returns those that answered, closest first.

        The calls run in the nursery of `run`: a call that is no longer needed ends by itself, its
        kept stream stays usable. `anchors`: how many of those must answer, whatever was enough, as
        long as they may.
        """
        await self._running.wait()
        candidates = self.nearest(key)
        seen: set[ID] = set()
        answered: list[ID] = []
        running: dict[ID, float] = {}
        stalled: set[ID] = set()
        done = False
        wake = trio.Event()

        async def one(peer: ID) -> None:
            begun = running[peer]
            answer, result, detail = Answer(), "error", ""
            try:
                if not await self._reach(peer):
                    detail = "not connected"
                    return
                answer, result, detail = await ask(peer)
                answered.append(peer)
                self._peers.heard(str(peer))
            except CallFailed as error:
                result, detail = ("timeout" if error.timeout else "error"), error.reason
                self._peers.check_soon(str(peer))
            finally:
                took = (time.perf_counter() - begun) * 1000
                if not done:  # a late answer still taught us that the peer lives
                    asked.append(
                        ev.PeerAnswer(
                            peer_id=str(peer),
                            duration_ms=round(took, 2),
                            result=result,  # type: ignore[arg-type]
                            detail=detail,
                        )
                    )
                for peer_id, addresses in answer.closer:
                    closer = (
                        self._peers.learn(peer_id, addresses, "dht")
                        if addresses
                        else self._peers.get(peer_id)
                    )
                    if closer is not None and closer.id not in seen:
                        candidates.append(closer.id)
                running.pop(peer, None)
                wake.set()

        def start(peer: ID) -> None:
            seen.add(peer)
            if self._nursery is not None:  # else the node is stopping
                running[peer] = time.perf_counter()
                self._nursery.start_soon(one, peer)

        async def news() -> None:
            nonlocal wake
            wake = trio.Event()
            with trio.move_on_after(PATIENCE_S) as patience:
                await wake.wait()
            if patience.cancelled_caught:
                stalled.update(running)

        # All of them at once: one after the other, two dead ones would cost their patience twice.
        fixed = self._anchors() if anchors else []
        for peer in fixed:
            start(peer)
        while not enough() and self._nursery is not None:
            open_ones = [p for p in candidates if p not in seen and self._may_ask(p)]
            ranked = sort_peer_ids_by_distance(key, list(dict.fromkeys(open_ones)))
            awaited = running.keys() - stalled
            active = awaited - set(fixed)
            free = max(min(ALPHA - len(active), limit - len(seen)), 0)
            if not ranked[:free] and not awaited and (answered or not running):
                break
            for peer in ranked[:free]:
                start(peer)
            await news()
        while sum(peer in answered for peer in fixed) < anchors and any(
            peer in running.keys() - stalled for peer in fixed
        ):
            await news()
        done = True
        if not enough():
            asked.extend(self._not_awaited(running))
        return sort_peer_ids_by_distance(key, answered)

    def _not_awaited(self, running: dict[ID, float]) -> list[ev.PeerAnswer]:
        now = time.perf_counter()
        return [
            ev.PeerAnswer(
                peer_id=str(peer),
                duration_ms=round((now - start) * 1000, 2),
                result="timeout",
                detail="not waited for",
            )
            for peer, start in running.items()
        ]

    async def _reach(self, peer: ID) -> bool:
        peer_id = str(peer)
        if self._peers.is_connected(peer_id):
            return True
        with trio.move_on_after(self._timeout):
            return await self._peers.connect(peer_id)
        return False
