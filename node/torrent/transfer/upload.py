"""What all uploads share: slots, the rate limit, turns, and the count of bytes sent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import trio

from node.torrent.limits import (
    MAX_FILES_PER_PEER,
    MAX_PEERS,
    MAX_STREAMS_PER_PEER,
    UPLOAD_SLOTS,
)

IDLE_S = 2.0
"""A slot that was not used for this long goes to whoever waits."""
STALLED_S = 3.0
"""So does one whose peer takes this long over a single write."""
TURN_S = 10.0
"""How long a slot may be held while others wait."""
REST_S = 1.0
"""Who waits takes over a turn after this: those whose turn ends must not push out all the rest."""
REVIEW_S = 0.5
RETRY_MS = 1000
BURST_S = 0.1
Clock = Callable[[], float]


class TokenBucket:
    """A rate limit in bytes per second (None: none), in the order of asking.

    Whoever asks gets its whole block as soon as the debt of the earlier ones is paid off, so with
    several askers each gets one block in turn.
    """

    def __init__(self, rate: float | None = None) -> None:
        self._rate = _checked(rate)
        self._tokens = 0.0
        self._at = -math.inf
        self._turn = trio.StrictFIFOLock()
        self._changed = trio.Event()

    @property
    def rate(self) -> float | None:
        return self._rate

    def set_rate(self, rate: float | None) -> None:
        """Change the limit at once, also for those who wait."""
        self._refill()
        self._rate = _checked(rate)
        self._changed.set()
        self._changed = trio.Event()

    async def take(self, size: int) -> None:
        """Wait until `size` bytes may go."""
        if self._rate is None:
            return
        async with self._turn:
            while self._rate is not None:
                self._refill()
                if self._tokens >= 0:
                    self._tokens -= size
                    return
                changed = self._changed
                # At least a moment: the clock has to move for the debt to shrink.
                with trio.move_on_after(max(-self._tokens / self._rate, 0.001)):
                    await changed.wait()

    def _refill(self) -> None:
        now = trio.current_time()
        if self._rate is not None:
            most = self._rate * BURST_S
            self._tokens = min(most, self._tokens + (now - self._at) * self._rate)
        self._at = now


def _checked(rate: float | None) -> float | None:
    if rate is not None and not rate > 0:
        raise ValueError("a rate limit is above 0; None means no limit")
    return rate


class TooManyError(Exception):
    """This peer, or all together, have as many streams or files open as are allowed."""


class Upload:
    """One stream that serves one file to one peer.

    granted: whether it holds a slot. `told` is called whenever that changes from outside.
    busy: something is to be sent. writing: since when a block is on its way into the stream.
    """

    def __init__(self, peer_id: str, root: bytes, told: Callable[[], None]) -> None:
        self.peer_id = peer_id
        self.root = root
        self.told = told
        self.granted = False
        self.busy = False
        self.writing: float | None = None
        self.sent = 0
        self.since = 0.0
        self.used = 0.0

    def stalled(self, now: float) -> bool:
        """Whether the peer does not take what is sent to it."""
        return self.writing is not None and now - self.writing >= STALLED_S

    def unused(self, now: float) -> bool:
        """Whether a slot is wasted on it."""
        return self.stalled(now) or (not self.busy and now - self.used >= IDLE_S)


class Uploads:
    """The uploads of this node. `sent` counts bytes of file data by root since the start.

    While somebody waits, slots are shared out by peer, not by stream: who holds fewest comes
    first, and takes from who holds at least two more at once. Between equals turns go round.
    """

    def __init__(self, slots: int = UPLOAD_SLOTS, max_up: float | None = None) -> None:
        self.slots = slots
        self.bucket = TokenBucket(max_up)
        self.sent: Counter[bytes] = Counter()
        self._streams: Counter[str] = Counter()
        self._open: list[Upload] = []
        self._holders: list[Upload] = []
        self._held: Counter[str] = Counter()
        self._waiting: dict[Upload, float] = {}
        self._reviewed = -math.inf

    @property
    def active(self) -> tuple[Upload, ...]:
        """Every open upload, with a slot or waiting."""
        return tuple(self._open)

    def connect(self, peer_id: str) -> None:
        """Count a stream of `peer_id`; TooManyError. `disconnect` must follow once it ended."""
        if self._streams[peer_id] >= MAX_STREAMS_PER_PEER:
            raise TooManyError(f"{MAX_STREAMS_PER_PEER} transfer streams per peer are allowed")
        if peer_id not in self._streams and len(self._streams) >= MAX_PEERS:
            raise TooManyError(f"{MAX_PEERS} peers are served already")
        self._streams[peer_id] += 1

    def disconnect(self, peer_id: str) -> None:
        """The counterpart of a `connect` that did not raise."""
        self._streams[peer_id] -= 1
        if self._streams[peer_id] <= 0:
            del self._streams[peer_id]

    def open(self, peer_id: str, root: bytes, told: Callable[[], None]) -> Upload:
        """An upload without a slot; TooManyError. `close` must follow."""
        files = {item.root for item in self._open if item.peer_id == peer_id}
        if len(files | {root}) > MAX_FILES_PER_PEER:
            raise TooManyError(f"{MAX_FILES_PER_PEER} files at once per peer are allowed")
        upload = Upload(peer_id, root, told)
        self._open.append(upload)
        return upload

    def close(self, upload: Upload) -> None:
        """The stream ended: its slot goes on."""
        if upload in self._open:
            self._open.remove(upload)
        self._forget(upload)
        self._share_out()

    def ask(self, upload: Upload) -> bool:
        """Take a slot, or a place in the queue; whether there was one."""
        if upload.granted:
            return True
        self._waiting.setdefault(upload, trio.current_time())
        self._share_out(asking=upload)
        return upload.granted

    def count(self, upload: Upload, size: int) -> None:
        """`size` bytes of file data went out."""
        upload.sent += size
        upload.used = trio.current_time()
        self.sent[upload.root] += size

    def review(self) -> None:
        """Take away what was held too long or for nothing. Call it about once a second."""
        now = trio.current_time()
        if self._waiting and now - self._reviewed >= REVIEW_S:
            self._reviewed = now
            self._share_out()

    def _share_out(self, asking: Upload | None = None) -> None:
        """Give slots to those with the best right to them; `asking` sees for itself."""
        now = trio.current_time()
        while (found := self._next(now)) is not None:
            upload, victim = found
            if victim is not None:
                self._revoke(victim, now)
            del self._waiting[upload]
            upload.granted = True
            upload.since = upload.used = now
            self._holders.append(upload)
            self._held[upload.peer_id] += 1
            if upload is not asking:
                upload.told()

    def _next(self, now: float) -> tuple[Upload, Upload | None] | None:
        """Who gets a slot next, and whose (None: a free one)."""
        # Sorting keeps the order of asking among equals.
        for upload in sorted(self._waiting, key=lambda item: self._held[item.peer_id]):
            if upload.stalled(now):
                continue
            if len(self._holders) < self.slots:
                return upload, None
            over = [item for item in self._holders if self._may_take(upload, item, now)]
            if over:
                return upload, min(over, key=lambda item: (not item.unused(now), item.since))
        return None

    def _may_take(self, upload: Upload, holder: Upload, now: float) -> bool:
        if holder.unused(now):
            return True
        more = self._held[holder.peer_id] - self._held[upload.peer_id]
        if more >= 2:
            return True
        rested = now - self._waiting[upload] >= REST_S
        its_turn = rested and now - holder.since >= TURN_S
        return its_turn and (more > 0 or holder.peer_id == upload.peer_id)

    def _revoke(self, upload: Upload, now: float) -> None:
        self._forget(upload)
        if upload.busy:
            self._waiting[upload] = now
        upload.told()

    def _forget(self, upload: Upload) -> None:
        self._waiting.pop(upload, None)
        if upload.granted:
            upload.granted = False
            self._holders.remove(upload)
            self._held[upload.peer_id] -= 1
            if not self._held[upload.peer_id]:
                del self._held[upload.peer_id]
