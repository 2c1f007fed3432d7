"""The server's side of one stream: its requests, its queue, its deadlines."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import trio

from node.torrent import frames, messages
from node.torrent.limits import (
    BLOCK_BYTES,
    FRAME_TIMEOUT_S,
    HAVE_BATCH_S,
    HELLO_TIMEOUT_S,
    KIB,
    MAX_BLOCKS_PER_FRAME,
    MAX_HAVE_PER_FRAME,
    MAX_WINDOW_BYTES,
    MIB,
    OPEN_TIMEOUT_S,
)
from node.torrent.merkle import Tree, leaf_answer
from node.torrent.messages import ErrorCode, Message, Why, WireError
from node.torrent.sizes import Block
from node.torrent.transfer.guarding import Allowance, Ended, Group, RunSync, every, late
from node.torrent.transfer.link import LAST_WORDS_S, DataHead, Link, own_hello
from node.torrent.transfer.shared import CorruptError, GrowingFile, SharedFile
from node.torrent.transfer.streams import StreamEndedError
from node.torrent.transfer.upload import RETRY_MS, TokenBucket, TooManyError, Upload, Uploads

__all__ = ["Ended", "Limits", "Refused", "Serving"]

HEAD_BYTES = 20
MAX_TOGETHER = 4
"""Blocks written at once to a peer that is quick, which makes full messages of the encryption."""
QUICK_S = 0.05
WATCH_S = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one stream may cost this node. Times in seconds."""

    hello_s: float = HELLO_TIMEOUT_S
    open_s: float = OPEN_TIMEOUT_S
    frame_s: float = FRAME_TIMEOUT_S
    write_s: float = 30.0
    idle_s: float = 300.0
    inflight_bytes: int = MAX_WINDOW_BYTES
    requests: int = MAX_WINDOW_BYTES // (16 * KIB)
    control_per_s: float = 50.0
    asks_per_s: float = 500.0
    leaf_bytes_per_s: float = 64 * MIB


