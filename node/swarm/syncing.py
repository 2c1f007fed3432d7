"""SYNC_TORRENTS: on connecting to a rendezvous node, and again while something is missing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import trio

from node import events as ev
from node.network.bootstrap import Bootstraps
from node.state import State
from node.swarm.sources import Sources

Emit = Callable[[ev.Event], None]


class Syncing:
    """Asks the rendezvous nodes what they know of; a rendezvous node asks back."""

    def __init__(
        self,
        sources: Sources,
        bootstraps: Bootstraps,
        emit: Emit,
        *,
        total_shards: Callable[[], int],
        missing: Callable[[], tuple[int, ...]],
        again_s: float,
        serves: bool,
        reconnected: Callable[[str], None],
    ) -> None:
        """reconnected: told of every peer that a connection opened to.
        serves: this is a node (it syncs); a rendezvous node only answers and asks back."""
        self._sources = sources
        self._bootstraps = bootstraps
        self._emit = emit
        self._total = total_shards
        self._missing = missing
        self._again_s = again_s
        self._serves = serves
        self._reconnected = reconnected
        self._nursery: trio.Nursery | None = None
        self._told: dict[str, int] = {}

    def tap(self, event: ev.Event, before: State, after: State) -> None:
        """Look at what happens in the node (a tap of its door)."""
        if self._nursery is None:
            return
        if isinstance(event, ev.BootstrapConnected) and self._serves:
            self._nursery.start_soon(self._sync, event.peer_id)
        elif isinstance(event, ev.PeerConnected):
            self._sources.met(event.peer_id)
            self._reconnected(event.peer_id)
            self._sources.tell()
        elif isinstance(event, ev.ShardDiscovered):
            self._sources.tell()
        elif isinstance(event, ev.PeerGone):
            self._sources.forget(event.peer_id)

    def asked(self, peer_id: str) -> None:
        """A peer sent SYNC_TORRENTS: a rendezvous node learns what that one has."""
        if self._nursery is not None and not self._serves:
            self._nursery.start_soon(self._sources.ask, peer_id)

    async def _sync(self, peer_id: str, again: bool = False) -> None:
        files = await self._sources.sync(peer_id, self._total(), again=again)
        if files is None or (again and self._told.get(peer_id) == files):
            return
        self._told[peer_id] = files
        self._emit(
            ev.TorrentsSynced(at=time.time(), peer_id=peer_id, files=files, missing=self._missing())
        )

    async def run(self) -> None:
        """Sync again from time to time while shards of the plan are missing."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                while True:
                    await trio.sleep(self._again_s * random.uniform(0.85, 1.2))
                    if self._serves and self._missing():
                        for peer_id in sorted(self._bootstraps.ids):
                            nursery.start_soon(self._sync, peer_id, True)
            finally:
                self._nursery = None
