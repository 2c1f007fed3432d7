"""The hash tree of BEP 52: SHA-256, 16 KiB leaves, missing leaves hashed as 32 zero bytes.

Layer 0 holds the leaves, layer `Layout.height` the root. A layer is a bytes object of 32-byte
nodes without its padding; what lies beyond its end up to the power of two is `pad_hash(layer)`.
The root does not depend on the piece length. Roots equal libtorrent's for every size of at least
1 byte; an empty file has the root `pad_hash(0)`, 32 zero bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache

from node.torrent.limits import HASH_BYTES, LEAF_BYTES, MAX_HASHES, MIN_HASHES
from node.torrent.sizes import Layout

Buffer = bytes | bytearray | memoryview


@cache
def pad_hash(layer: int) -> bytes:
    """The node at `layer` above nothing but missing leaves."""
    if layer == 0:
        return bytes(HASH_BYTES)
    below = pad_hash(layer - 1)
    return hashlib.sha256(below + below).digest()


def leaf_hashes(data: Buffer) -> bytes:
    """The leaves of `data`, 32 bytes for each 16 KiB begun. Releases the GIL while hashing."""
    sha256 = hashlib.sha256
    view = memoryview(data)
    return b"".join(
        [
            sha256(view[offset : offset + LEAF_BYTES]).digest()
            for offset in range(0, len(view), LEAF_BYTES)
        ]
    )


def parents(nodes: bytes, layer: int) -> bytes:
    """The layer above `nodes`, which lie at `layer`; an odd end is paired with padding."""
    if len(nodes) % (2 * HASH_BYTES):
        nodes += pad_hash(layer)
    sha256 = hashlib.sha256
    return b"".join(
        [
            sha256(nodes[offset : offset + 2 * HASH_BYTES]).digest()
            for offset in range(0, len(nodes), 2 * HASH_BYTES)
        ]
    )


def climb(nodes: bytes, layer: int, target: int) -> bytes:
    """The nodes of layer `target` over `nodes`, which lie at `layer`; padding when there are none.

    `nodes` begins at a multiple of 2^(target - layer).
    """
    if not nodes:
        return pad_hash(target)
    while layer < target:
        nodes = parents(nodes, layer)
        layer += 1
    return nodes


def piece_hash(data: Buffer, layout: Layout) -> bytes:
    """The node of `layout.piece_layer` for one whole piece's bytes."""
    return climb(leaf_hashes(data), 0, layout.piece_layer)


def piece_hash_of_leaves(leaves: bytes, layout: Layout) -> bytes:
    """As `piece_hash`, from the leaves of the piece."""
    return climb(leaves, 0, layout.piece_layer)


def root_of_layer(layer: bytes, layout: Layout) -> bytes:
    """The root above a whole piece layer (`layout.pieces` nodes); ValueError for another length."""
    if len(layer) != layout.pieces * HASH_BYTES:
        raise ValueError(f"{len(layer)} bytes for a piece layer of {layout.pieces} nodes")
    return climb(layer, layout.piece_layer, layout.height)


def layer_matches(layer: bytes, layout: Layout, root: bytes) -> bool:
    """Whether `layer` is the piece layer of the file with this root and layout. Total."""
    if len(layer) != layout.pieces * HASH_BYTES:
        return False
    return root_of_layer(layer, layout) == root


def node_at(layer: bytes, index: int) -> bytes:
    """Node `index` of a layer of 32-byte nodes."""
    return layer[index * HASH_BYTES : (index + 1) * HASH_BYTES]


# ---------------------------------------------------------------- ranges with proofs


def uncle_count(count: int, proof_layers: int) -> int:
    """How many uncle nodes come with `count` base nodes and `proof_layers` (BEP 52).

    `proof_layers` counts the layers above the base whose uncles are wanted; those below the top
    of the range itself follow from the range and are left out.
    """
    return max(0, proof_layers - (count.bit_length() - 2))


def full_proof_layers(height: int, base: int) -> int:
    """The `proof_layers` that lead from layer `base` to the node at layer `height`."""
    return max(0, height - base - 1)


def check_range(height: int, base: int, index: int, count: int, proof_layers: int) -> None:
    """ValueError unless the request fits a tree whose top lies at layer `height`.

    `count` is a power of two from 2 to 512 and not wider than the layer, `index` a multiple of it
    inside the layer, and the uncles end below the top.
    """
    if not 0 <= base < height:
        raise ValueError(f"layer {base} of a tree of height {height}")
    if count & (count - 1) or not MIN_HASHES <= count <= MAX_HASHES:
        raise ValueError(f"{count} hashes: a power of two from {MIN_HASHES} to {MAX_HASHES}")
    width = 1 << (height - base)
    if count > width:
        raise ValueError(f"{count} hashes of a layer of {width}")
    if index < 0 or index % count or index >= width:
        raise ValueError(f"index {index} is not a multiple of {count} below {width}")
    if not 0 <= proof_layers <= full_proof_layers(height, base):
        raise ValueError(f"{proof_layers} proof layers above layer {base} of {height}")


