"""Between the sessions of a download and what it is doing at the moment.

Before the piece layer is known a session is asked for hashes, after that for blocks; sessions stay
open over that change, and over a restart of the disk side.
"""

from __future__ import annotations

import trio

from node.torrent.sizes import Block
from node.torrent.transfer.blame import BannedError, Bans
from node.torrent.transfer.buffers import Target
from node.torrent.transfer.exchange import Exchange
from node.torrent.transfer.guarding import Ended
from node.torrent.transfer.layer_fetch import LayerFetch
from node.torrent.transfer.peer_session import HASHES_TIMEOUT_S, PeerSession

LAYER_TASKS = 4
"""Ranges of hashes asked of one peer at once."""


class Switchboard:
    """Implements `peer_session.Hub` for one download. `sessions` are the open ones."""

    def __init__(self, bans: Bans, root: bytes) -> None:
        self.sessions: list[PeerSession] = []
        self._bans = bans
        self._root = root
        self._exchange: Exchange | None = None
        self._layer: LayerFetch | None = None
        self._nursery: trio.Nursery | None = None
        self._one_less = trio.lowlevel.ParkingLot()

    def fetch_layer(self, layer: LayerFetch, nursery: trio.Nursery) -> None:
        """Ask every session that opens for `layer` until it is complete."""
        self._layer = layer
        self._nursery = nursery

    def attach(self, exchange: Exchange) -> None:
        """Blocks are wanted now: every open session joins."""
        self._exchange = exchange
        for session in self.sessions:
            exchange.join(session)

    def detach(self) -> None:
        """Blocks are not wanted now; those that come are let go."""
        self._exchange = None

    async def say_goodbye(self) -> None:
        """End all sessions in order and wait until they are gone."""
        for session in self.sessions:
            session.end()
        while self.sessions:
            await self._one_less.park()

    def opened(self, session: PeerSession) -> None:
        """A session got its OPEN_OK."""
        self.sessions.append(session)
        if self._exchange is not None:
            self._exchange.join(session)
        elif self._layer is not None and self._nursery is not None:
            for _ in range(LAYER_TASKS):
                self._nursery.start_soon(self._fetch_ranges, session, self._layer)

    def ended(self, session: PeerSession) -> None:
        """A session is over, whether it ever opened or not."""
        if session in self.sessions:
            self.sessions.remove(session)
        if self._layer is not None:
            self._layer.forget(session.peer_id)
        if self._exchange is not None:
            self._exchange.leave(session)
        self._one_less.unpark_all()

    async def _fetch_ranges(self, session: PeerSession, layer: LayerFetch) -> None:
        while not layer.complete.is_set() and session in self.sessions:
            request = layer.take(session.peer_id)
            if request is None:
                return
            answer = await session.hashes(request)
            if layer.complete.is_set():
                return
            if answer is None:
                session.end(Ended(f"no hashes within {HASHES_TIMEOUT_S:.0f} s"))
                return
            if not layer.put(answer):
                what = "piece hashes"
                session.end(BannedError(self._bans.bad_proof(session.peer_id, self._root, what)))
                return

    def offers(self, session: PeerSession, pieces: tuple[int, ...]) -> None:
        """HAVE."""
        if self._exchange is not None:
            self._exchange.offers(session, pieces)

    def choked(self, session: PeerSession, choked: bool) -> None:
        """CHOKE, UNCHOKE."""
        if self._exchange is not None:
            self._exchange.choked(session, choked)

    def target(self, session: PeerSession, block: Block) -> Target:
        """Where a block goes."""
        if self._exchange is not None:
            return self._exchange.target(session, block)
        return Target(block, memoryview(bytearray(block.length)), None)

    def block(self, session: PeerSession, target: Target) -> None:
        """A block came."""
        if self._exchange is not None:
            self._exchange.block(session, target)

    def dropped(self, session: PeerSession, target: Target) -> None:
        """A block broke off."""
        if self._exchange is not None:
            self._exchange.dropped(target)

    def rejected(self, session: PeerSession, block: Block, why: int) -> None:
        """A block was refused."""
        if self._exchange is not None:
            self._exchange.rejected(session, block, why)
