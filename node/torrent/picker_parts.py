"""What the picker keeps of a piece in progress and of a peer."""

from __future__ import annotations

import math

from node.torrent.limits import BLOCK_BYTES
from node.torrent.sizes import Block
from node.torrent.window import Window

Asked = tuple[str, Block]
"""(peer, block)."""


MAX_LATE = 4096


class PieceWork:
    """A piece with blocks asked for or received, by block index.

    got:   block index -> the peer that sent it
    asked: block index -> the peers it is outstanding at; never an empty list
    alone: only its owner may send blocks of it
    """

    __slots__ = ("alone", "asked", "blocks", "got", "owner")

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks
        self.owner: str | None = None
        self.alone = False
        self.got: dict[int, str] = {}
        self.asked: dict[int, list[str]] = {}

    def unasked(self) -> Block | None:
        """The first block that neither came nor is outstanding."""
        for index, block in enumerate(self.blocks):
            if index not in self.got and index not in self.asked:
                return block
        return None

    def left(self) -> int:
        """Blocks that have not come."""
        return len(self.blocks) - len(self.got)

    def copyable(self, peer: str, copies: int) -> Block | None:
        """A block for a helper: none outstanding first, else the last asked of the owner."""
        found = self.unasked()
        if found is not None:
            return found
        for index in sorted(self.asked, reverse=True):
            asked = self.asked[index]
            if len(asked) < copies and peer not in asked:
                return self.blocks[index]
        return None

    def busiest(self) -> str | None:
        """The peer with most blocks of this piece outstanding."""
        counts: dict[str, int] = {}
        for names in self.asked.values():
            for name in names:
                counts[name] = counts.get(name, 0) + 1
        return max(sorted(counts), key=lambda name: counts[name], default=None)


class Source:
    """A peer as the picker sees it.

    open: block -> when it was asked for; late: cancelled blocks that may still cross on the wire
    owned: the pieces ASSIGNED to it, in order; bits: the pieces it has, unless it has everything
    block_s: seconds a block took by the rate when the last one came, 0 while unknown; the rate now
    would not do to tell a stall, since it falls while nothing comes
    """

    def __init__(self, name: str, pieces: int, *, everything: bool) -> None:
        self.name = name
        self.everything = everything
        self.bits = bytearray(0 if everything else pieces)
        self.window = Window()
        self.choked = False
        self.parole = False
        self.open: dict[Block, float] = {}
        self.open_bytes = 0
        self.late: dict[Block, None] = {}
        self.owned: dict[int, None] = {}
        self.scanned = -1
        self.block_s = 0.0
        self._waiting_since: float | None = None
        self._slow_since: float | None = None

    def has(self, piece: int) -> bool:
        """Whether the peer has a piece."""
        return self.everything or bool(self.bits[piece])

    def room(self) -> bool:
        """Whether another block fits the window; one always does."""
        return not self.open or self.open_bytes + BLOCK_BYTES <= self.window.size

    def ask(self, block: Block, now: float) -> None:
        """The block is requested."""
        if not self.open:
            self.window.start(now)
            if self._waiting_since is None:
                self._waiting_since = now
        self.late.pop(block, None)
        self.open[block] = now
        self.open_bytes += block.length

    def answered(self, block: Block, now: float, *, data: bool = True) -> bool:
        """The block came (or was rejected); False when the peer was never asked for it."""
        asked_at = self.open.pop(block, None)
        if asked_at is None:
            if block not in self.late:
                return False
            del self.late[block]
        else:
            self.open_bytes -= block.length
        if data:
            waited = math.inf if asked_at is None else now - asked_at
            self.window.arrived(block.length, waited, now)
            rate = self.window.rate.value(now)
            self.block_s = BLOCK_BYTES / rate if rate else 0.0
        self._waiting_since = now if self.open else None
        self._rest(now)
        return True

    def cancel(self, block: Block, now: float) -> None:
        """The block is no longer awaited, though it may still come."""
        if self.open.pop(block, None) is not None:
            self.open_bytes -= block.length
            self.late[block] = None
            if len(self.late) > MAX_LATE:
                del self.late[next(iter(self.late))]
        if not self.open and not self.window.snubbed:
            self._waiting_since = None
        self._rest(now)

    def _rest(self, now: float) -> None:
        if not self.open:
            self.window.pause(now)
            self._slow_since = None

    def waited(self, now: float) -> float | None:
        """Seconds since the last block, or since something is awaited; None when nothing is."""
        return None if self._waiting_since is None else now - self._waiting_since

    def crawls(self, rate: float | None, now: float, floor: float, over: float) -> bool:
        """Whether the rate was below `floor` for `over` seconds while something was awaited."""
        if rate is None or rate >= floor or not self.open:
            self._slow_since = None
            return False
        if self._slow_since is None:
            self._slow_since = now
        return now - self._slow_since >= over

    def expected_wait(self, now: float, more: int = 0) -> float:
        """Seconds until everything open (and `more` bytes) is here; 0 with `more`, else infinite,
        while the rate is unknown."""
        rate = self.window.rate.value(now)
        if not rate:
            return 0.0 if more and rate is None else math.inf
        return (self.open_bytes + more) / rate

    def pieces_open(self) -> list[int]:
        """The pieces it owns or has blocks outstanding of."""
        return list({**self.owned, **{block.piece: None for block in self.open}})