class Tree:
    """A tree from one layer upwards, for answering hash requests.

    `nodes` is the whole of layer `base` without padding (a piece layer, or the leaves of one
    piece); `height` the layer of the top. Memory: twice `nodes`.
    """

    def __init__(self, nodes: bytes, base: int, height: int) -> None:
        if len(nodes) % HASH_BYTES or len(nodes) // HASH_BYTES > 1 << (height - base):
            raise ValueError("the layer does not fit the tree")
        self.base = base
        self.height = height
        self._layers = [nodes]
        for layer in range(base, height):
            below = self._layers[-1]
            self._layers.append(parents(below, layer) if below else b"")

    @property
    def top(self) -> bytes:
        """The node at `height`: the root, or the piece hash of a tree over one piece."""
        return self.node(self.height, 0)

    def node(self, layer: int, index: int) -> bytes:
        """One node; padding beyond the end of the layer."""
        found = node_at(self._layers[layer - self.base], index)
        return found or pad_hash(layer)

    def hashes(self, base: int, index: int, count: int) -> bytes:
        """`count` nodes of layer `base` from `index` on, padded: exactly 32 x count bytes."""
        nodes = self._layers[base - self.base]
        found = nodes[index * HASH_BYTES : (index + count) * HASH_BYTES]
        return found + pad_hash(base) * (count - len(found) // HASH_BYTES)

    def uncles(self, base: int, index: int, count: int, proof_layers: int) -> bytes:
        """The uncle nodes of the range from its top upwards: 32 x uncle_count bytes."""
        layer = base + count.bit_length() - 1
        position = index // count
        result = []
        for _ in range(uncle_count(count, proof_layers)):
            result.append(self.node(layer, position ^ 1))
            position >>= 1
            layer += 1
        return b"".join(result)

    def answer(self, base: int, index: int, count: int, proof_layers: int) -> tuple[bytes, bytes]:
        """(nodes, uncles) for a hash request; ValueError when it does not fit this tree."""
        if base < self.base:
            raise ValueError(f"layer {base} is below this tree")
        check_range(self.height, base, index, count, proof_layers)
        return (
            self.hashes(base, index, count),
            self.uncles(base, index, count, proof_layers),
        )


def leaf_answer(
    piece: Tree, upper: Tree, layout: Layout, index: int, count: int, proof_layers: int
) -> tuple[bytes, bytes]:
    """(leaves, uncles) for a request at layer 0 that lies in one piece.

    `piece` is the tree over that piece's leaves, `upper` the one over the piece layer; `index`
    counts leaves of the file. ValueError when the range does not fit the file or leaves the piece.
    """
    check_range(layout.height, 0, index, count, proof_layers)
    per_piece = 1 << layout.piece_layer
    if count > per_piece:
        raise ValueError(f"{count} leaves, a piece has {per_piece}")
    number, inside = divmod(index, per_piece)
    uncles = []
    layer = count.bit_length() - 1
    for _ in range(uncle_count(count, proof_layers)):
        if layer < layout.piece_layer:
            uncles.append(piece.node(layer, (inside >> layer) ^ 1))
        else:
            position = number >> (layer - layout.piece_layer)
            uncles.append(upper.node(layer, position ^ 1))
        layer += 1
    return piece.hashes(0, inside, count), b"".join(uncles)


def top_of_range(base: int, index: int, nodes: bytes, uncles: bytes) -> bytes:
    """The ancestor that `nodes` (a padded range of layer `base` from `index`) and `uncles` prove.

    It lies at layer base + log2(count) + number of uncles.
    """
    count = len(nodes) // HASH_BYTES
    node = climb(nodes, base, base + count.bit_length() - 1)
    position = index // count
    for offset in range(0, len(uncles), HASH_BYTES):
        uncle = uncles[offset : offset + HASH_BYTES]
        pair = uncle + node if position & 1 else node + uncle
        node = hashlib.sha256(pair).digest()
        position >>= 1
    return node


def range_matches(
    base: int, index: int, count: int, proof_layers: int, nodes: bytes, uncles: bytes, top: bytes
) -> bool:
    """Whether a peer's answer to (base, index, count, proof_layers) hashes up to `top`. Total.

    `top` is the root for a full proof, or the piece hash when leaves were asked for with the
    proof layers up to their piece only.
    """
    if count < 1 or count & (count - 1) or len(nodes) != count * HASH_BYTES:
        return False
    if len(uncles) != uncle_count(count, proof_layers) * HASH_BYTES:
        return False
    return top_of_range(base, index, nodes, uncles) == top


def bad_leaves(data: Buffer, leaves: Sequence[bytes] | bytes) -> list[int]:
    """Which 16 KiB leaves of a piece's bytes differ from its proven `leaves` (indices in it)."""
    joined = leaves if isinstance(leaves, bytes) else b"".join(leaves)
    own = leaf_hashes(data)
    return [
        index
        for index in range(len(own) // HASH_BYTES)
        if node_at(own, index) != node_at(joined, index)
    ]
