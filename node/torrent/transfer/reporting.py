"""From the parts of a download to the snapshot that others see."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from node.torrent.limits import BLOCK_BYTES
from node.torrent.transfer.exchange import Exchange
from node.torrent.transfer.peer_session import Plan
from node.torrent.transfer.progress import (
    RateMeter,
    SourceProgress,
    State,
    TransferProgress,
)
from node.torrent.transfer.sources import Source
from node.torrent.transfer.upload import Uploads


class Reporter:
    """Makes snapshots and keeps the meters that need their history."""

    def __init__(self, plan: Plan, uploads: Uploads | None) -> None:
        self.began = 0.0
        self._plan = plan
        self._layout = plan.layout
        self._uploads = uploads
        self._up_before = uploads.sent[plan.root] if uploads is not None else 0
        self._down = RateMeter()
        self._up = RateMeter()
        self._done = 0
        self._pieces_done = 0

    def report(
        self,
        state: State,
        reason: str,
        sources: Iterable[Source],
        exchange: Exchange | None,
        *,
        fetched_before: int,
    ) -> TransferProgress:
        """The snapshot at this moment."""
        now = trio.current_time()
        plan = self._plan
        shown = tuple(self._source(source, exchange, now) for source in sources)
        fetched = fetched_before + sum(source.received for source in shown)
        uploads = self._uploads
        uploaded = uploads.sent[plan.root] - self._up_before if uploads is not None else 0
        if exchange is not None:
            self._done = exchange.done_bytes
            self._pieces_done = exchange.pieces_done
        rate = self._down.sample(now, fetched)
        left = plan.size - self._done
        return TransferProgress(
            filename=plan.filename,
            info_hash=plan.info_hash,
            root=plan.root,
            state=state,
            reason=reason,
            size=plan.size,
            done=self._done,
            fetched=fetched,
            wasted=exchange.wasted if exchange is not None else 0,
            uploaded=uploaded,
            ratio=uploaded / plan.size if plan.size else 0.0,
            pieces=self._layout.pieces,
            pieces_done=self._pieces_done,
            piece_length=plan.piece_length,
            rate_down=rate,
            rate_up=self._up.sample(now, uploaded),
            eta_s=left / rate if rate > 0 and left else 0.0 if not left else None,
            elapsed_s=now - self.began,
            sources=shown,
        )

    def _source(self, source: Source, exchange: Exchange | None, now: float) -> SourceProgress:
        session = source.session
        state, reason = source.state, source.reason
        have = window = in_flight = 0
        rate = source.meter.sample(now, source.received)
        if session is not None and session.open:
            reason = ""
            state = "idle"
            have = self._layout.pieces if session.offered is None else len(session.offered)
            if exchange is not None and exchange.sessions.get(source.peer_id) is session:
                picker = exchange.picker
                window = picker.window(source.peer_id)
                in_flight = len(picker.outstanding(source.peer_id)) * BLOCK_BYTES
                state = "active" if in_flight else "idle"
                if source.peer_id in exchange.on_parole:
                    state, reason = "parole", "A piece it had a part in was wrong."
                if source.peer_id in exchange.snubbed:
                    state, reason = "stalled", "It stopped sending what it was asked for."
            if session.choked_until is not None:
                state, reason = "choked", "It asks us to wait."
        return SourceProgress(
            peer_id=source.peer_id,
            state=state,
            reason=reason,
            have=have,
            rate=rate,
            received=source.received,
            window=window,
            in_flight=in_flight,
            strikes=source.strikes,
        )
