"""The missing pieces ordered by how many peers have them, ties broken at random in O(1)."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable

from node.torrent.limits import MAX_PEERS


class Rarest:
    """Pieces 0 to n-1 with an availability each; a subset of them is in the index.

    Peers that have everything are not counted here: they change no order.
    """

    def __init__(self, pieces: int) -> None:
        self.available = array("H", bytes(2 * pieces))
        self._at = array("l", [-1]) * pieces
        self._buckets: list[list[int]] = [[]]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, piece: int) -> bool:
        return self._at[piece] >= 0

    def add(self, piece: int) -> None:
        """Put a piece into the index."""
        availability = self.available[piece]
        while len(self._buckets) <= availability:
            self._buckets.append([])
        bucket = self._buckets[availability]
        self._at[piece] = len(bucket)
        bucket.append(piece)
        self._count += 1

    def remove(self, piece: int) -> None:
        """Take a piece out of the index."""
        bucket = self._buckets[self.available[piece]]
        at = self._at[piece]
        last = bucket.pop()
        if last != piece:
            bucket[at] = last
            self._at[last] = at
        self._at[piece] = -1
        self._count -= 1

    def change(self, piece: int, by: int) -> None:
        """One peer more or less has the piece."""
        indexed = piece in self
        if indexed:
            self.remove(piece)
        self.available[piece] = min(max(self.available[piece] + by, 0), MAX_PEERS * 16)
        if indexed:
            self.add(piece)

    def with_no_source(self) -> int:
        """How many pieces of the index no counted peer has."""
        return len(self._buckets[0])

    def rarest(self, has: Callable[[int], bool] | None, rng: random.Random) -> int | None:
        """A random one of the rarest pieces that `has` accepts (None: any); None without one."""
        for bucket in self._buckets:
            if not bucket:
                continue
            start = rng.randrange(len(bucket))
            if has is None:
                return bucket[start]
            for step in range(len(bucket)):
                piece = bucket[(start + step) % len(bucket)]
                if has(piece):
                    return piece
        return None

    def any(self, has: Callable[[int], bool] | None, rng: random.Random) -> int | None:
        """A random piece that `has` accepts, after few tries; None when they failed."""
        for _ in range(16):
            if not self._count:
                return None
            at = rng.randrange(self._count)
            for bucket in self._buckets:
                if at < len(bucket):
                    if has is None or has(bucket[at]):
                        return bucket[at]
                    break
                at -= len(bucket)
        return None
