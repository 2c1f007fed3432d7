"""Buffers of one message that are used again as soon as nobody looks at them any more.

A fresh buffer per message is zeroed, fetched from cold memory and thrown away: with AES that
costs half of what the decryption does. A buffer is free again once no view of it is left, which
in CPython its reference count tells at once; where counts say otherwise it is only never reused.
"""

from __future__ import annotations

from sys import getrefcount

BUFFERS = 24
"""Kept per connection at most, while much arrives: 1.5 MiB."""
# The list's reference and the one that the call itself holds.
_UNUSED = 2


class BufferPool:
    """Up to `count` buffers of `size` bytes; more than that are made and not kept."""

    def __init__(self, size: int, count: int = BUFFERS) -> None:
        self._size = size
        self._count = count
        self._buffers: list[bytearray] = []
        self._next = 0

    @property
    def kept(self) -> int:
        """Bytes allocated for buffers that are used again."""
        return len(self._buffers) * self._size

    def rewind(self) -> None:
        """Prefer the buffers used first: they are the likeliest to be free and still in cache."""
        self._next = 0

    def take(self) -> bytearray:
        """A buffer nobody else looks at; its content is arbitrary."""
        buffers, index = self._buffers, self._next
        for index in range(self._next, len(buffers)):
            if getrefcount(buffers[index]) == _UNUSED:
                self._next = index + 1
                return buffers[index]
        fresh = bytearray(self._size)
        if len(buffers) < self._count:
            buffers.append(fresh)
            self._next = len(buffers)
        return fresh

    def clear(self) -> None:
        """Let go of the memory once it is unused."""
        self._buffers.clear()
        self._next = 0
