"""How a download stands, as a frozen snapshot, and the meters behind it."""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, replace

RATE_OVER_S = 3.0


class State(enum.StrEnum):
    """What a download does. PAUSED and STALLED come from TRANSFER or LAYER and go back there."""

    QUEUED = "queued"
    LAYER = "layer"
    PREALLOC = "prealloc"
    TRANSFER = "transfer"
    STALLED = "stalled"
    PAUSED = "paused"
    ENDGAME = "endgame"
    SYNC = "sync"
    RENAME = "rename"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset([State.DONE, State.FAILED, State.CANCELLED])


@dataclass(frozen=True, slots=True)
class SourceProgress:
    """One source of a download.

    state:  connecting, hello, opening, active, idle, choked, stalled, parole, backoff, banned
    reason: why, where the state is not a good one; a sentence
    have:   pieces it offers; rate: bytes per second; received: verified or not, bytes
    window: bytes allowed in flight; in_flight: bytes asked for
    """

    peer_id: str
    state: str
    reason: str
    have: int
    rate: float
    received: int
    window: int
    in_flight: int
    strikes: int


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """A download at one moment. Sizes in bytes, rates in bytes per second, times in seconds.

    done:     bytes verified and written, those of an earlier run included
    fetched:  bytes received in this run, wrong ones and duplicates included
    wasted:   of those, what was thrown away
    uploaded: bytes of this file sent to others in this run; ratio = uploaded / size
    eta_s:    None while unknown
    reason:   why it stalls, is paused or failed, and what to do; one sentence, else empty
    """

    filename: str
    info_hash: bytes
    root: bytes
    state: State
    reason: str
    size: int
    done: int
    fetched: int
    wasted: int
    uploaded: int
    ratio: float
    pieces: int
    pieces_done: int
    piece_length: int
    rate_down: float
    rate_up: float
    eta_s: float | None
    elapsed_s: float
    sources: tuple[SourceProgress, ...]

    def differs(self, other: TransferProgress | None) -> bool:
        """Whether anything but the time that passed is different."""
        return other is None or replace(self, elapsed_s=other.elapsed_s) != other


class RateMeter:
    """Bytes per second over the last RATE_OVER_S seconds, from totals sampled now and then."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, now: float, total: int) -> float:
        """Note the running `total` at `now`; the rate."""
        samples = self._samples
        if samples and samples[-1][0] == now:
            samples.pop()
        samples.append((now, total))
        while len(samples) > 2 and samples[1][0] <= now - RATE_OVER_S:
            samples.popleft()
        first = samples[0]
        took = now - first[0]
        return (total - first[1]) / took if took > 0 else 0.0
