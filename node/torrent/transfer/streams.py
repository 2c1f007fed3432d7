"""What the transfer needs of a stream, so that it runs over libp2p, sockets and memory alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from node.torrent.merkle import Buffer


class StreamEndedError(Exception):
    """The other side went away without saying goodbye; the text says at what."""


class Stream(Protocol):
    """An ordered stream of bytes, one reader and one writer at a time.

    `read` and `write` may raise any exception for a lost or reset stream. A stream may also have
    `async read_into(view: memoryview) -> int` (bytes read, 0 at the end); where it has, received
    bytes go straight into the piece they belong to instead of through a bytes object.
    """

    async def read(self, n: int) -> Buffer:
        """1 to `n` bytes, waiting for the first; empty at the end."""
        ...

    async def write(self, data: Buffer) -> None:
        """Send all of `data`, waiting while the other side is full. `data` is free afterwards."""
        ...

    async def close(self) -> None:
        """End this side in order; never raises for a stream that is gone already."""
        ...

    async def reset(self) -> None:
        """End both sides at once; never raises."""
        ...


OpenStream = Callable[[], Awaitable[Stream]]
ReadInto = Callable[[memoryview], Awaitable[int]]


def read_into_of(stream: Stream) -> ReadInto:
    """The stream's own `read_into`, or one that copies what `read` returns."""
    own = getattr(stream, "read_into", None)
    if own is not None:
        return cast(ReadInto, own)

    async def read_into(view: memoryview) -> int:
        data = await stream.read(len(view))
        size = len(data)
        view[:size] = data
        return size

    return read_into
