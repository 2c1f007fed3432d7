"""The memory of a download: pieces on their way, in buffers that are used again.

A block is received straight into its piece's buffer. The one hazard: a peer that is in the middle
of a block (and may have stalled there) while another peer's copy of the same block completes the
piece. Then the piece moves to a fresh buffer and the slow peer keeps writing to the old one.
"""

from __future__ import annotations

from collections.abc import Iterable

from node.torrent.hash_helper import Room
from node.torrent.limits import BLOCK_BYTES, MIB
from node.torrent.picker import Picker
from node.torrent.picker_parts import Source
from node.torrent.picker_types import State
from node.torrent.sizes import Block, Layout

BUDGET_BYTES = 48 * MIB
"""Pieces in flight and pieces waiting for their hash or the disk, together."""
KEEP = 8
"""Buffers kept for the next piece, in pieces."""


def piece_limit(piece_length: int, budget: int = BUDGET_BYTES) -> int:
    """How many pieces may be in memory at once; two at least."""
    return max(2, budget // piece_length)


class BoundedPicker(Picker):
    """A picker that begins no new piece while `limit` pieces are in memory.

    Pieces begun before stay available, and one more may always begin when nothing is under way
    that would free memory.
    """

    def __init__(self, layout: Layout, have: frozenset[int], *, seed: int, limit: int) -> None:
        super().__init__(layout, have, seed=seed, head_pieces=1)
        self._limit = limit

    @property
    def crowded(self) -> bool:
        """Whether memory keeps new pieces from being begun."""
        return len(self._work) >= self._limit

    def _choose(self, source: Source) -> int | None:
        if self.crowded:
            under_way = self.count(State.ASSIGNED) or self.count(State.HASHING)
            begun = not source.parole and any(source.has(piece) for piece in self._partial)
            if under_way and not begun:
                return None
        return super()._choose(source)


class Target:
    """Where one block that is being received goes: `view` is `length` bytes."""

    __slots__ = ("arriving", "block", "direct", "view")

    def __init__(self, block: Block, view: memoryview, arriving: Arriving | None) -> None:
        self.block = block
        self.view = view
        self.arriving = arriving
        self.direct = arriving is not None


class Arriving:
    """A piece that was asked for: its room, which blocks are in it, and who is writing to which.

    It has a room from its first byte on, not before: of the rooms that are free the last one used
    is taken, so few are in use at a time and they stay in the processor's cache.
    """

    __slots__ = ("_room", "got", "piece", "size", "writers")

    def __init__(self, piece: int, size: int) -> None:
        self.piece = piece
        self.size = size
        self._room: Room | None = None
        self.got: set[int] = set()
        self.writers: dict[int, Target] = {}

    @property
    def empty(self) -> bool:
        """Whether it has no room yet."""
        return self._room is None

    @property
    def room(self) -> Room:
        """Where its bytes are. Not for an empty one."""
        assert self._room is not None
        return self._room

    @room.setter
    def room(self, room: Room) -> None:
        self._room = room

    @property
    def data(self) -> memoryview:
        """The bytes of the piece."""
        return self.room.view[: self.size]


class Pieces:
    """The pieces of one download that are in memory. Used from one thread.

    `rooms` are used before any memory is made.
    """

    def __init__(self, layout: Layout, rooms: Iterable[Room] = ()) -> None:
        self.layout = layout
        self._arriving: dict[int, Arriving] = {}
        self._free: list[Room] = list(rooms)
        self._keep = max(KEEP, len(self._free))

    def __len__(self) -> int:
        return len(self._arriving)

    def begin(self, piece: int) -> None:
        """Blocks of `piece` are asked for."""
        if piece not in self._arriving:
            self._arriving[piece] = Arriving(piece, self.layout.piece_size(piece))

    def target(self, block: Block) -> Target:
        """Where to receive `block`: into its piece, or aside where that is not safe."""
        arriving = self._arriving.get(block.piece)
        index = block.offset // BLOCK_BYTES
        if arriving is None or index in arriving.got or index in arriving.writers:
            return Target(block, memoryview(bytearray(block.length)), None)
        if arriving.empty:
            arriving.room = self._take()
        start = block.offset
        target = Target(block, arriving.room.view[start : start + block.length], arriving)
        arriving.writers[index] = target
        return target

    def dropped(self, target: Target) -> None:
        """The block did not come whole, or was not needed."""
        arriving = target.arriving
        if arriving is None:
            return
        index = target.block.offset // BLOCK_BYTES
        if arriving.writers.get(index) is target:
            del arriving.writers[index]
        target.arriving = None

    def accept(self, target: Target) -> None:
        """The block came whole and is the one that counts."""
        block = target.block
        index = block.offset // BLOCK_BYTES
        arriving = self._arriving[block.piece]
        if arriving.writers.get(index) is target:
            del arriving.writers[index]
        else:
            if arriving.empty:
                arriving.room = self._take()
            if index in arriving.writers:
                self._move(arriving)
            arriving.room.view[block.offset : block.offset + block.length] = target.view
        target.arriving = None
        arriving.got.add(index)

    def whole(self, piece: int) -> Arriving:
        """The piece whose blocks are all here; it stays in memory until `end`."""
        return self._arriving[piece]

    def forget_blocks(self, piece: int, blocks: list[Block]) -> None:
        """These blocks were wrong: they are received again."""
        self._arriving[piece].got.difference_update(block.offset // BLOCK_BYTES for block in blocks)

    def end(self, piece: int) -> None:
        """The piece is on disk, or nothing of it is worth keeping."""
        arriving = self._arriving.pop(piece, None)
        if arriving is None:
            return
        if arriving.writers:
            # Somebody may still write to this buffer: it must not be given out again.
            arriving.writers.clear()
        elif not arriving.empty and len(self._free) < self._keep:
            self._free.append(arriving.room)

    def sweep(self, picker: Picker) -> None:
        """End the pieces that went back to MISSING with nothing received."""
        for piece in list(self._arriving):
            if picker.state(piece) == State.MISSING and not picker.senders(piece):
                self.end(piece)

    def clear(self) -> None:
        """Let go of all memory."""
        self._arriving.clear()
        self._free.clear()

    def _take(self) -> Room:
        if self._free:
            return self._free.pop()
        return Room(memoryview(bytearray(self.layout.piece_length)))

    def _move(self, arriving: Arriving) -> None:
        fresh = self._take()
        fresh.view[:] = arriving.room.view
        arriving.room = fresh
        arriving.writers.clear()
