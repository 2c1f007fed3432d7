"""The log pane's feed: what is new at the door, moved into the ring log a little at a time."""

from __future__ import annotations

from time import perf_counter

from node.door import Door
from swarmtui.history import History
from swarmtui.widgets.ring_log import RingLog

BUDGET_S = 0.03


class LogFeed:
    """Drains a door's events into a RingLog."""

    def __init__(self, door: Door) -> None:
        self._history = History(door)

    def drain(self, log: RingLog) -> bool:
        """Move what is new into the log; True when more is left for the next tick."""
        end = perf_counter() + BUDGET_S
        while True:
            events, lines = self._history.batch()
            if not events:
                return False
            log.add(lines)
            if perf_counter() > end:
                return True
