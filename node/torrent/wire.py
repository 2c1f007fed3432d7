"""From bytes to frames, incrementally and without I/O.

The header is judged before a byte is allocated for its payload: the global limit first, then the
type's own. Each payload is assembled with one copy, however the bytes were split on the way; the
bytes of a block go straight to where the download wants them.
"""

from __future__ import annotations

from collections.abc import Callable

from node.torrent.frames import DATA_HEAD, HEADER, check_block, check_length, decode
from node.torrent.limits import MAX_FRAME_BYTES
from node.torrent.messages import Data, ErrorCode, Frame, FrameType, WireError
from node.torrent.sizes import Block

Place = Callable[[Block, int], memoryview | None]
"""place(block, request id): a writable view of block.length bytes that the bytes are copied to as
they come, or None for a buffer of their own. WireError when the block was not asked for."""


class FrameParser:
    """Feed it what arrives; it gives whole frames.

    After a WireError it is dead: every further `feed` raises the same error.
    """

    def __init__(self, max_frame: int = MAX_FRAME_BYTES, place: Place | None = None) -> None:
        """`max_frame` bounds every payload, in bytes; `place` is asked once per DATA frame."""
        self._max_frame = max_frame
        self._place = place
        self._head = bytearray()
        self._head_size = HEADER.size
        self._kind = FrameType.BYE
        self._req_id = 0
        self._length = 0
        self._block: Block | None = None
        self._target: memoryview | None = None
        self._filled = 0
        self._error: WireError | None = None

    @property
    def partial(self) -> bool:
        """Whether a frame began and is not complete: it must be within FRAME_TIMEOUT_S."""
        return bool(self._head) or self._target is not None

    @property
    def kind(self) -> FrameType | None:
        """The type of the frame whose payload is being received, for telling what is late."""
        begun = self._target is not None or len(self._head) >= HEADER.size
        return self._kind if begun else None

    @property
    def block(self) -> Block | None:
        """The block whose bytes are being received."""
        return self._block if self._target is not None else None

    def feed(self, chunk: bytes | bytearray | memoryview) -> list[Frame]:
        """The frames that `chunk` completes; the chunk itself is not kept.

        WireError for anything outside the protocol; its `frames` are those completed before.
        """
        if self._error is not None:
            raise self._error
        frames: list[Frame] = []
        try:
            self._parse(memoryview(chunk), frames)
        except WireError as error:
            error.frames = frames
            self._error = error
            self._target = None
            raise
        return frames

    def _parse(self, view: memoryview, frames: list[Frame]) -> None:
        at = 0
        end = len(view)
        while True:
            if self._target is None:
                take = min(self._head_size - len(self._head), end - at)
                self._head += view[at : at + take]
                at += take
                if len(self._head) < self._head_size:
                    return
                self._target = self._begin()
                if self._target is None:
                    continue
            take = min(len(self._target) - self._filled, end - at)
            if take:
                self._target[self._filled : self._filled + take] = view[at : at + take]
                self._filled += take
                at += take
            if self._filled < len(self._target):
                return
            target, self._target = self._target, None
            self._head_size = HEADER.size
            if self._block is None:
                frames.append(Frame(self._req_id, decode(self._kind, target)))
            else:
                piece, offset, _ = self._block
                self._block = None
                frames.append(Frame(self._req_id, Data(piece, offset, target)))

    def _begin(self) -> memoryview | None:
        """Where the payload goes; None when the head of a DATA frame has to be read first."""
        if len(self._head) == HEADER.size:
            self._length, number, flags, reserved, self._req_id = HEADER.unpack(self._head)
            if self._length > self._max_frame:
                raise WireError(
                    ErrorCode.LIMIT,
                    f"a frame of {self._length} bytes, {self._max_frame} are allowed",
                )
            try:
                self._kind = FrameType(number)
            except ValueError as error:
                raise WireError(ErrorCode.PROTOCOL, f"unknown frame type {number}") from error
            if flags or reserved:
                raise WireError(ErrorCode.PROTOCOL, "reserved header bits are set")
            check_length(self._kind, self._length)
            self._filled = 0
            if self._kind is FrameType.DATA:
                self._head_size = HEADER.size + DATA_HEAD.size
                return None
            self._head.clear()
            return memoryview(bytearray(self._length))
        length = self._length - DATA_HEAD.size
        piece, offset = DATA_HEAD.unpack_from(self._head, HEADER.size)
        self._head.clear()
        block = check_block(piece, offset, length)
        target = self._place(block, self._req_id) if self._place is not None else None
        if target is not None and (len(target) != length or target.itemsize != 1):
            raise ValueError(f"{len(target)} bytes of room for {block}")
        self._block = block
        return memoryview(bytearray(length)) if target is None else target
