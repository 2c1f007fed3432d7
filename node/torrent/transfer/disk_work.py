"""Hashing, writing and making durable: everything of a download that blocks, in worker threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from node.errors import PlainError
from node.torrent.disk_errors import DiskFullError
from node.torrent.hash_helper import HashHelper
from node.torrent.limits import CHECKPOINT_S
from node.torrent.pieces import BadPieceError, VerifiedPiece, check_piece
from node.torrent.storage import Part
from node.torrent.transfer.buffers import Arriving
from node.torrent.transfer.guarding import RunSync

WORKERS = 2
BATCH = 4
RETRY_FULL_S = 5.0


class Outcome(Protocol):
    """Who is told what became of the pieces."""

    def written(self, pieces: list[Arriving]) -> None:
        """These are verified and in the part file."""
        ...

    def bad(self, piece: Arriving) -> None:
        """This one does not match its hash; nothing of it was written."""
        ...

    def durable(self, pieces: list[int]) -> None:
        """These are in the journal."""
        ...

    def disk_full(self, error: DiskFullError | None) -> None:
        """Writing waits for room (None: no longer)."""
        ...

    def broken(self, error: PlainError) -> None:
        """The disk cannot be used."""
        ...


@dataclass(slots=True)
class _Stored:
    """What a batch came to: written, not yet written for lack of room (`full`), and bad."""

    written: list[Arriving]
    left: list[tuple[Arriving, VerifiedPiece]] = field(default_factory=list)
    full: DiskFullError | None = None
    bad: list[Arriving] = field(default_factory=list)


class Disk:
    """The queue between the network and the part file of one download."""

    def __init__(
        self, part: Part, outcome: Outcome, run_sync: RunSync, helper: HashHelper | None = None
    ) -> None:
        """`helper` hashes the pieces whose rooms it knows."""
        self._part = part
        self._helper = helper
        self._outcome = outcome
        self._run_sync = run_sync
        self._queue: deque[Arriving] = deque()
        self._waiting = trio.lowlevel.ParkingLot()
        self._dirty = trio.lowlevel.ParkingLot()
        self._written = 0
        self.quiet = trio.Lock()
        """Held while no checkpoint may run beside: the last steps close the part."""

    def put(self, piece: Arriving) -> None:
        """All blocks of `piece` are here; its buffer is left alone until the outcome is told."""
        self._queue.append(piece)
        self._waiting.unpark()

    def start(self, nursery: trio.Nursery) -> None:
        """Start the workers; they end with the nursery."""
        for _ in range(WORKERS):
            nursery.start_soon(self._work)
        nursery.start_soon(self._checkpoints)

    async def _work(self) -> None:
        while True:
            while not self._queue:
                await self._waiting.park()
            # Several at once only when there is a queue, so that both workers have something.
            count = max(1, min(BATCH, len(self._queue) // WORKERS))
            batch = [self._queue.popleft() for _ in range(count)]
            try:
                await self._store(batch)
            except PlainError as error:
                self._outcome.broken(error)
                return

    async def _store(self, batch: list[Arriving]) -> None:
        now = trio.current_time()
        result: _Stored = await self._run_sync(self._check_and_write, batch, now)
        told = False
        while True:
            for piece in result.bad:
                self._outcome.bad(piece)
            if result.written:
                self._written += len(result.written)
                self._outcome.written(result.written)
                self._dirty.unpark()
            if result.full is None:
                break
            told = True
            self._outcome.disk_full(result.full)
            await self._until_room()
            result = await self._run_sync(self._write, result.left, trio.current_time())
        if told:
            self._outcome.disk_full(None)

    async def _until_room(self) -> None:
        while True:
            await trio.sleep(RETRY_FULL_S)
            if not await self._run_sync(self._part.missing_bytes):
                return

    def _check_and_write(self, batch: list[Arriving], now: float) -> _Stored:
        """One hop to a thread for both; a hop costs as much as a good part of a piece."""
        good: list[tuple[Arriving, VerifiedPiece]] = []
        bad: list[Arriving] = []
        part = self._part
        layout = part.layout
        hashes: Sequence[bytes | None] | None = None
        if self._helper is not None:
            rooms = [(item.room, item.size) for item in batch]
            hashes = self._helper.hashes(rooms, layout.piece_layer)
        for item, found in zip(batch, hashes or [None] * len(batch), strict=True):
            try:
                checked = check_piece(layout, part.layer, item.piece, item.data, found)
                good.append((item, checked))
            except BadPieceError:
                bad.append(item)
        result = self._write(good, now)
        result.bad.extend(bad)
        return result

    def _write(self, todo: list[tuple[Arriving, VerifiedPiece]], now: float) -> _Stored:
        for done, (_, piece) in enumerate(todo):
            try:
                self._part.write(piece, now)
            except DiskFullError as error:
                return _Stored([item for item, _ in todo[:done]], todo[done:], error)
        return _Stored([item for item, _ in todo])

    async def _checkpoints(self) -> None:
        part = self._part
        covered = 0
        while True:
            while self._written == covered:
                await self._dirty.park()
            with trio.move_on_after(CHECKPOINT_S):
                while not part.checkpoint_due(trio.current_time()):
                    await self._dirty.park()
            covered = self._written
            try:
                async with self.quiet:
                    if part.complete:
                        return
                    durable = await self._run_sync(part.checkpoint)
                self._outcome.durable(durable)
            except DiskFullError as error:
                self._outcome.disk_full(error)
                await self._until_room()
                self._outcome.disk_full(None)
                covered = -1
            except PlainError as error:
                self._outcome.broken(error)
                return
