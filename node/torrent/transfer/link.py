"""Frames over a stream: what both sides of a transfer share.

Control frames are decoded whole; of a DATA frame only the head is, so that its bytes can be
received straight to where they belong. The header is judged before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from node.torrent import frames, messages
from node.torrent.frames import DATA_HEAD, HEADER
from node.torrent.limits import BLOCK_BYTES, KIB, MAX_FRAME_BYTES, MAX_WINDOW_BYTES, MIB
from node.torrent.messages import ErrorCode, FrameType, Message, WireError
from node.torrent.sizes import Block
from node.torrent.transfer.streams import Stream, StreamEndedError, read_into_of

UNREAD_BYTES = 64 * KIB
"""What is read at once while no block's bytes are expected. Holds any control frame."""
AFTER_BLOCK_BYTES = 4 * KIB
"""The same after a block: another one most likely follows, and what is read here is copied."""
OUTBOX_BYTES = MIB
"""Control frames that may wait for a peer that does not read."""
LAST_WORDS_S = 1.0
"""How long the frame before the last one may take."""
AGENT = "swarmtui"


class DataHead:
    """A DATA frame began: receive `block.length` bytes with `Link.body` before anything else."""

    __slots__ = ("block", "req_id")

    def __init__(self, req_id: int, block: Block) -> None:
        self.req_id = req_id
        self.block = block


def own_hello() -> messages.Hello:
    """What this side says first."""
    return messages.Hello(
        v=messages.VERSION,
        agent=AGENT,
        features=(),
        max_inflight=MAX_WINDOW_BYTES,
        max_block=BLOCK_BYTES,
    )


