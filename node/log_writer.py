"""Writes the log: on standard output and into the node's log file, from a thread of its own.

The node's thread only hands events over; a slow disk or a full pipe never holds it up. A reader
of standard output that went away is forgotten, the log file goes on.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from node.door import Door
from node.events import Event
from node.logs import (
    LEVELS,
    LogLine,
    format_json,
    format_text,
    joined,
    lines,
    status_report,
)
from node.rotating import RotatingFile
from node.settings import Settings
from node.state import State

MAX_WAITING = 20_000
MAX_FILE = 8 * 2**20


class LogWriter:
    """Lines of events and the periodic [STATUS] report, to standard output and the log file.

    Feed it either with `tap` (a listener for NodeDoor.tap) or by `follow(door)`. `problem` holds
    the reason where the log file cannot be written, else "".
    """

    def __init__(self, settings: Settings, *, stdout: bool) -> None:
        self._json = settings.log_format == "json"
        self._least = LEVELS[settings.log_level]
        self._period = settings.report_s
        self._waiting: deque[tuple[Event, State, State]] = deque()
        self._dropped = 0
        self._wake = threading.Event()
        self._closing = False
        self._state = State()
        self._door: Door | None = None
        self._seen = 0
        self._unsubscribe: Callable[[], None] | None = None
        self._stream: TextIO | None = None
        self._file: RotatingFile | None = None
        self.problem = ""
        try:
            self._file = RotatingFile(settings.log_path, MAX_FILE)
        except OSError as error:
            self.problem = error.strerror or str(error)
        if stdout:
            self.use_stdout()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def use_stdout(self) -> None:
        """Write to standard output from now on, if there is one."""
        stream = sys.stdout
        if stream is None:
            return
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # A terminal with a small character set gets "?" instead of an error.
            reconfigure(line_buffering=True, errors="replace")
        self._stream = stream

    def tap(self, event: Event, before: State, after: State) -> None:
        """Take one event; called in the node's thread."""
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append((event, before, after))
        self._wake.set()

    def follow(self, door: Door) -> None:
        """Take every event of `door`, those from before this call too."""
        self._door = door
        self._unsubscribe = door.subscribe(self._wake.set)
        self._wake.set()

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what waits, for at most `timeout_s`, and stop."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s)

    # ------------------------------------------------------------ the writer's thread

    def _run(self) -> None:
        due = time.monotonic() + self._period
        while True:
            self._wake.wait(max(due - time.monotonic(), 0.0))
            self._wake.clear()
            closing = self._closing
            self._drain()
            if closing:
                break
            if time.monotonic() >= due:
                due = time.monotonic() + self._period
                if self._state.node is not None and not self._state.node.stopping:
                    for line in status_report(self._state, time.time()):
                        self._write(line, None)
        if self._file is not None:
            self._file.close()

    def _drain(self) -> None:
        while self._waiting:
            event, before, after = self._waiting.popleft()
            self._tell(event, before, after)
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            text = f"{dropped} events came faster than they could be logged"
            self._write(LogLine(time.time(), "warning", "LOG", text), None)
        while self._door is not None:
            events, seen = self._door.events(self._seen)
            if seen == self._seen:
                break
            for event in events:
                before = self._state
                self._tell(event, before, before.apply(event))
            skipped = seen - self._seen - len(events)
            self._seen = seen
            if skipped > 0:
                # The door's memory is bounded: take up the state where its events begin again.
                self._state = self._door.snapshot().state
            if not events:
                break

    def _tell(self, event: Event, before: State, after: State) -> None:
        self._state = after
        found = [line for line in lines(event, before, after) if LEVELS[line.level] >= self._least]
        if not found:
            return
        if self._json:
            self._print(format_json(joined(found), event))
        for line in found:
            self._write(line, event)

    def _write(self, line: LogLine, event: Event | None) -> None:
        text = format_text(line)
        if self._json:
            if event is None:
                self._print(format_json(line))
        else:
            self._print(text)
        if self._file is not None:
            try:
                self._file.write(text.encode("utf-8", "replace") + b"\n")
            except OSError as error:
                self.problem = error.strerror or str(error)

    def _print(self, text: str) -> None:
        stream = self._stream
        if stream is None:
            return
        try:
            stream.write(text + "\n")
            stream.flush()
        except (OSError, ValueError):
            self._stream = None
            _silence(stream)


def _silence(stream: TextIO) -> None:
    """Point a dead standard output at the null device, so that the exit does not complain."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):
        return
