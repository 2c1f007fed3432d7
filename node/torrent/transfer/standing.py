"""The state of a download as a person should read it: the step it is in, or why that stalls."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from node.torrent.limits import STALL_S
from node.torrent.transfer.exchange import Exchange
from node.torrent.transfer.progress import ENDED, State
from node.torrent.transfer.sources import Source

TRYING = frozenset(["waiting", "connecting", "hello"])
ON_DISK = frozenset([State.QUEUED, State.PREALLOC, State.SYNC, State.RENAME])


def standing(
    step: State,
    reason: str,
    *,
    paused: bool,
    began: float,
    sources: Sequence[Source],
    sessions: int,
    exchange: Exchange | None,
) -> tuple[State, str]:
    """(state, sentence): `step`, or PAUSED, STALLED or ENDGAME in its place.

    `reason` belongs to a step that has ended, `sessions` are the open streams.
    """
    if step in ENDED or step in ON_DISK:
        return step, reason
    if paused:
        return State.PAUSED, "Paused."
    now = trio.current_time()
    if exchange is None:
        if now - began < STALL_S:
            return step, ""
        if sessions:
            return State.STALLED, "No source has sent all the piece hashes yet."
        return State.STALLED, f"{_no_source(sources)} The piece hashes are still missing."
    if exchange.full is not None:
        return State.STALLED, str(exchange.full)
    silent = now - exchange.last_block
    trying = any(source.state in TRYING for source in sources)
    if not exchange.sessions and (silent >= STALL_S or not trying):
        return State.STALLED, _no_source(sources)
    if silent >= STALL_S:
        why = exchange.why_stalled()
        return State.STALLED, why or f"No source has sent anything for {silent:.0f} s."
    return (State.ENDGAME if exchange.endgame else step), ""


def _no_source(sources: Sequence[Source]) -> str:
    if not sources:
        return "No source is known."
    if all(source.state == "banned" for source in sources):
        return "Every source is banned; another one is needed."
    reasons = [source.reason for source in sources if source.reason]
    if not reasons:
        return "No source is connected yet."
    return f"No source is connected: {reasons[-1].rstrip('.')}."
