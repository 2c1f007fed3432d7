"""The board of a download: every piece in exactly one state.

    MISSING -> ASSIGNED(peer) -> HASHING -> VERIFIED -> WRITTEN -> DURABLE

The picker moves pieces up to HASHING; from there the download tells what became of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from node.torrent.limits import BLOCK_BYTES
from node.torrent.picker_parts import PieceWork
from node.torrent.picker_types import State
from node.torrent.rarest import Rarest
from node.torrent.sizes import Block, Layout


class Board:
    """The states of the pieces of one file, and who sent what of the unfinished ones."""

    def __init__(self, layout: Layout, have: Iterable[int] = ()) -> None:
        """`have` are the durable pieces."""
        self.layout = layout
        self._states = bytearray(layout.pieces)
        self._missing = Rarest(layout.pieces)
        self._work: dict[int, PieceWork] = {}
        self._partial: set[int] = set()
        self._gained = 0
        for piece in have:
            self._states[piece] = State.DURABLE
        for piece in range(layout.pieces):
            if self._states[piece] == State.MISSING:
                self._missing.add(piece)

    def state(self, piece: int) -> State:
        """The state of one piece."""
        return State(self._states[piece])

    def owner(self, piece: int) -> str | None:
        """The peer an ASSIGNED piece belongs to."""
        work = self._work.get(piece)
        return work.owner if work is not None else None

    def count(self, state: State) -> int:
        """How many pieces are in `state`."""
        return self._states.count(state)

    @property
    def complete(self) -> bool:
        """Whether every piece is WRITTEN or DURABLE."""
        return self.count(State.WRITTEN) + self.count(State.DURABLE) == self.layout.pieces

    def senders(self, piece: int) -> dict[str, list[Block]]:
        """Who sent which block of a piece that is not yet VERIFIED."""
        found: dict[str, list[Block]] = {}
        work = self._work.get(piece)
        if work is not None:
            for index, peer in sorted(work.got.items()):
                found.setdefault(peer, []).append(work.blocks[index])
        return found

    # ------------------------------------------------------------ after the last block

    def verified(self, piece: int) -> None:
        """The hash of a HASHING piece matched."""
        self._step(piece, State.HASHING, State.VERIFIED)
        del self._work[piece]

    def failed(self, piece: int, bad: Iterable[Block] | None = None) -> dict[str, list[Block]]:
        """The hash of a HASHING piece did not match; who sent what of it.

        `bad` are the blocks known to be wrong from the leaf hashes: only they are fetched again.
        Without it everything is, from one peer alone, so that the blame is exact next time.
        """
        senders = self.senders(piece)
        self._step(piece, State.HASHING, State.MISSING)
        work = self._work[piece]
        if bad is None:
            work.alone = True
            work.got.clear()
        else:
            for block in bad:
                work.got.pop(block.offset // BLOCK_BYTES, None)
            if len(work.got) == len(work.blocks):
                work.got.clear()
        self._back(piece)
        return senders

    def written(self, piece: int) -> None:
        """A VERIFIED piece is in the part file."""
        self._step(piece, State.VERIFIED, State.WRITTEN)

    def durable(self, pieces: Iterable[int]) -> None:
        """WRITTEN pieces are in the journal."""
        for piece in pieces:
            self._step(piece, State.WRITTEN, State.DURABLE)

    def lost(self, pieces: Iterable[int]) -> None:
        """VERIFIED, WRITTEN or DURABLE pieces are gone from the disk: MISSING again."""
        for piece in pieces:
            if self._states[piece] < State.VERIFIED:
                raise ValueError(f"piece {piece} is {self.state(piece).name}")
            self._states[piece] = State.MISSING
            self._back(piece)

    def _step(self, piece: int, old: State, new: State) -> None:
        if self._states[piece] != old:
            raise ValueError(f"piece {piece} is {self.state(piece).name}, not {old.name}")
        self._states[piece] = new

    def _back(self, piece: int) -> None:
        work = self._work.get(piece)
        if work is not None and work.got:
            self._partial.add(piece)
        elif work is not None and not work.alone:
            del self._work[piece]
        self._missing.add(piece)
        self._gained += 1
