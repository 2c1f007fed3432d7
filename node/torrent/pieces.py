"""A piece whose hash was checked: the only thing the storage writes."""

from __future__ import annotations

from collections.abc import Sequence

from node.torrent import merkle
from node.torrent.limits import LEAF_BYTES
from node.torrent.merkle import Buffer
from node.torrent.sizes import Layout

_MADE_HERE = object()


class BadPieceError(Exception):
    """The bytes do not hash to the node of the piece layer. `piece` is the index."""

    def __init__(self, piece: int) -> None:
        super().__init__(f"piece {piece} does not match its hash")
        self.piece = piece


class VerifiedPiece:
    """The bytes of one whole piece that hash to its node; made by `check_piece` only.

    `parts` are the piece's bytes in order, `size` their sum. They may be views of buffers: whoever
    owns those leaves them alone until the piece is written.
    """

    __slots__ = ("index", "parts", "size")

    def __init__(self, index: int, parts: tuple[Buffer, ...], made: object) -> None:
        if made is not _MADE_HERE:
            raise TypeError("a verified piece comes from check_piece")
        self.index = index
        self.parts = parts
        self.size = sum(len(part) for part in parts)


def check_piece(
    layout: Layout,
    layer: bytes,
    piece: int,
    data: Buffer | Sequence[Buffer],
    found: bytes | None = None,
) -> VerifiedPiece:
    """Hash `data` against node `piece` of the proven piece layer; BadPieceError unless it matches.

    `data` is the piece, or its blocks in order (each but the last a multiple of 16 KiB), which are
    then never copied together. `found` is the hash of just these bytes where another process of
    this node made it already (`hash_helper`). Releases the GIL while hashing: call it from a worker
    thread. IndexError outside the file.
    """
    parts = (data,) if isinstance(data, bytes | bytearray | memoryview) else tuple(data)
    if sum(len(part) for part in parts) != layout.piece_size(piece):
        raise BadPieceError(piece)
    if any(len(part) % LEAF_BYTES for part in parts[:-1]):
        raise ValueError("a part other than the last ends inside a leaf")
    if found is None:
        leaves = b"".join([merkle.leaf_hashes(part) for part in parts])
        found = merkle.piece_hash_of_leaves(leaves, layout)
    if found != merkle.node_at(layer, piece):
        raise BadPieceError(piece)
    return VerifiedPiece(piece, parts, _MADE_HERE)
