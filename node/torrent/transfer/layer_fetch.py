"""Fetching the piece layer: ranges of at most 512 hashes, each proven against the root."""

from __future__ import annotations

import trio

from node.torrent import merkle
from node.torrent.limits import HASH_BYTES, MAX_HASHES
from node.torrent.messages import Hashes, HashRequest
from node.torrent.sizes import Layout

COPIES = 2


class LayerFetch:
    """The piece layer of one file while it comes in; `layer` once it is complete."""

    def __init__(self, layout: Layout, root: bytes) -> None:
        self.layer: bytes | None = None
        self.complete = trio.Event()
        self._layout = layout
        self._root = root
        base = layout.piece_layer
        width = 1 << (layout.height - base)
        count = min(MAX_HASHES, width)
        self._parts: dict[int, bytes] = {}
        self._asked: dict[int, int] = {}
        self._requests: dict[int, HashRequest] = {}
        if layout.pieces <= 1:
            # Of a single piece the root is the whole layer.
            self._finish(root if layout.pieces else b"")
            return
        proof = merkle.full_proof_layers(layout.height, base)
        for index in range(0, layout.pieces, count):
            self._requests[index] = HashRequest(base, index, count, proof)
            self._asked[index] = 0

    @property
    def left(self) -> int:
        """Ranges that have not come."""
        return len(self._requests) - len(self._parts)

    def take(self) -> HashRequest | None:
        """A range to ask for: one nobody was asked for, else one that is late; None for none."""
        open_ranges = [index for index in self._requests if index not in self._parts]
        best = min(open_ranges, key=lambda index: self._asked[index], default=None)
        if best is None or self._asked[best] >= COPIES:
            return None
        self._asked[best] += 1
        return self._requests[best]

    def give_back(self, request: HashRequest) -> None:
        """The range did not come."""
        self._asked[request.index] -= 1

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
            self._finish(joined[: self._layout.pieces * HASH_BYTES])
        return True

    def use(self, layer: bytes) -> None:
        """Take a layer that was proven before."""
        self._finish(layer)

    def _finish(self, layer: bytes) -> None:
        if not merkle.layer_matches(layer, self._layout, self._root):
            raise ValueError("the piece layer does not match the root")
        self.layer = layer
        self.complete.set()
