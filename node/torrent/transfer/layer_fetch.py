"""Fetching the piece layer: ranges of at most 512 hashes, each proven against the root."""

from __future__ import annotations

import trio

from node.torrent import merkle
from node.torrent.limits import HASH_BYTES, MAX_HASHES
from node.torrent.messages import Hashes, HashRequest
from node.torrent.sizes import Layout


class LayerFetch:
    """The piece layer of one file while it comes in; `layer` once it is complete.

    `complete` without a layer: the root is of a file of another size.
    """

    def __init__(self, layout: Layout, root: bytes) -> None:
        self.layer: bytes | None = None
        self.complete = trio.Event()
        self._layout = layout
        self._root = root
        base = layout.piece_layer
        width = 1 << (layout.height - base)
        count = min(MAX_HASHES, width)
        self._parts: dict[int, bytes] = {}
        self._asked: dict[int, set[str]] = {}
        self._requests: dict[int, HashRequest] = {}
        if layout.pieces <= 1:
            # Of a single piece the root is the whole layer.
            self._finish(root if layout.pieces else b"")
            return
        proof = merkle.full_proof_layers(layout.height, base)
        for index in range(0, layout.pieces, count):
            self._requests[index] = HashRequest(base, index, count, proof)
            self._asked[index] = set()

    @property
    def left(self) -> int:
        """Ranges that have not come."""
        return len(self._requests) - len(self._parts)

    def take(self, peer_id: str) -> HashRequest | None:
        """A range to ask `peer_id` for: of those it was not asked for, one that fewest were.

        None when there is none. Late ranges are asked of everybody: they are small, and a peer
        that never answers must not hold the download.
        """
        able = [
            index
            for index in self._requests
            if index not in self._parts and peer_id not in self._asked[index]
        ]
        best = min(able, key=lambda index: len(self._asked[index]), default=None)
        if best is None:
            return None
        self._asked[best].add(peer_id)
        return self._requests[best]

    def forget(self, peer_id: str) -> None:
        """The peer's stream ended: on its next one it may be asked again."""
        for asked in self._asked.values():
            asked.discard(peer_id)

    def put(self, answer: Hashes) -> bool:
        """Take an answer; False when its hashes do not lead to the root."""
        request = answer.request
        if not merkle.range_matches(
            request.layer,
            request.index,
            request.count,
            request.proof,
            answer.nodes,
            answer.uncles,
            self._root,
        ):
            return False
        self._parts[request.index] = answer.nodes
        if not self.left and self.layer is None:
            joined = b"".join(self._parts[index] for index in sorted(self._parts))
            layer = joined[: self._layout.pieces * HASH_BYTES]
            if merkle.layer_matches(layer, self._layout, self._root):
                self._finish(layer)
            else:
                # Every range is proven: it is the size that does not belong to this root.
                self.complete.set()
        return True

    def use(self, layer: bytes) -> None:
        """Take a layer that was proven before."""
        self._finish(layer)

    def _finish(self, layer: bytes) -> None:
        if not merkle.layer_matches(layer, self._layout, self._root):
            raise ValueError("the piece layer does not match the root")
        self.layer = layer
        self.complete.set()
