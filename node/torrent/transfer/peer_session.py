"""The downloader's side of one stream: HELLO, OPEN, requests out, blocks and hashes in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import trio

from node.torrent import messages
from node.torrent.limits import (
    BLOCK_BYTES,
    FRAME_TIMEOUT_S,
    HELLO_TIMEOUT_S,
    MAX_BLOCKS_PER_FRAME,
    MIB,
    OPEN_TIMEOUT_S,
)
from node.torrent.messages import ErrorCode, Message, Why, WireError
from node.torrent.sizes import Block, Layout
from node.torrent.transfer.buffers import Target
from node.torrent.transfer.guarding import Allowance, Ended, Group, every, late
from node.torrent.transfer.link import LAST_WORDS_S, DataHead, Link, own_hello
from node.torrent.transfer.streams import Stream, StreamEndedError
from node.torrent.transfer.upload import TokenBucket

HASHES_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 30.0
WATCH_S = 1.0
MAX_CONTROL_PER_S = 200.0
YIELD_BYTES = MIB


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be fetched. info_hash and root: 32 bytes; size and piece_length in bytes."""

    info_hash: bytes
    root: bytes
    size: int
    piece_length: int
    filename: str

    @property
    def layout(self) -> Layout:
        """How the file is cut."""
        return Layout(self.size, self.piece_length)


