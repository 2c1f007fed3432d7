"""How much may be asked of a peer at once: a rate over its busy time and a window that follows it.

No clock of its own: every method is told the time, in seconds of any monotonic clock.
"""

from __future__ import annotations

import math

from node.torrent.limits import (
    BLOCK_BYTES,
    MAX_WINDOW_BYTES,
    MIN_WINDOW_BYTES,
    START_WINDOW_BYTES,
)

RATE_OVER_S = 2.0
KNOWN_AFTER_S = 0.5
GROWTH = 1.05


class Rate:
    """Bytes per second, averaged with exponential decay over the time something was awaited."""

    __slots__ = ("_at", "_busy", "_running", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._busy = 0.0
        self._at = 0.0
        self._running = False

    def _advance(self, now: float) -> None:
        if self._running and now > self._at:
            passed = now - self._at
            self._busy += passed
            self._value *= math.exp(-passed / RATE_OVER_S)
        self._at = max(now, self._at)

    def start(self, now: float) -> None:
        """Something is awaited from now on."""
        self._advance(now)
        self._running = True

    def pause(self, now: float) -> None:
        """Nothing is awaited any more: the time that follows does not count."""
        self._advance(now)
        self._running = False

    def add(self, count: int, now: float) -> None:
        """`count` bytes arrived."""
        self._advance(now)
        self._value += count / RATE_OVER_S

    def value(self, now: float) -> float | None:
        """Bytes per second; None before half a second of waiting was observed."""
        self._advance(now)
        if self._busy < KNOWN_AFTER_S:
            return None
        # The average began at nothing: without this the first seconds would read too low.
        return self._value / (1.0 - math.exp(-self._busy / RATE_OVER_S))


class Window:
    """Bytes that may be outstanding at one peer.

    It starts at 2 MiB and doubles while a full window comes in faster than the one before; then it
    is what the peer delivers in max(0.5 s, 4 round trips), 1 to 16 MiB. `snub` cuts it to one block
    until data comes again.
    """

    __slots__ = (
        "_arrived",
        "_last_rate",
        "_since",
        "_slow_start",
        "rate",
        "rtt",
        "size",
        "snubbed",
    )

    def __init__(self) -> None:
        self.size = START_WINDOW_BYTES
        self.rate = Rate()
        self.rtt = math.inf
        self.snubbed = False
        self._slow_start = True
        self._arrived = 0
        self._since: float | None = None
        self._last_rate = 0.0

    def start(self, now: float) -> None:
        """The first request after a pause goes out."""
        self.rate.start(now)
        self._since = now
        self._arrived = 0

    def pause(self, now: float) -> None:
        """Nothing is outstanding."""
        self.rate.pause(now)
        self._since = None

    def arrived(self, count: int, waited: float, now: float) -> None:
        """A block of `count` bytes came `waited` seconds after it was asked for."""
        if self.snubbed:
            self.snubbed = False
            self.size = MIN_WINDOW_BYTES
        self.rate.add(count, now)
        self.rtt = min(self.rtt, max(0.0, waited))
        self._arrived += count
        if self._since is None or self._arrived < self.size or now <= self._since:
            return
        rate = self._arrived / (now - self._since)
        self._arrived, self._since = 0, now
        if self._slow_start:
            if rate > self._last_rate * GROWTH and self.size < MAX_WINDOW_BYTES:
                self._last_rate = rate
                self.size = min(self.size * 2, MAX_WINDOW_BYTES)
                return
            self._slow_start = False
        steady = self.rate.value(now)
        if steady is not None:
            wanted = steady * max(0.5, 4 * self.rtt)
            self.size = int(min(max(wanted, MIN_WINDOW_BYTES), MAX_WINDOW_BYTES))

    def snub(self) -> None:
        """The peer stalls."""
        self.snubbed = True
        self._slow_start = False
        self.size = BLOCK_BYTES
