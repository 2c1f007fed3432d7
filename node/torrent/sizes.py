"""How a file is cut: piece lengths, pieces, blocks, and the shape of its hash tree."""

from __future__ import annotations

from typing import NamedTuple

from node.torrent.limits import (
    BLOCK_BYTES,
    GIB,
    KIB,
    LEAF_BYTES,
    MAX_FILE_BYTES,
    MAX_PIECE_BYTES,
    MAX_PIECES,
    MIB,
    MIN_PIECE_BYTES,
)

_TABLE = (
    (64 * MIB, 256 * KIB),
    (512 * MIB, 512 * KIB),
    (4 * GIB, 1 * MIB),
    (16 * GIB, 2 * MIB),
    (64 * GIB, 4 * MIB),
)


class Block(NamedTuple):
    """A span of one piece: piece index, offset inside the piece, length, both in bytes."""

    piece: int
    offset: int
    length: int


def piece_length_for(size: int) -> int:
    """The piece length in bytes for a file of `size` bytes.

    Above the table it doubles as soon as MAX_PIECES would be passed. ValueError when `size` is
    negative or above MAX_FILE_BYTES.
    """
    if not 0 <= size <= MAX_FILE_BYTES:
        raise ValueError(f"a size of {size} bytes is outside 0 to {MAX_FILE_BYTES}")
    for limit, length in _TABLE:
        if size <= limit:
            return length
    length = _TABLE[-1][1]
    while size > length * MAX_PIECES:
        length *= 2
    return length


def check_piece_length(size: int, piece_length: int) -> None:
    """ValueError unless a stranger's `piece_length` is one we move a file of `size` bytes with."""
    if piece_length & (piece_length - 1) or not (
        MIN_PIECE_BYTES <= piece_length <= MAX_PIECE_BYTES
    ):
        raise ValueError(
            f"a piece length of {piece_length} bytes is not a power of two from"
            f" {MIN_PIECE_BYTES} to {MAX_PIECE_BYTES}"
        )
    if not 0 <= size <= MAX_FILE_BYTES:
        raise ValueError(f"a size of {size} bytes is outside 0 to {MAX_FILE_BYTES}")
    if -(-size // piece_length) > MAX_PIECES:
        raise ValueError(f"{-(-size // piece_length)} pieces, {MAX_PIECES} are allowed")


class Layout:
    """The pieces of a file and the heights in its hash tree. Immutable.

    size:         bytes of the file
    piece_length: bytes of every piece but the last; a power of two, LEAF_BYTES at least
    pieces:       number of pieces
    leaves:       number of 16 KiB leaves (the last may be shorter)
    height:       layer of the root; layer 0 holds the leaves
    piece_layer:  layer whose nodes cover one piece each; the root's where one piece is all
    """

    __slots__ = ("height", "leaves", "piece_layer", "piece_length", "pieces", "size")

    def __init__(self, size: int, piece_length: int) -> None:
        if size < 0:
            raise ValueError("a size below 0")
        if piece_length < LEAF_BYTES or piece_length & (piece_length - 1):
            raise ValueError("a piece length is a power of two of at least 16 KiB")
        self.size = size
        self.piece_length = piece_length
        self.pieces = -(-size // piece_length)
        self.leaves = -(-size // LEAF_BYTES)
        self.height = max(0, self.leaves - 1).bit_length()
        self.piece_layer = min(self.height, (piece_length // LEAF_BYTES).bit_length() - 1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and (self.size, self.piece_length) == (
            other.size,
            other.piece_length,
        )

    def __hash__(self) -> int:
        return hash((self.size, self.piece_length))

    def __repr__(self) -> str:
        return f"Layout(size={self.size}, piece_length={self.piece_length})"

    def piece_size(self, piece: int) -> int:
        """Bytes of piece `piece`; IndexError outside the file."""
        if not 0 <= piece < self.pieces:
            raise IndexError(f"piece {piece} of {self.pieces}")
        return min(self.piece_length, self.size - piece * self.piece_length)

    def offset(self, piece: int) -> int:
        """Where piece `piece` begins in the file, in bytes."""
        return piece * self.piece_length

    def blocks(self, piece: int) -> list[Block]:
        """The blocks of a piece in order, BLOCK_BYTES each, the last one shorter."""
        size = self.piece_size(piece)
        return [
            Block(piece, offset, min(BLOCK_BYTES, size - offset))
            for offset in range(0, size, BLOCK_BYTES)
        ]

    def check_block(self, block: Block) -> None:
        """ValueError unless a stranger may ask for `block`.

        It lies in one piece, begins at a leaf, has at most BLOCK_BYTES and ends at a leaf or with
        the file.
        """
        piece, offset, length = block
        if not 0 <= piece < self.pieces:
            raise ValueError(f"piece {piece} of {self.pieces}")
        size = self.piece_size(piece)
        if offset < 0 or offset % LEAF_BYTES:
            raise ValueError(f"offset {offset} is not at a 16 KiB boundary")
        if not 0 < length <= BLOCK_BYTES:
            raise ValueError(f"a length of {length} bytes, 1 to {BLOCK_BYTES} are allowed")
        end = offset + length
        if end > size:
            raise ValueError(f"the block ends at {end} in a piece of {size} bytes")
        if end % LEAF_BYTES and end != size:
            raise ValueError(f"length {length} does not end at a 16 KiB boundary")