class Refused(Exception):
    """This side cannot serve; nobody broke a rule."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Serving:
    """One stream being served. `run` raises what ended it, or returns after a BYE."""

    def __init__(
        self,
        link: Link,
        find: Callable[[bytes, bytes], SharedFile | None],
        limits: Limits,
        uploads: Uploads,
        peer_id: str,
        run_sync: RunSync,
    ) -> None:
        self.file: SharedFile | None = None
        self._link = link
        self._find = find
        self._limits = limits
        self._uploads = uploads
        self._peer_id = peer_id
        self._run_sync = run_sync
        self._upload: Upload | None = None
        self._opened = trio.Event()
        self._group = Group()
        self._queue: deque[tuple[int, Block]] = deque()
        self._queued_bytes = 0
        self._known: frozenset[int] | None = None
        self._leaves: tuple[int, Tree] | None = None
        self._began = trio.current_time()
        self._greeted: float | None = None
        self._control_frames = Allowance(limits.control_per_s, limits.control_per_s)
        self._asks = Allowance(limits.asks_per_s, 2 * limits.asks_per_s)
        self._may_cancel = 0
        self._hashing = TokenBucket(limits.leaf_bytes_per_s)

    async def run(self) -> None:
        """Serve until the end."""
        await self._group.run(
            lambda: self._link.settled(self._read),
            self._send,
            lambda: every(WATCH_S, self._watch),
            self._tell_more,
        )

    def close(self) -> None:
        """Give the slot back."""
        if self._upload is not None:
            self._uploads.close(self._upload)
            self._upload = None

    # ------------------------------------------------------------ reading

    async def _read(self) -> None:
        link = self._link
        _, hello = await link.next()
        if not isinstance(hello, messages.Hello):
            raise WireError(ErrorCode.PROTOCOL, "the first frame is not HELLO")
        self._greeted = trio.current_time()
        link.send(own_hello())
        req_id, wanted = await link.next()
        if not isinstance(wanted, messages.Open):
            raise WireError(ErrorCode.PROTOCOL, "OPEN does not follow HELLO")
        self._open(req_id, wanted)
        while True:
            req_id, message = await link.next()
            if isinstance(message, messages.Request):
                self._requested(req_id, message.blocks)
            elif isinstance(message, messages.Bye):
                return
            else:
                await self._control(req_id, message)

    def _open(self, req_id: int, wanted: messages.Open) -> None:
        file = self._find(wanted.info_hash, wanted.root)
        if file is None:
            raise Refused(ErrorCode.UNKNOWN_FILE, "this node does not have that file")
        layout = file.layout
        if (layout.size, layout.piece_length) != (wanted.size, 1 << wanted.piece_log2):
            raise Refused(ErrorCode.UNKNOWN_FILE, "the file has another size or piece length here")
        try:
            self._upload = self._uploads.open(self._peer_id, file.root, self._slot_changed)
        except TooManyError as error:
            raise Refused(ErrorCode.BUSY, str(error)) from error
        self.file = file
        self._known = file.pieces()
        self._opened.set()
        if self._known is None:
            self._link.send(messages.OpenOk(True), req_id)
        else:
            self._link.send(frames.bits_of(self._known, layout.pieces), req_id)

    async def _control(self, req_id: int, message: Message | DataHead) -> None:
        match message:
            case messages.Cancel():
                self._count_cancel(len(message.blocks))
                self._cancelled(req_id, message.blocks)
            case messages.HashRequest():
                self._count_control()
                self._link.send(await self._hashes(message), req_id)
            case messages.Ping():
                self._count_control()
                self._link.send(messages.Pong(message.token), req_id)
            case messages.Have() | messages.Pong():
                self._count_control()
            case messages.Failure():
                raise Ended(f"the peer ended it: {message.text}")
            case _:
                raise WireError(ErrorCode.PROTOCOL, f"{type(message).__name__} is not for a server")

    def _count_control(self) -> None:
        if not self._control_frames.take():
            raise WireError(ErrorCode.LIMIT, "too many control frames")

    def _count_cancel(self, blocks: int) -> None:
        """Each block asked for may be cancelled once, however fast; more is a frame like others.

        In the endgame a downloader cancels block by block as copies come from quicker peers.
        """
        if blocks <= self._may_cancel:
            self._may_cancel -= blocks
        else:
            self._count_control()

    # ------------------------------------------------------------ requests

    def _requested(self, req_id: int, blocks: tuple[Block, ...]) -> None:
        file, upload = self.file, self._upload
        assert file is not None and upload is not None
        if not self._asks.take():
            raise WireError(ErrorCode.LIMIT, "too many requests")
        self._may_cancel = min(self._may_cancel + len(blocks), self._limits.requests)
        offered = file.pieces()
        refused: list[tuple[Block, int]] = []
        for block in blocks:
            try:
                file.layout.check_block(block)
            except ValueError as error:
                raise WireError(ErrorCode.PROTOCOL, f"a request for nothing: {error}") from error
            if offered is not None and block.piece not in offered:
                refused.append((block, Why.NOT_HERE))
                continue
            self._queue.append((req_id, block))
            self._queued_bytes += block.length
        if self._queued_bytes > self._limits.inflight_bytes:
            raise WireError(ErrorCode.LIMIT, f"{self._queued_bytes} bytes requested at once")
        if len(self._queue) > self._limits.requests:
            raise WireError(ErrorCode.LIMIT, f"{len(self._queue)} requests at once")
        if refused:
            self._link.send(messages.Reject(tuple(refused)), req_id)
        if not self._queue:
            return
        upload.busy = True
        if not upload.granted and not self._uploads.ask(upload):
            self._choke()
        else:
            self._link.wake()

    def _cancelled(self, req_id: int, blocks: tuple[Block, ...]) -> None:
        gone = set(blocks)
        hit = [item for item in self._queue if item[1] in gone]
        if not hit:
            return
        self._queue = deque(item for item in self._queue if item[1] not in gone)
        self._queued_bytes -= sum(block.length for _, block in hit)
        self._reject([block for _, block in hit], Why.CANCELLED)

    def _slot_changed(self) -> None:
        upload = self._upload
        if upload is None:
            return
        try:
            if upload.granted:
                self._link.send(messages.Unchoke(self._uploads.slots))
                self._link.wake()
            else:
                self._choke()
        except StreamEndedError as error:
            # Another stream's task calls this: it must not pay for a peer that does not read.
            self._group.end(error)

    def _choke(self) -> None:
        """Ask the peer to wait; what it asked for is refused."""
        blocks = [block for _, block in self._queue]
        self._queue.clear()
        self._queued_bytes = 0
        self._link.send(messages.Choke(RETRY_MS))
        self._reject(blocks, Why.CHOKED)

    def _reject(self, blocks: list[Block], why: Why) -> None:
        for start in range(0, len(blocks), MAX_BLOCKS_PER_FRAME):
            part = blocks[start : start + MAX_BLOCKS_PER_FRAME]
            self._link.send(messages.Reject(tuple((block, why) for block in part)))

    # ------------------------------------------------------------ sending

    async def _send(self) -> None:
        link = self._link
        room = memoryview(b"")
        together = 1
        while True:
            await link.flush()
            upload = self._upload
            if upload is None or not upload.granted or not self._queue:
                if upload is not None:
                    upload.busy = False
                if upload is None or not upload.granted:
                    room = memoryview(b"")
                await link.wait()
                continue
            if len(room) < together * (HEAD_BYTES + BLOCK_BYTES):
                # Only with a slot, and more only for a quick peer: anybody may open streams.
                room = memoryview(bytearray(together * (HEAD_BYTES + BLOCK_BYTES)))
            limited = self._uploads.bucket.rate is not None
            taken: list[Block] = []
            size = 0
            while self._queue and len(taken) < (1 if limited else together):
                req_id, block = self._queue.popleft()
                # Now: the peer may have it, and ask for more, before all of the write is done.
                self._queued_bytes -= block.length
                taken.append(block)
                frame = room[size : size + HEAD_BYTES + block.length]
                try:
                    await self._fill(frame, req_id, block)
                except CorruptError:
                    await self._refuse_corrupt(taken)
                    raise
                size += len(frame)
            began = trio.current_time()
            if limited:
                await self._uploads.bucket.take(taken[0].length)
            upload.writing = trio.current_time()
            await link.write(room[:size])
            upload.writing = None
            # A slow peer gets one block at a time: the deadline is for a single write.
            quick = link.wrote - began < QUICK_S
            together = min(2 * together, MAX_TOGETHER) if quick else 1
            for block in taken:
                self._uploads.count(upload, block.length)
            self._asks.earn(len(taken))

    async def _refuse_corrupt(self, taken: list[Block]) -> None:
        """Nothing of this file can be had here any more, through no fault of the peer's."""
        blocks = [*taken, *(item for _, item in self._queue)]
        self._queue.clear()
        self._queued_bytes = 0
        with trio.move_on_after(LAST_WORDS_S), contextlib.suppress(StreamEndedError):
            self._reject(blocks, Why.CORRUPT)
            await self._link.flush()

    async def _fill(self, frame: memoryview, req_id: int, block: Block) -> None:
        file = self.file
        assert file is not None
        piece, offset, length = block
        if not file.ready(piece):
            await self._run_sync(file.prepare, piece)
        frame[:HEAD_BYTES] = frames.data_head(piece, offset, length, req_id)
        view = frame[HEAD_BYTES:]
        start = file.layout.offset(piece) + offset
        if not file.read_cached(view, start):
            await self._run_sync(file.read, view, start)

    # ------------------------------------------------------------ hashes

    async def _hashes(self, request: messages.HashRequest) -> messages.Hashes:
        file = self.file
        assert file is not None
        layout = file.layout
        try:
            if request.layer >= layout.piece_layer:
                upper = await self._run_sync(file.upper)
                nodes, uncles = upper.answer(
                    request.layer, request.index, request.count, request.proof
                )
            elif request.layer == 0:
                nodes, uncles = await self._leaf_hashes(file, request)
            else:
                raise ValueError(f"layer {request.layer} is neither leaves nor pieces")
        except ValueError as error:
            raise WireError(ErrorCode.PROTOCOL, f"a request for no hashes: {error}") from error
        return messages.Hashes(request, nodes, uncles)

    async def _leaf_hashes(
        self, file: SharedFile, request: messages.HashRequest
    ) -> tuple[bytes, bytes]:
        layout = file.layout
        piece = request.index >> layout.piece_layer
        offered = file.pieces()
        if piece >= layout.pieces or (offered is not None and piece not in offered):
            raise ValueError(f"piece {piece} is not here")
        if self._leaves is None or self._leaves[0] != piece:
            # A few bytes ask for 32 MiB to be read and hashed: who asks for much waits.
            await self._hashing.take(layout.piece_size(piece))
            self._leaves = (piece, await self._run_sync(file.leaves, piece))
        upper = await self._run_sync(file.upper)
        return leaf_answer(
            self._leaves[1], upper, layout, request.index, request.count, request.proof
        )

    # ------------------------------------------------------------ time

    async def _tell_more(self) -> None:
        """HAVE for a file that is still arriving here."""
        await self._opened.wait()
        known = self._known
        file = self.file
        if known is None or not isinstance(file, GrowingFile):
            await trio.sleep_forever()
            return
        while True:
            now = await file.more_than(known)
            fresh = sorted(now - known)
            for start in range(0, len(fresh), MAX_HAVE_PER_FRAME):
                self._link.send(messages.Have(tuple(fresh[start : start + MAX_HAVE_PER_FRAME])))
            known = now
            await trio.sleep(HAVE_BATCH_S)

    def _watch(self) -> None:
        limits = self._limits
        link = self._link
        self._uploads.review()
        if self._greeted is None and late(self._began, limits.hello_s):
            raise Ended(f"no HELLO within {limits.hello_s:.0f} s")
        if self._greeted is not None and self.file is None and late(self._greeted, limits.open_s):
            raise Ended(f"no OPEN within {limits.open_s:.0f} s")
        if late(link.frame_began, limits.frame_s):
            raise Ended(f"a frame took longer than {limits.frame_s:.0f} s")
        if late(link.writing_since, limits.write_s):
            raise Ended(f"the peer has not read for {limits.write_s:.0f} s")
        if late(max(link.heard, link.wrote), limits.idle_s):
            raise Ended(f"nothing was asked for {limits.idle_s:.0f} s")