class RefusedError(Exception):
    """The peer answered ERROR; `code` may be unknown, `text` is cleaned."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Hub(Protocol):
    """What a session tells the download."""

    def opened(self, session: PeerSession) -> None:
        """OPEN_OK came; `session.offered` says what the peer has."""
        ...

    def offers(self, session: PeerSession, pieces: tuple[int, ...]) -> None: ...

    def target(self, session: PeerSession, block: Block) -> Target:
        """Where the bytes of a block that was asked for go."""
        ...

    def block(self, session: PeerSession, target: Target) -> None:
        """The bytes are there."""
        ...

    def dropped(self, session: PeerSession, target: Target) -> None:
        """The bytes did not come whole."""
        ...

    def rejected(self, session: PeerSession, block: Block, why: int) -> None: ...

    def choked(self, session: PeerSession, choked: bool) -> None: ...


class PeerSession:
    """One stream to one source. `run` raises what ended it.

    offered: pieces the peer has, None for all; meaningful once `open` is True.
    received: bytes of blocks. choking: the last thing it said was CHOKE; choked_until: when it may
    be asked again all the same.
    """

    def __init__(
        self, peer_id: str, stream: Stream, plan: Plan, hub: Hub, down: TokenBucket
    ) -> None:
        self.peer_id = peer_id
        self.plan = plan
        self.layout = plan.layout
        self.open = False
        self.offered: frozenset[int] | None = frozenset()
        self.choked_until: float | None = None
        self.choking = False
        self.received = 0
        self.said_bye = False
        self._stream = stream
        self._link = Link(stream)
        self._hub = hub
        self._down = down
        self._group = Group()
        self._due: Counter[Block] = Counter()
        self._hashes: dict[int, _Pending] = {}
        self._next_id = 1
        self._throttled = False
        self._yielded = 0
        self._control_frames = Allowance(MAX_CONTROL_PER_S, MAX_CONTROL_PER_S)

    async def run(self) -> None:
        """Until the peer says goodbye (returns), breaks off, or breaks a rule (raises).

        WireError for a broken rule, RefusedError, Ended for a deadline or `end`, StreamEndedError.
        The stream is closed or reset on the way out.
        """
        orderly = False
        try:
            await self._group.run(
                lambda: self._link.settled(self._read),
                self._link.send_all,
                lambda: every(WATCH_S, self._watch),
            )
            orderly = True
        except WireError as error:
            with trio.move_on_after(LAST_WORDS_S):
                await self._say(messages.Failure(error.code, error.text))
            raise
        finally:
            for pending in self._hashes.values():
                pending.done.set()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_WORDS_S):
                if orderly:
                    await self._say(messages.Bye())
                await (self._stream.close() if orderly else self._stream.reset())

    async def _say(self, message: Message) -> None:
        try:
            await self._link.last(message)
        except StreamEndedError:
            return  # nobody is left to tell

    def end(self, error: Exception | None = None) -> None:
        """End the session; without an error in order."""
        self._group.end(error)

    # ------------------------------------------------------------ asking

    def request(self, blocks: list[Block]) -> None:
        """Ask for blocks."""
        self._due.update(blocks)
        for start in range(0, len(blocks), MAX_BLOCKS_PER_FRAME):
            part = tuple(blocks[start : start + MAX_BLOCKS_PER_FRAME])
            self._send(messages.Request(part), self._id())

    def cancel(self, blocks: list[Block]) -> None:
        """Blocks that are no longer wanted; they may still come."""
        for start in range(0, len(blocks), MAX_BLOCKS_PER_FRAME):
            part = tuple(blocks[start : start + MAX_BLOCKS_PER_FRAME])
            self._send(messages.Cancel(part), self._id())

    async def hashes(
        self, request: messages.HashRequest, timeout: float = HASHES_TIMEOUT_S
    ) -> messages.Hashes | None:
        """Ask for hashes; None when no answer came in time. The caller checks them."""
        pending = _Pending(request)
        req_id = self._id()
        self._hashes[req_id] = pending
        self._send(request, req_id)
        with trio.move_on_after(timeout):
            await pending.done.wait()
        # A late answer is no broken rule, so the request stays known for a while.
        if pending.answer is not None:
            self._hashes.pop(req_id, None)
        return pending.answer

    def _send(self, message: Message, req_id: int) -> None:
        """Send for a task that is not the session's own: a peer that does not read ends this
        session, never the download."""
        try:
            self._link.send(message, req_id)
        except StreamEndedError as error:
            self._group.end(error)

    def _id(self) -> int:
        self._next_id = self._next_id % 0xFFFFFFFF + 1
        return self._next_id

    # ------------------------------------------------------------ reading

    async def _read(self) -> None:
        link = self._link
        link.send(own_hello())
        with trio.move_on_after(HELLO_TIMEOUT_S) as scope:
            _, hello = await link.next()
        if scope.cancelled_caught:
            raise Ended(f"no HELLO within {HELLO_TIMEOUT_S:.0f} s")
        if isinstance(hello, messages.Failure):
            raise RefusedError(hello.code, hello.text)
        if not isinstance(hello, messages.Hello):
            raise WireError(ErrorCode.PROTOCOL, "the first frame is not HELLO")
        plan = self.plan
        log2 = plan.piece_length.bit_length() - 1
        link.send(messages.Open(plan.info_hash, plan.root, plan.size, log2), self._id())
        with trio.move_on_after(OPEN_TIMEOUT_S) as scope:
            _, answer = await link.next()
        if scope.cancelled_caught:
            raise Ended(f"no answer to OPEN within {OPEN_TIMEOUT_S:.0f} s")
        if isinstance(answer, messages.Failure):
            raise RefusedError(answer.code, answer.text)
        if not isinstance(answer, messages.OpenOk):
            raise WireError(ErrorCode.PROTOCOL, "OPEN was not answered with OPEN_OK")
        found = answer.pieces(self.layout.pieces)
        self.offered = None if found is None else frozenset(found)
        self.open = True
        self._hub.opened(self)
        while True:
            req_id, message = await link.next()
            if isinstance(message, DataHead):
                await self._data(message)
            elif isinstance(message, messages.Bye):
                self.said_bye = True
                return
            else:
                self._control(req_id, message)

    async def _data(self, head: DataHead) -> None:
        block = head.block
        if not self._due[block]:
            raise WireError(ErrorCode.PROTOCOL, f"DATA nobody asked for: {_text(block)}")
        target = self._hub.target(self, block)
        try:
            await self._link.body(target.view)
        except BaseException:
            self._hub.dropped(self, target)
            raise
        self._answered(block)
        self.received += block.length
        self.choking = False
        self._hub.block(self, target)
        if self._down.rate is not None:
            # Not reading is what slows the sender down.
            self._throttled = True
            await self._down.take(block.length)
            self._throttled = False
        elif self.received - self._yielded >= YIELD_BYTES:
            # A stream whose data is there already may not have let anybody else run.
            self._yielded = self.received
            await trio.lowlevel.checkpoint()

    def _answered(self, block: Block) -> int:
        left = self._due[block] - 1
        if left > 0:
            self._due[block] = left
        else:
            del self._due[block]
        return left

    def _control(self, req_id: int, message: Message) -> None:
        match message:
            case messages.Reject():
                for block, why in message.blocks:
                    if not self._due[block]:
                        raise WireError(
                            ErrorCode.PROTOCOL, f"REJECT nobody asked for: {_text(block)}"
                        )
                    left = self._answered(block)
                    if not (left and why == Why.CANCELLED):
                        self._hub.rejected(self, block, why)
            case messages.Hashes():
                pending = self._hashes.pop(req_id, None)
                if pending is None or pending.request != message.request:
                    raise WireError(ErrorCode.PROTOCOL, "HASHES nobody asked for")
                pending.answer = message
                pending.done.set()
            case messages.Have():
                self._count_control()
                if max(message.pieces) >= self.layout.pieces:
                    raise WireError(ErrorCode.PROTOCOL, f"HAVE of piece {max(message.pieces)}")
                if self.offered is not None:
                    self.offered = self.offered.union(message.pieces)
                self._hub.offers(self, message.pieces)
            case messages.Choke():
                self._count_control()
                self.choked_until = trio.current_time() + message.retry_ms / 1000
                self.choking = True
                self._hub.choked(self, True)
            case messages.Unchoke():
                self._count_control()
                self.choked_until = None
                self.choking = False
                self._hub.choked(self, False)
            case messages.Ping():
                self._count_control()
                self._link.send(messages.Pong(message.token), req_id)
            case messages.Pong():
                self._count_control()
            case messages.Failure():
                raise RefusedError(message.code, message.text)
            case _:
                raise WireError(
                    ErrorCode.PROTOCOL, f"{type(message).__name__} is not for a downloader"
                )

    def _count_control(self) -> None:
        if not self._control_frames.take():
            raise WireError(ErrorCode.LIMIT, "too many control frames")

    # ------------------------------------------------------------ time

    def _watch(self) -> None:
        link = self._link
        if late(link.frame_began, FRAME_TIMEOUT_S) and not self._throttled:
            raise Ended(f"a frame took longer than {FRAME_TIMEOUT_S:.0f} s")
        if late(link.writing_since, WRITE_TIMEOUT_S):
            raise Ended(f"it has not read for {WRITE_TIMEOUT_S:.0f} s")
        now = trio.current_time()
        for req_id in [key for key, item in self._hashes.items() if now > item.forget_at]:
            del self._hashes[req_id]


class _Pending:
    """A hash request and, once `done` is set, its answer (None: the session ended)."""

    def __init__(self, request: messages.HashRequest) -> None:
        self.request = request
        self.answer: messages.Hashes | None = None
        self.done = trio.Event()
        self.forget_at = trio.current_time() + 60.0


def _text(block: Block) -> str:
    return f"piece {block.piece} block {block.offset // BLOCK_BYTES}"
