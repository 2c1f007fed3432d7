"""Which block to ask of whom, within what each peer can take.

A piece belongs to one peer at a time; a much
faster peer takes it over, and at the end two peers may be asked for the same block. Pure: no I/O,
no clock (times are passed in, seconds of any monotonic clock), random from a seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from node.torrent.board import Board
from node.torrent.limits import (
    BLOCK_BYTES,
    CLOSE_AFTER_S,
    MAX_COPIES,
    RANDOM_FIRST,
    SLOW_BYTES_PER_S,
    SLOW_OVER_S,
    STALL_BLOCKS,
    STALL_S,
    STEAL_ALWAYS,
    STEAL_WHEN_IDLE,
)
from node.torrent.picker_parts import Asked, PieceWork, Source
from node.torrent.picker_types import Kind, Received, State, Tick, Wanted
from node.torrent.sizes import Block, Layout


class Picker(Board):
    """The plan of one download: the board and who works on what."""

    def __init__(
        self, layout: Layout, have: Iterable[int] = (), *, seed: int, head_pieces: int = 0
    ) -> None:
        """`have` are the durable pieces; the first `head_pieces` pieces are fetched first."""
        super().__init__(layout, have)
        self._rng = random.Random(seed)
        self._peers: dict[str, Source] = {}
        self._started = 0
        self._head = range(min(head_pieces, layout.pieces))

    # ------------------------------------------------------------ what is

    @property
    def endgame(self) -> bool:
        """Whether no piece is MISSING that a connected peer has."""
        if any(peer.everything for peer in self._peers.values()):
            return not self._missing
        return self._missing.with_no_source() == len(self._missing)

    def peers(self) -> list[str]:
        """The peers added and not removed."""
        return list(self._peers)

    def window(self, peer: str) -> int:
        """Bytes that may be outstanding at `peer`."""
        return self._peers[peer].window.size

    def outstanding(self, peer: str) -> list[Block]:
        """The blocks asked of `peer` that neither came nor were cancelled."""
        return list(self._peers[peer].open)

    def rate(self, peer: str, now: float) -> float | None:
        """Bytes per second of `peer`; None while too little was seen."""
        return self._peers[peer].window.rate.value(now)

    def why_idle(self) -> str:
        """Why nothing is outstanding, as the end of a sentence; empty when something is."""
        if any(peer.open for peer in self._peers.values()) or self.complete:
            return ""
        if not self._peers:
            return "no peer has the file"
        if all(peer.choked for peer in self._peers.values()):
            return "every peer asks us to wait"
        if self._missing and self.endgame:
            return f"no connected peer has the {len(self._missing)} pieces still missing"
        return "the disk has not caught up yet" if not self._missing else ""

    # ------------------------------------------------------------ peers

    def add_peer(self, peer: str, pieces: Iterable[int] | None) -> None:
        """A peer that has `pieces` (None: all). ValueError when it was added before."""
        if peer in self._peers:
            raise ValueError(f"peer {peer} was added before")
        self._peers[peer] = Source(peer, self.layout.pieces, everything=pieces is None)
        self._gained += 1
        if pieces is not None:
            self.has(peer, pieces)

    def has(self, peer: str, pieces: Iterable[int]) -> None:
        """A peer told of more pieces (HAVE). IndexError outside the file."""
        source = self._peers[peer]
        for piece in pieces:
            if not 0 <= piece < self.layout.pieces:
                raise IndexError(f"piece {piece} of {self.layout.pieces}")
            if source.everything or source.bits[piece]:
                continue
            source.bits[piece] = 1
            self._missing.change(piece, 1)
            source.scanned = -1

    def lacks(self, peer: str, piece: int, now: float) -> None:
        """A peer refused a piece it said it had: it is not asked for it again."""
        source = self._peers[peer]
        if source.everything:
            source.everything = False
            source.bits = bytearray(b"\x01" * self.layout.pieces)
            for other in range(self.layout.pieces):
                self._missing.change(other, 1)
        if source.bits[piece]:
            source.bits[piece] = 0
            self._missing.change(piece, -1)
        self._drop(source, piece, now)

    def remove_peer(self, peer: str, now: float) -> None:
        """The peer is gone: what it was asked for is free again. No error for an unknown peer."""
        source = self._peers.get(peer)
        if source is None:
            return
        for piece in source.pieces_open():
            self._drop(source, piece, now)
        for piece in range(self.layout.pieces):
            if source.bits and source.bits[piece]:
                self._missing.change(piece, -1)
        del self._peers[peer]

    def set_choked(self, peer: str, choked: bool, now: float) -> list[Asked]:
        """CHOKE and UNCHOKE: a peer that chokes is asked nothing; its pieces are released."""
        source = self._peers[peer]
        source.choked = choked
        return self._release(source, now) if choked else []

    def set_parole(self, peer: str, parole: bool) -> None:
        """A peer under suspicion gets whole pieces that nobody else helps with."""
        self._peers[peer].parole = parole

    # ------------------------------------------------------------ asking

    def want(self, peer: str, now: float) -> Wanted:
        """What to ask `peer` for now, within its window."""
        source = self._peers[peer]
        result = Wanted()
        while not source.choked and source.room():
            block = self._next_block(source, now, result.cancels)
            if block is None:
                break
            self._ask(source, block, now)
            result.requests.append(block)
        return result

    def _next_block(self, source: Source, now: float, cancels: list[Asked]) -> Block | None:
        for piece in source.owned:
            block = self._work[piece].unasked()
            if block is not None:
                return block
        chosen = self._steal(source, STEAL_ALWAYS, now, cancels)
        if chosen is None:
            chosen = self._choose(source)
        if chosen is None:
            chosen = self._steal(source, STEAL_WHEN_IDLE, now, cancels)
        if chosen is not None:
            return self._work[chosen].unasked()
        return self._copy(source, now) if self.endgame else None

    def _choose(self, source: Source) -> int | None:
        """Assign a MISSING piece that the peer has."""
        if source.scanned == self._gained:
            return None
        rng = self._rng
        has = None if source.everything else source.has
        head = (i for i in self._head if i in self._missing and source.has(i))
        piece: int | None = next(head, None)
        if piece is None and not source.parole:
            piece = next((i for i in sorted(self._partial) if source.has(i)), None)
        if piece is None and self._started < RANDOM_FIRST:
            piece = self._missing.any(has, rng)
        if piece is None:
            piece = self._missing.rarest(has, rng)
        if piece is None:
            source.scanned = self._gained
            return None
        self._started += 1
        self._missing.remove(piece)
        self._partial.discard(piece)
        self._states[piece] = State.ASSIGNED
        work = self._work.setdefault(piece, PieceWork(self.layout.blocks(piece)))
        if source.parole:
            work.alone = True
        if work.alone:
            work.got.clear()
        work.owner = source.name
        source.owned[piece] = None
        return piece

    def _steal(self, source: Source, factor: float, now: float, cancels: list[Asked]) -> int | None:
        """Take over the piece with most left of a peer `factor` times slower."""
        own = source.window.rate.value(now)
        if not own:
            return None
        best: tuple[int, int] | None = None
        for victim in self._peers.values():
            if victim is source or not victim.owned:
                continue
            rate = victim.window.rate.value(now)
            if rate is None or rate * factor > own:
                continue
            for piece in victim.owned:
                left = self._work[piece].left()
                if source.has(piece) and (best is None or left > best[0]):
                    best = (left, piece)
        if best is None:
            return None
        piece = best[1]
        work = self._work[piece]
        previous = self._peers[work.owner or ""]
        cancels.extend(self._withdraw(previous, piece, now))
        del previous.owned[piece]
        if work.alone or source.parole:
            work.alone = True
            work.got.clear()
            for helper in {name for names in work.asked.values() for name in names}:
                cancels.extend(self._withdraw(self._peers[helper], piece, now))
        work.owner = source.name
        source.owned[piece] = None
        return piece if work.unasked() is not None else None

    def _copy(self, source: Source, now: float) -> Block | None:
        """In the endgame: a block that another peer is slow with, at most MAX_COPIES of it."""
        if source.parole:
            return None
        slowest: list[tuple[float, int]] = []
        for peer in self._peers.values():
            if peer is source or not peer.owned:
                continue
            wait = peer.expected_wait(now)
            slowest.extend((wait, piece) for piece in peer.owned)
        own = source.expected_wait(now, BLOCK_BYTES)
        for wait, piece in sorted(slowest, reverse=True):
            work = self._work[piece]
            if wait <= own or work.alone or not source.has(piece):
                continue
            block = work.copyable(source.name, MAX_COPIES)
            if block is not None:
                return block
        return None

    def _ask(self, source: Source, block: Block, now: float) -> None:
        self._work[block.piece].asked.setdefault(block.offset // BLOCK_BYTES, []).append(
            source.name
        )
        source.ask(block, now)

    # ------------------------------------------------------------ answers

    def received(self, peer: str, block: Block, now: float) -> Received:
        """A block came in from `peer`."""
        source = self._peers[peer]
        if not source.answered(block, now):
            return Received(Kind.UNSOLICITED)
        work = self._work.get(block.piece)
        index = block.offset // BLOCK_BYTES
        if work is None or self._states[block.piece] != State.ASSIGNED or index in work.got:
            return Received(Kind.DUPLICATE)
        asked = work.asked.get(index, [])
        if work.alone and peer != work.owner:
            return Received(Kind.DUPLICATE)
        if peer in asked:
            asked.remove(peer)
        cancels = tuple((other, block) for other in asked)
        for other in asked:
            self._peers[other].cancel(block, now)
        work.asked.pop(index, None)
        work.got[index] = peer
        complete = len(work.got) == len(work.blocks)
        if complete:
            self._states[block.piece] = State.HASHING
            if work.owner is not None:
                del self._peers[work.owner].owned[block.piece]
            work.owner = None
        return Received(Kind.NEEDED, complete, cancels)

    def rejected(self, peer: str, block: Block, now: float) -> bool:
        """REJECT: the block is free again. False when it was not asked for (a strike).

        The peer keeps counting as having the piece; call `lacks` where its reason says otherwise.
        """
        source = self._peers[peer]
        if block in source.late:
            del source.late[block]
            return True
        if block not in source.open:
            return False
        source.answered(block, now, data=False)
        work = self._work[block.piece]
        asked = work.asked.get(block.offset // BLOCK_BYTES, [])
        if peer in asked:
            asked.remove(peer)
            if not asked:
                del work.asked[block.offset // BLOCK_BYTES]
        return True

    # ------------------------------------------------------------ time and release

    def tick(self, now: float) -> Tick:
        """Find peers that stall or are hopelessly slow; call it about once a second."""
        result = Tick()
        for source in list(self._peers.values()):
            waited = source.waited(now)
            if waited is None:
                continue
            rate = source.window.rate.value(now)
            if waited >= CLOSE_AFTER_S:
                result.close.append((source.name, f"sent nothing for {waited:.0f} s"))
            elif (
                waited >= max(STALL_S, STALL_BLOCKS * source.block_s) and not source.window.snubbed
            ):
                result.snubbed.append(source.name)
                source.window.snub()
                result.cancels.extend(self._release(source, now))
            elif source.crawls(rate, now, SLOW_BYTES_PER_S, SLOW_OVER_S) and self._others(source):
                result.close.append((source.name, f"slower than {SLOW_BYTES_PER_S} bytes/s"))
        return result

    def _others(self, source: Source) -> bool:
        return any(peer is not source and not peer.choked for peer in self._peers.values())

    def _release(self, source: Source, now: float) -> list[Asked]:
        cancels: list[Asked] = []
        for piece in source.pieces_open():
            cancels.extend(self._drop(source, piece, now))
        return cancels

    def _drop(self, source: Source, piece: int, now: float) -> list[Asked]:
        """Take a piece, and what was asked of it, from a peer."""
        cancels = self._withdraw(source, piece, now)
        if piece not in source.owned:
            return cancels
        del source.owned[piece]
        work = self._work[piece]
        work.owner = None
        if work.alone:
            work.got.clear()
        helper = work.busiest()
        if helper is not None:
            work.owner = helper
            self._peers[helper].owned[piece] = None
        else:
            self._states[piece] = State.MISSING
            self._back(piece)
        return cancels

    def _withdraw(self, source: Source, piece: int, now: float) -> list[Asked]:
        """Cancel what was asked of `source` in one piece."""
        cancels: list[Asked] = []
        for block in [block for block in source.open if block.piece == piece]:
            source.cancel(block, now)
            cancels.append((source.name, block))
            asked = self._work[piece].asked
            index = block.offset // BLOCK_BYTES
            asked[index].remove(source.name)
            if not asked[index]:
                del asked[index]
        return cancels
