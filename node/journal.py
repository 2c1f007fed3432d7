"""The journal: the node's events on disk, bounded, and their replay to the same state.

JSON lines. The first line of a file is the state before its first event, so that a file replays
without the ones before it. `journal.jsonl` is this run (or its newest 8 MiB), `journal.jsonl.1`
what came before. Writing happens in a thread; a full disk costs the journal, never the node.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from node import events as ev
from node.clean import clean
from node.errors import PlainError
from node.rotating import RotatingFile
from node.state import State

FILE_NAME = "journal.jsonl"
MAX_FILE = 8 * 2**20
MAX_WAITING = 10_000
RETRY_S = 30.0


class _Header(msgspec.Struct, frozen=True):
    """The first line of a journal file."""

    state: State


_encoder = msgspec.json.Encoder()
_headers = msgspec.json.Decoder(_Header)


class Journal:
    """Records events below `folder`; a context manager.

    emit is called in the thread that calls `record`, once per failure, with a Problem. After a
    failure writing is tried again every 30 s.
    """

    def __init__(
        self,
        folder: Path,
        emit: Callable[[ev.Event], None],
        *,
        max_bytes: int = MAX_FILE,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.path = folder / FILE_NAME
        self._emit = emit
        self._max_bytes = max_bytes
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[ev.Event, State]] = deque()
        self._dropped = 0
        self._state = State()
        self._file: RotatingFile | None = None
        self._fresh = True
        self._retry_at = 0.0
        self._failure = ""
        self._told = ""
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def record(self, event: ev.Event, before: State, after: State) -> None:
        """Take one event; a listener for NodeDoor.tap. Never raises, never waits for the disk."""
        if len(self._waiting) < self._max_waiting:
            self._waiting.append((event, before))
            self._wake.set()
        else:
            self._dropped += 1
        failure = self._failure
        if failure != self._told:
            self._told = failure
            if failure:
                self._emit(
                    ev.Problem(
                        at=time.time(),
                        level="warning",
                        tag="JOURNAL",
                        sentence=f"The journal cannot be written: {failure}.",
                        next_step="The node works without it; make room or mend "
                        f"{clean(self.path.parent, 200)}.",
                    )
                )

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what waits, for at most `timeout_s`, and stop."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s)

    # ------------------------------------------------------------ the journal's thread

    def _run(self) -> None:
        closing = False
        while not closing:
            self._wake.wait()
            self._wake.clear()
            closing = self._closing
            while self._waiting:
                event, self._state = self._waiting.popleft()
                self._write(event)
        if self._file is not None:
            self._file.close()

    def _write(self, event: ev.Event) -> None:
        if self._failure and time.monotonic() < self._retry_at:
            return
        try:
            if self._file is None:
                self._file = RotatingFile(
                    self.path, self._max_bytes, fresh=self._fresh, header=self._header
                )
                self._fresh = False
            elif self._failure or self._dropped:
                # Events are missing in between: a new file with a new first state stays true.
                self._dropped = 0
                self._file.close()
                self._file = RotatingFile(
                    self.path, self._max_bytes, fresh=True, header=self._header
                )
            self._file.write(ev.encode(event) + b"\n")
        except OSError as error:
            self._retry_at = time.monotonic() + RETRY_S
            self._failure = clean(error.strerror or error, 100)
        else:
            self._failure = ""

    def _header(self) -> bytes:
        return _encoder.encode(_Header(self._state)) + b"\n"


def read(path: Path) -> tuple[State, list[ev.Event]]:
    """The first state and the events of one journal file.

    Lines that are broken (a kill in mid-write) or of an unknown kind are left out. Raises
    PlainError where the file cannot be read or does not begin like a journal.
    """
    try:
        with path.open("rb") as file:
            first = file.readline()
            rest = file.readlines()
    except OSError as error:
        raise PlainError(
            f"The journal {clean(path, 200)} cannot be read: {clean(error.strerror or error)}.",
            "Check the path.",
        ) from None
    try:
        state = _headers.decode(first).state
    except (msgspec.DecodeError, RecursionError):
        raise PlainError(
            f"The file {clean(path, 200)} is no journal of this version.",
            "Choose a journal.jsonl below the state folder.",
        ) from None
    events: list[ev.Event] = []
    for line in rest:
        try:
            events.append(ev.decode(line))
        except (msgspec.DecodeError, RecursionError):
            continue
    return state, events


def replay(path: Path) -> State:
    """The state at the end of a journal file. Raises PlainError as `read` does."""
    state, events = read(path)
    for event in events:
        state = state.apply(event)
    return state
