"""What all uploads share: slots, the rate limit, turns, and the count of bytes sent."""

from __future__ import annotations

import math
from collections import Counter, deque
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
TURN_S = 30.0
"""How long a slot may be held while others wait."""
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
    """

    def __init__(self, peer_id: str, root: bytes, told: Callable[[], None]) -> None:
        self.peer_id = peer_id
        self.root = root
        self.told = told
        self.granted = False
        self.busy = False
        self.sent = 0
        self.since = 0.0
        self.used = 0.0


class Uploads:
    """The uploads of this node. `sent` counts bytes of file data by root since the start."""

    def __init__(self, slots: int = UPLOAD_SLOTS, max_up: float | None = None) -> None:
        self.slots = slots
        self.bucket = TokenBucket(max_up)
        self.sent: Counter[bytes] = Counter()
        self._streams: Counter[str] = Counter()
        self._open: list[Upload] = []
        self._holders: list[Upload] = []
        self._waiting: deque[Upload] = deque()

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
        self._grant()

    def ask(self, upload: Upload) -> bool:
        """Take a slot, or a place in the queue; whether there was one."""
        now = trio.current_time()
        if upload.granted:
            return True
        if upload not in self._waiting:
            self._waiting.append(upload)
        if len(self._holders) >= self.slots:
            over = [item for item in self._holders if self._may_end(item, now)]
            if over:
                self._revoke(min(over, key=lambda item: (item.busy, item.since)))
        self._grant(telling=upload)
        return upload.granted

    def count(self, upload: Upload, size: int) -> None:
        """`size` bytes of file data went out."""
        upload.sent += size
        upload.used = trio.current_time()
        self.sent[upload.root] += size
        if self._waiting and upload.granted and upload.used - upload.since >= TURN_S:
            self._revoke(upload)
            self._grant()

    def _may_end(self, upload: Upload, now: float) -> bool:
        return now - upload.since >= TURN_S or (not upload.busy and now - upload.used >= IDLE_S)

    def _revoke(self, upload: Upload) -> None:
        self._forget(upload)
        if upload.busy:
            self._waiting.append(upload)
        upload.told()

    def _forget(self, upload: Upload) -> None:
        upload.granted = False
        if upload in self._holders:
            self._holders.remove(upload)
        if upload in self._waiting:
            self._waiting.remove(upload)

    def _grant(self, telling: Upload | None = None) -> None:
        while self._waiting and len(self._holders) < self.slots:
            upload = self._waiting.popleft()
            upload.granted = True
            upload.since = upload.used = trio.current_time()
            self._holders.append(upload)
            if upload is not telling:
                upload.told()
