"""One Yamux stream: windows, half-close, reset, and what waits for them.

Exceptions are those py-libp2p's layers above expect: MuxedStreamEOF after the other side's FIN,
MuxedStreamReset after a reset or a lost connection, MuxedStreamClosed for writing after close.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

import trio
from libp2p.abc import IMuxedStream
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.stream_muxer.exceptions import (
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)

from node.network.fast.frames import (
    DATA,
    FIN,
    INITIAL_WINDOW,
    MAX_PAYLOAD,
    RST,
    WINDOW_UPDATE,
    FrameError,
    frame,
    pack_header,
)
from node.network.fast.noise_messages import Buffer

if TYPE_CHECKING:
    from node.network.fast.muxer import FastYamux

BATCH_BYTES = 4 * MAX_PAYLOAD
YIELD_BYTES = 1024 * 1024
# A window read through faster than this doubles: it should last for a long round trip.
GROW_BELOW_S = 0.2
# Pieces smaller than this are collected, so that one-byte frames cost one byte and not hundreds.
SMALL_PIECE = 1024
COLLECTED = 16 * 1024


class FastStream(IMuxedStream):
    """A stream of a FastYamux connection.

    `read` and `write` do not yield when they need not wait (py-libp2p's NetStream does before
    each call); a long write yields every MiB.
    """

    def __init__(self, muxer: FastYamux, stream_id: int, *, is_initiator: bool) -> None:
        self.muxed_conn = muxer
        self._muxer = muxer
        self._session = muxer.session
        self.stream_id = stream_id
        self.is_initiator = is_initiator
        self.send_closed = False
        self.recv_closed = False
        self.was_reset = False
        self.closed_at: float | None = None
        self.send_window = INITIAL_WINDOW
        self.window = INITIAL_WINDOW
        self.credit = INITIAL_WINDOW
        self.unread = 0
        self._lost = False
        self._chunks: deque[Buffer] = deque()
        self._granted_at = trio.current_time()
        self._deadline = math.inf
        self._writing = False
        self._turns = trio.lowlevel.ParkingLot()
        self._readable = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()

    # ------------------------------------------------------------ reading

    async def read(self, n: int | None = None) -> bytes:
        """Up to `n` bytes (all there is with None or -1), waiting until there is at least one."""
        if n == 0:
            return b""
        await self._wait_readable()
        data = self._take(self.unread if n is None or n < 0 else n)
        self._grant_if_due()
        return data

    async def read_into(self, view: memoryview) -> int:
        """Fill the beginning of `view` with what there is, waiting for the first; 0 at the end.

        What came is copied once, to where it belongs.
        """
        if not view:
            return 0
        try:
            await self._wait_readable()
        except MuxedStreamEOF:
            return 0
        size = self._take_into(view)
        self._grant_if_due()
        return size

    async def _wait_readable(self) -> None:
        while not self._chunks:
            if self.was_reset:
                raise MuxedStreamReset("the stream was reset")
            if self.recv_closed:
                raise MuxedStreamEOF("the other side has finished")
            if self._lost:
                raise MuxedStreamReset("the connection is closed")
            await self._park(self._readable)

    def _grant_if_due(self) -> None:
        if not (self.recv_closed or self.was_reset or self._lost):
            consumed = self.window - self.credit - self.unread
            if consumed >= self.window // 2:
                self._grant(consumed)

    def _take_into(self, view: memoryview) -> int:
        chunks = self._chunks
        limit = len(view)
        size = 0
        while chunks and size < limit:
            chunk = chunks[0]
            length = len(chunk)
            if size + length <= limit:
                chunks.popleft()
                view[size : size + length] = chunk
            else:
                rest = memoryview(chunk)
                length = limit - size
                view[size:] = rest[:length]
                chunks[0] = rest[length:]
            size += length
        self.unread -= size
        self._muxer.taken(self, size)
        return size

    def _take(self, limit: int) -> bytes:
        chunks = self._chunks
        parts: list[Buffer] = []
        size = 0
        while chunks and size < limit:
            chunk = chunks[0]
            if size + len(chunk) <= limit:
                chunks.popleft()
            else:
                view = memoryview(chunk)
                chunk, chunks[0] = view[: limit - size], view[limit - size :]
            parts.append(chunk)
            size += len(chunk)
        self.unread -= size
        self._muxer.taken(self, size)
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def expect(self, size: int) -> None:
        """Much will come: open the window to `size` bytes now, within the muxer's limits.

        Doubling from 256 KiB up costs a round trip each time, and the first at the worst moment.
        """
        before = self.window
        while self.window < size and (grown := self._muxer.grow(self.window)):
            self.window += grown
        if self.window > before:
            self.credit += self.window - before
            self._session.seal(frame(WINDOW_UPDATE, 0, self.stream_id, self.window - before))
            self._session.flush()

    def _grant(self, consumed: int) -> None:
        now = trio.current_time()
        if now - self._granted_at < GROW_BELOW_S:
            grown = self._muxer.grow(self.window)
            self.window += grown
            consumed += grown
        self._granted_at = now
        self.credit += consumed
        self._session.seal(frame(WINDOW_UPDATE, 0, self.stream_id, consumed))
        self._session.flush()

    # ------------------------------------------------------------ writing

    async def write(self, data: Buffer) -> None:
        """Send `data`; waits while the other side's window or the connection is full.

        Cancellation leaves a prefix of `data` sent and the stream usable.
        """
        while self._writing:
            await self._park(self._turns)
        self._writing = True
        try:
            await self._write(memoryview(data).cast("B"))
        finally:
            self._writing = False
            self._turns.unpark()

    async def _write(self, view: memoryview) -> None:
        session = self._session
        size = len(view)
        position = unyielded = 0
        while True:
            if self.was_reset or self._lost:
                raise MuxedStreamReset("the stream was reset or its connection closed")
            if self.send_closed:
                raise MuxedStreamClosed("the stream is closed for writing")
            if position == size:
                return
            batch = min(size - position, self.send_window, BATCH_BYTES)
            end = position + batch
            self.send_window -= batch
            while position < end:
                length = min(end - position, MAX_PAYLOAD)
                header = pack_header(0, DATA, 0, self.stream_id, length)
                session.seal(b"".join((header, view[position : position + length])))
                position += length
            session.flush()
            unyielded += batch
            try:
                if session.full:
                    unyielded = 0
                    await self._bounded(session.wait_room)
                elif position < size and not self.send_window:
                    unyielded = 0
                    await self._park(self._writable)
                elif unyielded >= YIELD_BYTES:
                    unyielded = 0
                    await trio.lowlevel.checkpoint()
            except ConnectionClosedError as error:
                raise MuxedStreamReset("the connection is closed") from error

    async def close_write(self) -> None:
        """Half-close: the other side reads to the end of what was written; reading goes on."""
        if not (self.send_closed or self.was_reset or self._lost):
            self.send_closed = True
            self._session.seal(frame(WINDOW_UPDATE, FIN, self.stream_id))
            self._session.flush()
            self._writable.unpark_all()
            if self.recv_closed:
                self._muxer.forget(self)

    async def close(self) -> None:
        """Half-close; a peer that never finishes its half is dropped after a while."""
        await self.close_write()
        if self.closed_at is None:
            self.closed_at = trio.current_time()
            self._muxer.release_slot(self)

    async def reset(self) -> None:
        """End both directions at once; what is unread is lost."""
        if not (self.was_reset or self._lost or (self.send_closed and self.recv_closed)):
            self._session.seal(frame(WINDOW_UPDATE, RST, self.stream_id))
            self._session.flush()
        self.drop()

    # ------------------------------------------------------------ what the muxer tells

    def on_frame(self, length: int) -> None:
        """A data frame of `length` bytes begins."""
        if length > self.credit:
            raise FrameError(f"{length} bytes on a stream whose window has {self.credit} left")
        self.credit -= length

    def on_data(self, piece: memoryview) -> int:
        """Keep a piece of a message's payload; how many bytes are now held more."""
        if self.recv_closed or self.was_reset:
            return 0
        size = len(piece)
        if size >= SMALL_PIECE:
            # A view keeps its whole message alive: worth it only for most of the message.
            whole = len(cast(bytes, piece.obj))
            self._chunks.append(piece if 2 * size >= whole else bytes(piece))
        else:
            last = self._chunks[-1] if self._chunks else None
            if type(last) is bytearray and len(last) < COLLECTED:
                last += piece
            else:
                self._chunks.append(bytearray(piece))
        self.unread += size
        if self._readable:
            self._readable.unpark_all()
        return size

    def on_window(self, increment: int) -> None:
        """The other side accepts `increment` bytes more."""
        self.send_window += increment
        self._writable.unpark_all()

    def on_fin(self) -> None:
        """The other side has finished writing."""
        self.recv_closed = True
        self._readable.unpark_all()
        if self.send_closed:
            self._muxer.forget(self)

    def on_reset(self) -> None:
        """The stream ended at once, by either side.

        What came before can still be read: py-libp2p's handlers answer and then reset.
        """
        self.was_reset = True
        self._muxer.forget(self)
        self._wake()

    def drop(self) -> None:
        """This side ends the stream: what is unread is let go."""
        self.on_reset()
        self._chunks.clear()
        self.unread = 0

    def on_lost(self) -> None:
        """The connection is gone; what has been received can still be read."""
        self._lost = True
        self._wake()

    def _wake(self) -> None:
        self._readable.unpark_all()
        self._writable.unpark_all()
        self._turns.unpark_all()

    # ------------------------------------------------------------ deadlines and the rest

    def set_deadline(self, ttl: int) -> None:
        """Let waiting reads and writes fail (MuxedStreamError) `ttl` seconds from now; 0: never."""
        if ttl < 0:
            raise ValueError("a deadline cannot be in the past")
        self._deadline = trio.current_time() + ttl if ttl else math.inf

    async def _park(self, lot: trio.lowlevel.ParkingLot) -> None:
        await self._bounded(lot.park)

    async def _bounded(self, wait: Callable[[], Awaitable[None]]) -> None:
        if self._deadline == math.inf:
            await wait()
            return
        with trio.CancelScope(deadline=self._deadline):
            await wait()
            return
        raise MuxedStreamError("the stream's deadline has passed")

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be sent or received any more."""
        return self.was_reset or self._lost or (self.send_closed and self.recv_closed)

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._muxer.get_remote_address()

    async def __aenter__(self) -> FastStream:
        return self
