"""The middle of a download: picker, memory, sessions, disk and blame, tied together.

Runs in one trio task context; nothing here waits except the inquiry after a bad piece.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import trio

from node.errors import PlainError
from node.torrent.disk_errors import DiskFullError
from node.torrent.hash_helper import HashHelper
from node.torrent.limits import BLOCK_BYTES
from node.torrent.messages import Why
from node.torrent.picker_types import Kind, State
from node.torrent.sizes import Block
from node.torrent.storage import Part
from node.torrent.transfer.blame import BannedError, Bans, Verdict, certain
from node.torrent.transfer.buffers import Arriving, BoundedPicker, Pieces, Target, piece_limit
from node.torrent.transfer.disk_work import Disk
from node.torrent.transfer.guarding import Ended, RunSync
from node.torrent.transfer.inquiry import Inquiry
from node.torrent.transfer.peer_session import PeerSession

REFILL_BLOCKS = 8
"""Requests go out for this many blocks at once, so that a frame is worth its cost."""


class Exchange:
    """The part of a download between knowing the piece layer and having every piece.

    done_bytes: bytes verified and written. wasted: bytes received for nothing.
    complete: set once every piece is in the part file.
    failed: the error of the disk that ends the download.
    """

    def __init__(
        self,
        part: Part,
        bans: Bans,
        nursery: trio.Nursery,
        run_sync: RunSync,
        *,
        budget: int,
        rng: Random,
        wrote: Callable[[list[int]], None],
        blamed: Callable[[Verdict], None],
        helper: HashHelper | None = None,
    ) -> None:
        layout = part.layout
        self.part = part
        self.layout = layout
        self.done_bytes = sum(layout.piece_size(piece) for piece in part.have)
        self.wasted = 0
        self.last_block = trio.current_time()
        self.complete = trio.Event()
        self.failed: PlainError | None = None
        self.full: DiskFullError | None = None
        self.paused = False
        self.picker = BoundedPicker(
            layout,
            part.have,
            seed=rng.getrandbits(64),
            limit=piece_limit(layout.piece_length, budget),
        )
        self.sessions: dict[str, PeerSession] = {}
        self.on_parole: set[str] = set()
        self.snubbed: set[str] = set()
        self._bans = bans
        self._nursery = nursery
        self._run_sync = run_sync
        self._wrote = wrote
        self._blamed = blamed
        self._pieces = Pieces(layout, helper.rooms if helper is not None else ())
        self._disk = Disk(part, self, run_sync, helper)
        self._early: set[int] = set()
        self._check_complete()

    def start(self) -> None:
        """Start hashing and writing."""
        self._disk.start(self._nursery)

    @property
    def disk_quiet(self) -> trio.Lock:
        """Held while nothing else may touch the part."""
        return self._disk.quiet

    def stop(self) -> None:
        """Ask nobody for anything more and let all sessions go."""
        self.paused = True
        for session in list(self.sessions.values()):
            self.leave(session)

    @property
    def pieces_done(self) -> int:
        """Pieces in the part file."""
        return self.picker.count(State.WRITTEN) + self.picker.count(State.DURABLE)

    @property
    def endgame(self) -> bool:
        """Whether everything that is left was asked for."""
        return self.picker.endgame and not self.picker.complete and bool(self.sessions)

    @property
    def in_memory(self) -> int:
        """Bytes of the pieces that are in memory."""
        return len(self._pieces) * self.layout.piece_length

    # ------------------------------------------------------------ sessions

    def join(self, session: PeerSession) -> None:
        """A session is open: ask it for what it has."""
        self.sessions[session.peer_id] = session
        self.picker.add_peer(session.peer_id, session.offered)
        if session.peer_id in self.on_parole:
            self.picker.set_parole(session.peer_id, True)
        self.refill_all()

    def leave(self, session: PeerSession) -> None:
        """A session ended; no error when it never joined."""
        if self.sessions.get(session.peer_id) is not session:
            return
        del self.sessions[session.peer_id]
        self.snubbed.discard(session.peer_id)
        self.picker.remove_peer(session.peer_id, trio.current_time())
        self._pieces.sweep(self.picker)
        self.refill_all()

    def offers(self, session: PeerSession, pieces: tuple[int, ...]) -> None:
        """HAVE."""
        if session.peer_id in self.sessions:
            self.picker.has(session.peer_id, pieces)
            self._refill(session)

    def choked(self, session: PeerSession, choked: bool) -> None:
        """CHOKE and UNCHOKE."""
        if session.peer_id not in self.sessions:
            return
        self.picker.set_choked(session.peer_id, choked, trio.current_time())
        if choked:
            self._pieces.sweep(self.picker)
            self.refill_all()
        else:
            self._refill(session)

    def pause(self, paused: bool) -> None:
        """Ask for nothing any more, or go on."""
        self.paused = paused
        now = trio.current_time()
        for session in self.sessions.values():
            if paused:
                cancels = self.picker.set_choked(session.peer_id, True, now)
                session.cancel([block for _, block in cancels])
            elif session.choked_until is None:
                self.picker.set_choked(session.peer_id, False, now)
        self._pieces.sweep(self.picker)
        self.refill_all()

    # ------------------------------------------------------------ asking

    def refill_all(self) -> None:
        """Give every session with room something to ask for."""
        for session in list(self.sessions.values()):
            self._refill(session)

    def _refill(self, session: PeerSession) -> None:
        if self.paused or self.complete.is_set():
            return
        peer = session.peer_id
        window = max(1, self.picker.window(peer) // BLOCK_BYTES)
        room = window - len(self.picker.outstanding(peer))
        if room < min(REFILL_BLOCKS, (window + 1) // 2):
            return
        wanted = self.picker.want(peer, trio.current_time())
        self._cancel(wanted.cancels)
        if wanted.requests:
            for block in wanted.requests:
                self._pieces.begin(block.piece)
            session.request(wanted.requests)

    def _cancel(self, cancels: list[tuple[str, Block]] | tuple[tuple[str, Block], ...]) -> None:
        by_peer: dict[str, list[Block]] = {}
        for peer, block in cancels:
            by_peer.setdefault(peer, []).append(block)
        for peer, blocks in by_peer.items():
            session = self.sessions.get(peer)
            if session is not None:
                session.cancel(blocks)

    # ------------------------------------------------------------ answers

    def target(self, session: PeerSession, block: Block) -> Target:
        """Where the bytes of `block` go."""
        return self._pieces.target(block)

    def dropped(self, target: Target) -> None:
        """The bytes did not come whole."""
        self._pieces.dropped(target)

    def block(self, session: PeerSession, target: Target) -> None:
        """A whole block is in its target."""
        peer, block = session.peer_id, target.block
        if self.sessions.get(peer) is not session:
            self._pieces.dropped(target)
            return
        now = self.last_block = trio.current_time()
        self.snubbed.discard(peer)
        result = self.picker.received(peer, block, now)
        if result.kind != Kind.NEEDED:
            # The session knows what was asked for, so this came twice or after a cancel.
            self._pieces.dropped(target)
            self.wasted += block.length
        else:
            self._pieces.accept(target)
            if result.cancels:
                self._cancel(result.cancels)
            if result.complete:
                self._disk.put(self._pieces.whole(block.piece))
        self._refill(session)

    def rejected(self, session: PeerSession, block: Block, why: int) -> None:
        """A block will not come."""
        peer = session.peer_id
        if self.sessions.get(peer) is not session:
            return
        now = trio.current_time()
        self.picker.rejected(peer, block, now)
        if why in (Why.NOT_HERE, Why.CORRUPT, Why.BAD_BLOCK):
            self.picker.lacks(peer, block.piece, now)
            self._pieces.sweep(self.picker)
            self.refill_all()
        elif why not in (Why.CANCELLED, Why.CHOKED):
            # BUSY and unknown reasons: not again before it said UNCHOKE or a second passed.
            session.choked_until = now + 1.0
            self.choked(session, True)

    # ------------------------------------------------------------ the disk's side

    def written(self, pieces: list[Arriving]) -> None:
        """Verified and in the part file."""
        crowded = self.picker.crowded
        for item in pieces:
            self.picker.verified(item.piece)
            self.picker.written(item.piece)
            self.done_bytes += item.size
            self._pieces.end(item.piece)
        numbers = [item.piece for item in pieces]
        early = self._early.intersection(numbers)
        if early:
            self._early -= early
            self.picker.durable(early)
        self._wrote(numbers)
        self._check_complete()
        if crowded or len(self.sessions) > 1:
            self.refill_all()

    def durable(self, pieces: list[int]) -> None:
        """In the journal; a checkpoint may overtake the word that a piece was written."""
        known = [piece for piece in pieces if self.picker.state(piece) == State.WRITTEN]
        self._early.update(set(pieces).difference(known))
        self.picker.durable(known)

    def lost(self, pieces: tuple[int, ...]) -> None:
        """The last check found these wrong on disk."""
        self.picker.lost(pieces)
        self.done_bytes -= sum(self.layout.piece_size(piece) for piece in pieces)
        self.complete = trio.Event()
        self.refill_all()

    def disk_full(self, error: DiskFullError | None) -> None:
        """Writing waits for room."""
        self.full = error

    def broken(self, error: PlainError) -> None:
        """The disk cannot be used: the download ends."""
        self.failed = self.failed or error
        self.complete.set()

    def _check_complete(self) -> None:
        if self.picker.complete:
            self.complete.set()

    # ------------------------------------------------------------ blame

    def bad(self, piece: Arriving) -> None:
        """A piece does not match its hash."""
        self.wasted += piece.size
        senders = self.picker.senders(piece.piece)
        if len(senders) == 1:
            self.ban(certain(piece.piece, next(iter(senders))))
            self._fetch_again(piece.piece, None)
            return
        for peer in senders:
            if peer in self.sessions:
                self._set_parole(peer, True)
        inquiry = Inquiry(self.part.layer, self.layout, piece, senders, self._run_sync)
        self._nursery.start_soon(self._inquire, inquiry)

    async def _inquire(self, inquiry: Inquiry) -> None:
        found = await inquiry.run(self._ask_next, self.liar)
        guilty = {verdict.peer_id for verdict in found.verdicts}
        for verdict in found.verdicts:
            self.ban(verdict)
        for peer in inquiry.senders:
            if peer in self.sessions and found.verdicts and peer not in guilty:
                self._set_parole(peer, False)
        self._fetch_again(inquiry.piece.piece, found.bad_blocks or None)

    def _set_parole(self, peer: str, parole: bool) -> None:
        self.picker.set_parole(peer, parole)
        (self.on_parole.add if parole else self.on_parole.discard)(peer)

    def _ask_next(self, inquiry: Inquiry) -> PeerSession | None:
        """Whom to ask for the leaves: somebody without a part in it, if possible."""
        piece = inquiry.piece.piece
        able = [
            session
            for peer, session in self.sessions.items()
            if peer not in inquiry.asked and (session.offered is None or piece in session.offered)
        ]
        return min(able, key=lambda item: item.peer_id in inquiry.senders, default=None)

    def _fetch_again(self, piece: int, bad: list[Block] | None) -> None:
        if bad is not None:
            self._pieces.forget_blocks(piece, bad)
            self.wasted -= self.layout.piece_size(piece) - sum(block.length for block in bad)
        self.picker.failed(piece, bad)
        if bad is None:
            self._pieces.end(piece)
        self.refill_all()

    def ban(self, verdict: Verdict) -> None:
        """A peer sent wrong bytes, for certain."""
        reason = self._bans.wrong_piece(verdict, self.part.root)
        self._blamed(verdict)
        session = self.sessions.get(verdict.peer_id)
        if session is not None:
            session.end(BannedError(reason))

    def liar(self, session: PeerSession, what: str) -> None:
        """A peer sent hashes that do not lead to the root."""
        session.end(BannedError(self._bans.bad_proof(session.peer_id, self.part.root, what)))

    # ------------------------------------------------------------ time

    def tick(self) -> None:
        """Stalls, silences that are over; call it about twice a second."""
        if self.paused or self.complete.is_set():
            return
        now = trio.current_time()
        found = self.picker.tick(now)
        self._cancel(found.cancels)
        self.snubbed.update(found.snubbed)
        for peer, reason in found.close:
            session = self.sessions.get(peer)
            if session is not None:
                session.end(Ended(reason))
        for session in list(self.sessions.values()):
            if session.choked_until is not None and now >= session.choked_until:
                session.choked_until = None
                self.picker.set_choked(session.peer_id, False, now)
        self._pieces.sweep(self.picker)
        self.refill_all()

    def why_stalled(self) -> str:
        """Why nothing comes, as a sentence; empty when something does or soon will."""
        if self.full is not None:
            return str(self.full)
        if self.sessions and all(session.choking for session in self.sessions.values()):
            return "Nothing comes: every peer asks us to wait."
        why = self.picker.why_idle()
        return f"Nothing comes: {why}." if why else ""
