"""One download from the first source to the finished file.

    LAYER -> PREALLOC -> TRANSFER <-> STALLED -> ENDGAME -> SYNC -> RENAME -> DONE

PAUSED, FAILED and CANCELLED from all. Every state comes with a sentence where it needs one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import trio

from node.errors import PlainError
from node.torrent.disk_errors import PiecesLostError, SyncFailedError
from node.torrent.folder import Folder
from node.torrent.hashing import HashingStopped
from node.torrent.leftovers import stored_layer
from node.torrent.names import SUFFIXES, check_name
from node.torrent.sizes import check_piece_length
from node.torrent.storage import Part
from node.torrent.transfer.blame import Bans, Verdict
from node.torrent.transfer.buffers import BUDGET_BYTES
from node.torrent.transfer.exchange import Exchange
from node.torrent.transfer.guarding import RunSync, every
from node.torrent.transfer.helping import helper_for
from node.torrent.transfer.hub import Switchboard
from node.torrent.transfer.layer_fetch import LayerFetch
from node.torrent.transfer.peer_session import PeerSession, Plan
from node.torrent.transfer.progress import State, TransferProgress
from node.torrent.transfer.reporting import Reporter
from node.torrent.transfer.sources import Source
from node.torrent.transfer.standing import standing
from node.torrent.transfer.streams import OpenStream, Stream
from node.torrent.transfer.upload import TokenBucket, Uploads

__all__ = ["CancelledError", "Download", "Plan"]

TICK_S = 0.5
GOODBYE_S = 1.0
MAX_RESTARTS = 2


class CancelledError(PlainError):
    """`cancel` was called."""

    def __init__(self, filename: str) -> None:
        super().__init__(f"The download of {filename} was cancelled.")


def ignore(progress: TransferProgress) -> None:
    """The default for `emit_progress`."""


class Download:
    """A file on its way into `folder`. Use from one trio run; `run` once."""

    def __init__(
        self,
        plan: Plan,
        folder: Folder,
        *,
        emit_progress: Callable[[TransferProgress], None] = ignore,
        blamed: Callable[[Verdict], None] | None = None,
        wrote: Callable[[list[int]], None] | None = None,
        bans: Bans | None = None,
        down: TokenBucket | None = None,
        uploads: Uploads | None = None,
        budget: int = BUDGET_BYTES,
        rng: Random | None = None,
        run_sync: RunSync = trio.to_thread.run_sync,
        suffixes: tuple[str, ...] = SUFFIXES,
    ) -> None:
        """PlainError for a bad name, size or piece length.

        emit_progress: told at every change of state and twice a second while something changes
        blamed, wrote: told of certain verdicts, and of the pieces that were written
        bans, down, uploads: shared by all downloads of the node; uploads gives the ratio
        budget: bytes of pieces in memory, in flight and waiting for hash and disk together
        """
        self.plan = plan
        check_name(plan.filename, suffixes=suffixes)
        try:
            check_piece_length(plan.size, plan.piece_length)
            self.layout = plan.layout
            self._layer = LayerFetch(self.layout, plan.root)
        except ValueError as error:
            raise PlainError(
                f"{plan.filename} cannot be fetched: {error}.", "Ask its publisher."
            ) from error
        self._folder = folder
        self._emit = emit_progress
        self._blamed = blamed or (lambda verdict: None)
        self._wrote = wrote or (lambda pieces: None)
        self._bans = bans or Bans(trio.current_time)
        self._down = down or TokenBucket()
        self._budget = budget
        self._rng = rng or Random()
        self._run_sync = run_sync
        self._suffixes = suffixes
        self._sources: dict[str, Source] = {}
        self._nursery: trio.Nursery | None = None
        self._allowed = trio.Event()
        self._allowed.set()
        self._paused = False
        self._cancelled: bool | None = None
        self._stop = threading.Event()
        self._scope = trio.CancelScope()
        self._hub = Switchboard(self._bans, plan.root)
        self._exchange: Exchange | None = None
        self._part: Part | None = None
        self._fetched_before = 0
        self._step = State.QUEUED
        self._reason = ""
        self._began = 0.0
        self._reporter = Reporter(plan, uploads)
        self._last: TransferProgress | None = None

    # ------------------------------------------------------------ from outside

    def add_source(self, peer_id: str, open_stream: OpenStream) -> None:
        """A peer that may have the file; a known one is left as it is."""
        if peer_id in self._sources:
            return
        source = self._sources[peer_id] = Source(peer_id, open_stream)
        if self._nursery is not None:
            self._start_source(source)

    def remove_source(self, peer_id: str) -> None:
        """Forget a peer and close its stream; no error for an unknown one."""
        source = self._sources.pop(peer_id, None)
        if source is not None:
            self._fetched_before += source.received
            source.scope.cancel()

    def retry(self, peer_id: str) -> None:
        """A peer can be reached again: do not wait for its next try; nothing for an unknown one."""
        source = self._sources.get(peer_id)
        if source is not None:
            source.retry()

    def pause(self) -> None:
        """Ask for nothing any more; what is on its way still comes."""
        if not self._paused:
            self._paused = True
            self._allowed = trio.Event()
            if self._exchange is not None:
                self._exchange.pause(True)
            self._tell()

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._paused:
            self._paused = False
            self._allowed.set()
            if self._exchange is not None:
                self._exchange.pause(False)
            self._tell()

    def cancel(self, *, discard: bool = True) -> None:
        """End it: `run` raises CancelledError. With `discard` what was fetched is removed."""
        self._cancelled = discard
        self._stop.set()
        self._scope.cancel()

    @property
    def snapshot(self) -> TransferProgress:
        """How it stands now."""
        return self._snapshot()

    @property
    def part(self) -> Part | None:
        """The part file while it is open, for serving the pieces it has."""
        return self._part

    @property
    def layer(self) -> bytes | None:
        """The proven piece layer, layout.pieces x 32 bytes; None until it came."""
        return self._layer.layer

    # ------------------------------------------------------------ running

    async def run(self) -> Path:
        """Fetch the file; its name (relative to the folder). Raises PlainError when it fails.

        Cancelling the surrounding scope keeps everything for the next start.
        """
        self._began = trio.current_time()
        self._reporter.began = self._began
        try:
            with self._scope:
                await self._run()
            if self._cancelled is not None and self._step != State.DONE:
                raise CancelledError(self.plan.filename)
            return Path(self.plan.filename)
        except PlainError as error:
            self._reason = str(error)
            ended = isinstance(error, CancelledError)
            self._enter(State.CANCELLED if ended else State.FAILED)
            raise
        finally:
            self._stop.set()
            with trio.CancelScope(shield=True):
                await self._run_sync(self._close_part)

    def _close_part(self) -> None:
        part, self._part = self._part, None
        if part is None or part.complete:
            return
        # Nothing more can be done about an error here: what is in the journal stays.
        with contextlib.suppress(PlainError, ValueError):
            if self._cancelled:
                part.discard()
            else:
                part.checkpoint()
        part.close()

    async def _run(self) -> None:
        error: PlainError | None = None
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._hub.fetch_layer(self._layer, nursery)
            for source in self._sources.values():
                self._start_source(source)
            nursery.start_soon(every, TICK_S, self._tick)
            nursery.start_soon(self._stop_hashing)
            try:
                await self._fetch_layer()
                for left in range(MAX_RESTARTS, -1, -1):
                    try:
                        await self._transfer()
                        break
                    except SyncFailedError:
                        # Nothing since the last sync is known to be on disk: read it all again.
                        if not left:
                            raise
            except HashingStopped:
                # Only after `cancel` or from a cancelled scope, which takes effect here.
                await trio.lowlevel.checkpoint()
            except PlainError as caught:
                error = caught
            with trio.move_on_after(GOODBYE_S):
                await self._hub.say_goodbye()
            nursery.cancel_scope.cancel()
        self._nursery = None
        if error is not None:
            raise error

    async def _stop_hashing(self) -> None:
        """A cancelled scope ends a long check in a thread, too."""
        try:
            await trio.sleep_forever()
        finally:
            self._stop.set()

    async def _fetch_layer(self) -> None:
        plan = self.plan
        self._enter(State.LAYER)
        if not self._layer.complete.is_set():
            stored = await self._run_sync(self._stored_layer)
            if stored is not None:
                self._layer.use(stored)
        await self._layer.complete.wait()
        if self._layer.layer is None:
            raise PlainError(
                f"The hashes of {plan.filename} do not fit its size.", "Ask its publisher."
            )

    def _stored_layer(self) -> bytes | None:
        try:
            return stored_layer(
                self._folder, self.plan.filename, root=self.plan.root, layout=self.layout
            )
        except OSError:
            return None  # then it is fetched; opening the part will say what is wrong

    async def _transfer(self) -> None:
        self._enter(State.PREALLOC)
        layer = self._layer.layer
        assert layer is not None
        part = self._part = await self._run_sync(self._open_part, layer)
        error: PlainError | None = None
        async with (
            helper_for(self.layout, self._budget, self._run_sync) as helper,
            trio.open_nursery() as nursery,
        ):
            exchange = Exchange(
                part,
                self._bans,
                nursery,
                self._run_sync,
                budget=self._budget,
                rng=self._rng,
                wrote=self._wrote,
                blamed=self._blamed,
                helper=helper,
            )
            if self._exchange is not None:
                exchange.wasted = self._exchange.wasted
            exchange.pause(self._paused)
            exchange.start()
            self._exchange = exchange
            try:
                self._hub.attach(exchange)
                self._enter(State.TRANSFER)
                await self._to_the_end(exchange, part)
            except PlainError as caught:
                error = caught
            finally:
                self._hub.detach()
                exchange.stop()
                nursery.cancel_scope.cancel()
        if error is not None:
            await self._run_sync(part.close)
            raise error

    def _open_part(self, layer: bytes) -> Part:
        plan = self.plan
        return Part.open(
            self._folder,
            plan.filename,
            info_hash=plan.info_hash.hex(),
            root=plan.root,
            layout=self.layout,
            layer=layer,
            rng=self._rng,
            stop=self._stop,
            suffixes=self._suffixes,
        )

    async def _to_the_end(self, exchange: Exchange, part: Part) -> None:
        while not part.complete:
            await exchange.complete.wait()
            if exchange.failed is not None:
                raise exchange.failed
            async with exchange.disk_quiet:
                self._enter(State.SYNC)
                exchange.durable(await self._run_sync(part.checkpoint))
                self._enter(State.RENAME)
                try:
                    await self._run_sync(lambda: part.finish(stop=self._stop))
                except PiecesLostError as lost:
                    exchange.lost(lost.pieces)
                    self._enter(State.TRANSFER)
        self._enter(State.DONE)

    # ------------------------------------------------------------ sources

    def _start_source(self, source: Source) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(
            source.run,
            self._start_session,
            self._hub.ended,
            lambda: self._allowed,
            self._bans,
            self.plan.root,
            self._rng,
        )

    def _start_session(self, source: Source, stream: Stream) -> PeerSession:
        return PeerSession(source.peer_id, stream, self.plan, self._hub, self._down)

    # ------------------------------------------------------------ telling

    def _tick(self) -> None:
        exchange = self._exchange
        if exchange is not None and self._step == State.TRANSFER:
            exchange.tick()
        self._tell()

    def _enter(self, step: State) -> None:
        self._step = step
        self._tell()

    def _tell(self) -> None:
        found = self._snapshot()
        if found.differs(self._last):
            self._last = found
            self._emit(found)

    def _snapshot(self) -> TransferProgress:
        state, reason = standing(
            self._step,
            self._reason,
            paused=self._paused,
            began=self._began,
            sources=list(self._sources.values()),
            sessions=len(self._hub.sessions),
            exchange=self._exchange,
        )
        return self._reporter.report(
            state,
            reason,
            self._sources.values(),
            self._exchange,
            fetched_before=self._fetched_before,
        )
