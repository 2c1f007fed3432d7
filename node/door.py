"""The only way into a node from outside: a snapshot, the events after it, requests with answers.

Two doors share one interface. `NodeDoor` is in the node's own process: the node's thread emits,
any thread reads. `SocketDoor` (node.door_client) speaks to another process over a Unix socket and
folds the events it receives with the same `State.apply`. Readers never block the node: they take
the latest snapshot, and the events since a number they remember.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import islice
from typing import Any, Protocol

from node.events import Event
from node.state import State

RECENT_EVENTS = 20_000

Handler = Callable[[str, dict[str, Any], "Future[dict[str, Any]]"], None]


class Snapshot:
    """State after event number `version`. Equal versions of one door mean equal states."""

    __slots__ = ("state", "version")

    def __init__(self, state: State, version: int) -> None:
        self.state = state
        self.version = version


class Door(Protocol):
    """What a console, `status`, `send` and the journal need of a node."""

    def snapshot(self) -> Snapshot:
        """The latest state and its version; never blocks."""
        ...

    def events(self, after: int, limit: int = 1000) -> tuple[list[Event], int]:
        """Up to `limit` events numbered above `after`, oldest first, and the number to ask next.

        Events older than the door's bounded memory are skipped.
        """
        ...

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Have `wake` called after events arrive, from any thread; returns the unsubscriber.

        Wakes are a hint, not a count: several events may cause one call. `wake` must return at
        once.
        """
        ...

    def request(self, name: str, params: dict[str, Any]) -> Future[dict[str, Any]]:
        """Ask the node for something; the future holds the answer or a PlainError.

        Names and params: see node.requests.
        """
        ...

    def close(self) -> None:
        """Let go of the door; the node lives on."""
        ...


class NodeDoor:
    """The door of a node in this process. Only the node's thread may call `emit`."""

    def __init__(self, state: State | None = None) -> None:
        self._snapshot = Snapshot(state or State(), 0)
        self._recent: deque[tuple[int, Event]] = deque(maxlen=RECENT_EVENTS)
        self._lock = threading.Lock()
        self._wakes: list[Callable[[], None]] = []
        self._handler: Handler | None = None
        self._taps: list[Callable[[Event, State, State], None]] = []

    # ------------------------------------------------------------ the node's side

    def emit(self, event: Event) -> None:
        """Fold the event, remember it, tell the taps (same thread) and wake the readers."""
        before = self._snapshot.state
        after = before.apply(event)
        with self._lock:
            version = self._snapshot.version + 1
            self._snapshot = Snapshot(after, version)
            self._recent.append((version, event))
            wakes = list(self._wakes)
        for tap in self._taps:
            tap(event, before, after)
        for wake in wakes:
            wake()

    def tap(self, listener: Callable[[Event, State, State], None]) -> None:
        """Have `listener(event, before, after)` called in the node's thread for every event."""
        self._taps.append(listener)

    def serve(self, handler: Handler | None) -> None:
        """Set who answers requests; None refuses them (the node is not running)."""
        self._handler = handler

    @property
    def state(self) -> State:
        """The latest state."""
        return self._snapshot.state

    # ------------------------------------------------------------ the readers' side

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def events(self, after: int, limit: int = 1000) -> tuple[list[Event], int]:
        with self._lock:
            last = self._snapshot.version
            if after >= last or not self._recent:
                return [], max(after, last)
            first = self._recent[0][0]
            start = max(after + 1 - first, 0)
            taken = list(islice(self._recent, start, start + limit))
        return [event for _, event in taken], (taken[-1][0] if taken else last)

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        with self._lock:
            self._wakes.append(wake)

        def unsubscribe() -> None:
            with self._lock:
                if wake in self._wakes:
                    self._wakes.remove(wake)

        return unsubscribe

    def request(self, name: str, params: dict[str, Any]) -> Future[dict[str, Any]]:
        future: Future[dict[str, Any]] = Future()
        handler = self._handler
        if handler is None:
            from node.errors import PlainError

            future.set_exception(PlainError("The node is not running.", "Start it again."))
        else:
            handler(name, params, future)
        return future

    def close(self) -> None:
        with self._lock:
            self._wakes.clear()
