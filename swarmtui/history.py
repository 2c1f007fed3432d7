"""A door's events read one after another, as log lines. Imports no terminal library."""

from __future__ import annotations

from node.door import Door
from node.events import Event, NodeStarted
from node.logs import LogLine, lines
from node.state import State


class History:
    """Events of a door in batches, with the log lines they make.

    Lines depend on the state before and after their event, so events are folded here. Where the
    door has forgotten the beginning, the fold starts from the door's present state: an old change
    may then read as no change, never as a wrong one.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._after = 0
        self._state: State | None = None

    def batch(self, limit: int = 500) -> tuple[list[Event], list[LogLine]]:
        """Up to `limit` events not read before, oldest first, and their lines; empty at the end."""
        events, self._after = self._door.events(self._after, limit)
        if events and self._state is None:
            whole = isinstance(events[0], NodeStarted)
            self._state = State() if whole else self._door.snapshot().state
        found: list[LogLine] = []
        for event in events:
            before = self._state or State()
            self._state = before.apply(event)
            found.extend(lines(event, before, self._state))
        return events, found