class Link:
    """One stream. One task reads with `next` and `body`, one runs `send_all`, any may `send`.

    frame_began: when a frame began that is not complete, on trio's clock; None between frames
    heard: when the last byte came. received, sent: bytes of both directions.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.frame_began: float | None = None
        self.heard = trio.current_time()
        self.received = 0
        self.sent = 0
        self.writing_since: float | None = None
        self._read_into = read_into_of(stream)
        self._unread = memoryview(bytearray(UNREAD_BYTES))
        self._start = 0
        self._end = 0
        self._ahead = UNREAD_BYTES
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self.wrote = self.heard
        self._waiting = trio.lowlevel.ParkingLot()
        self._written = trio.lowlevel.ParkingLot()
        self._woken = False
        self._closing = False
        self._settling = False

    # ------------------------------------------------------------ reading

    async def next(self) -> tuple[int, Message | DataHead]:
        """The next frame as (request id, message), or the head of a DATA frame.

        WireError for what the protocol does not allow, StreamEndedError at the end.
        """
        self.frame_began = self.heard if self._end > self._start else None
        await self._need(HEADER.size, "between two frames")
        length, number, flags, reserved, req_id = HEADER.unpack_from(self._unread, self._start)
        if length > MAX_FRAME_BYTES:
            raise WireError(
                ErrorCode.LIMIT, f"a frame of {length} bytes, {MAX_FRAME_BYTES} are allowed"
            )
        try:
            kind = FrameType(number)
        except ValueError as error:
            raise WireError(ErrorCode.PROTOCOL, f"unknown frame type {number}") from error
        if flags or reserved:
            raise WireError(ErrorCode.PROTOCOL, "reserved header bits are set")
        frames.check_length(kind, length)
        self._start += HEADER.size
        if kind is FrameType.DATA:
            await self._need(DATA_HEAD.size, "inside a frame")
            piece, offset = DATA_HEAD.unpack_from(self._unread, self._start)
            self._start += DATA_HEAD.size
            return req_id, DataHead(
                req_id, frames.check_block(piece, offset, length - DATA_HEAD.size)
            )
        self._ahead = UNREAD_BYTES
        await self._need(length, "inside a frame")
        payload = bytes(self._unread[self._start : self._start + length])
        self._start += length
        self.frame_began = None
        return req_id, frames.decode(kind, payload)

    async def body(self, view: memoryview) -> None:
        """Receive the bytes of the DATA frame whose head came last; exactly `view`."""
        size = len(view)
        have = min(self._end - self._start, size)
        view[:have] = self._unread[self._start : self._start + have]
        self._start += have
        while have < size:
            have += await self._receive(view[have:], "inside a block")
        self._ahead = AFTER_BLOCK_BYTES
        self.frame_began = None

    async def _need(self, size: int, where: str) -> None:
        if self._end - self._start >= size:
            return
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start + size > UNREAD_BYTES:
            rest = self._end - self._start
            self._unread[:rest] = self._unread[self._start : self._end].tobytes()
            self._start, self._end = 0, rest
        while self._end - self._start < size:
            space = self._unread[self._end : self._end + max(size, self._ahead)]
            self._end += await self._receive(space, where)

    async def _receive(self, view: memoryview, where: str) -> int:
        try:
            count = await self._read_into(view)
        except Exception as error:
            raise StreamEndedError(f"the stream broke {where} ({type(error).__name__})") from error
        if not count:
            raise StreamEndedError(f"the stream ended {where}")
        self.received += count
        self.heard = trio.current_time()
        if self.frame_began is None:
            self.frame_began = self.heard
        return count

    # ------------------------------------------------------------ writing

    def send(self, message: Message, req_id: int = 0) -> None:
        """Queue a control frame; it goes out at the next turn of `send_all`.

        StreamEndedError when the other side has not read for OUTBOX_BYTES of them.
        """
        if self._closing:
            return
        raw = frames.encode(message, req_id)
        self._outbox_bytes += len(raw)
        if self._outbox_bytes > OUTBOX_BYTES:
            raise StreamEndedError("the peer does not read what it asks for")
        self._outbox.append(raw)
        self.wake()

    async def send_all(self) -> None:
        """Write queued frames for ever; returns once `finish` was called and all is out."""
        while True:
            await self.flush()
            if self._closing:
                return
            await self.wait()

    def wake(self) -> None:
        """Let the task that writes look again."""
        self._woken = True
        self._waiting.unpark()

    async def wait(self) -> None:
        """Until `wake` or `send` was called since the last `wait`. For the task that writes."""
        while not self._woken:
            await self._waiting.park()
        self._woken = False

    async def flush(self) -> None:
        """Write what is queued. For the task that writes only."""
        while self._outbox:
            raw = self._outbox[0] if len(self._outbox) == 1 else b"".join(self._outbox)
            self._outbox.clear()
            self._outbox_bytes = 0
            await self.write(raw)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write at once. For the task that writes only."""
        if self._settling:
            await trio.sleep_forever()  # the last words are not this task's
        await self._write(data)

    async def last(self, message: Message) -> None:
        """Write a frame once the tasks have ended; StreamEndedError."""
        await self._write(frames.encode(message))

    async def settled(self, read: Callable[[], Awaitable[None]]) -> None:
        """Run `read`; when it fails, let the frame that is being written end first.

        Otherwise there could be no last word: it would be taken for the rest of that frame, for
        bytes of a file for instance.
        """
        try:
            await read()
        except StreamEndedError:
            raise
        except Exception:
            self._settling = True
            with trio.move_on_after(LAST_WORDS_S):
                while self.writing_since is not None:
                    await self._written.park()
            raise

    async def _write(self, data: bytes | bytearray | memoryview) -> None:
        if self.writing_since is not None:
            raise StreamEndedError("a frame was cut short")
        self.writing_since = trio.current_time()
        try:
            await self.stream.write(data)
        except Exception as error:
            raise StreamEndedError(f"sending failed ({type(error).__name__})") from error
        self.writing_since = None
        self.wrote = trio.current_time()
        self.sent += len(data)
        if self._settling:
            self._written.unpark_all()

    def finish(self) -> None:
        """No more frames after those that are queued."""
        self._closing = True
        self.wake()
