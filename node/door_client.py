"""The door of a node in another process: plain sockets and a thread, no trio, no libp2p."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from node.clean import clean
from node.door import RECENT_EVENTS, Snapshot
from node.errors import PlainError
from node.events import Event, decode
from node.settings import Settings
from node.state import State

MAX_LINE = 64 * 2**20


class _Line(msgspec.Struct):
    """One line of the server; which fields are set tells what it is."""

    snapshot: State | None = None
    event: msgspec.Raw = msgspec.Raw()
    version: int = 0
    past: list[msgspec.Raw] = []
    id: int | None = None
    result: dict[str, Any] | None = None
    error: dict[str, str] | None = None


_lines = msgspec.json.Decoder(_Line)
_encoder = msgspec.json.Encoder()


class SocketDoor:
    """A Door (node.door) over the socket at `path`.

    Raises PlainError where nothing answers there within `timeout_s`. When the connection ends,
    `lost` says why, the waiting requests fail, and `on_lost` is called once (from the reader's
    thread); the last snapshot stays readable.
    """

    def __init__(
        self,
        path: Path,
        *,
        timeout_s: float = 5.0,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        self.path = path
        self.lost = ""
        self.on_lost = on_lost
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._recent: deque[tuple[int, Event]] = deque(maxlen=RECENT_EVENTS)
        self._wakes: list[Callable[[], None]] = []
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._next_id = 1
        self._buffer = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout_s)
            self._socket.connect(os.fspath(path))
            first = _lines.decode(self._read_line())
            if first.snapshot is None:
                raise ConnectionError("it does not speak this version's protocol")
        except (OSError, EOFError, msgspec.DecodeError, RecursionError) as error:
            self._socket.close()
            raise PlainError(
                f"The node at {clean(path, 200)} does not answer: {clean(error)}.",
                "Look whether it still runs, and start it again.",
            ) from None
        self._socket.settimeout(None)
        self._snapshot = Snapshot(first.snapshot, first.version)
        self._recall(first)
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ Door

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def events(self, after: int, limit: int = 1000) -> tuple[list[Event], int]:
        with self._lock:
            last = self._snapshot.version
            if after >= last or not self._recent:
                return [], max(after, last)
            start = max(after + 1 - self._recent[0][0], 0)
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
        with self._lock:
            if self.lost:
                future.set_exception(_gone(self.lost))
                return future
            number, self._next_id = self._next_id, self._next_id + 1
            self._waiting[number] = future
        line = _encoder.encode({"id": number, "request": name, "params": params}) + b"\n"
        try:
            with self._sending:
                self._socket.sendall(line)
        except OSError as error:
            with self._lock:
                self._waiting.pop(number, None)
            if not future.done():
                future.set_exception(_gone(str(error)))
        return future

    def close(self) -> None:
        """Let go of the door; the node lives on."""
        with self._lock:
            self._wakes.clear()
            self.on_lost = None
        # The other side may have closed it already.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._thread:
            self._thread.join(1.0)

    # ------------------------------------------------------------ the reader's thread

    def _run(self) -> None:
        reason = "the node closed the connection"
        try:
            while True:
                self._take(_lines.decode(self._read_line()))
        except EOFError:
            pass
        except (OSError, msgspec.DecodeError, RecursionError) as error:
            reason = clean(error)
        self._end(reason)

    def _read_line(self) -> bytes:
        searched = 0
        while True:
            end = self._buffer.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                return line
            searched = len(self._buffer)
            if searched > MAX_LINE:
                raise ConnectionError("it sent a line that is too long")
            data = self._socket.recv(262144)
            if not data:
                if self._buffer:
                    raise ConnectionError("the connection broke off inside a line")
                raise EOFError
            self._buffer += data

    def _take(self, line: _Line) -> None:
        if line.snapshot is not None:
            with self._lock:
                self._recent.clear()
                self._snapshot = Snapshot(line.snapshot, line.version)
        elif bytes(line.event):
            try:
                event: Event = decode(bytes(line.event))
            except msgspec.DecodeError:
                # An event of a newer node: the ones this version knows still count.
                return
            after = self._snapshot.state.apply(event)
            with self._lock:
                self._snapshot = Snapshot(after, line.version)
                self._recent.append((line.version, event))
        elif line.id is not None:
            self._settle(line)
            return
        self._wake()

    def _recall(self, first: _Line) -> None:
        """Keep the events before the snapshot, for who reads them (a log) without folding them."""
        for number, raw in enumerate(first.past, first.version - len(first.past) + 1):
            with contextlib.suppress(msgspec.DecodeError):
                self._recent.append((number, decode(bytes(raw))))

    def _settle(self, line: _Line) -> None:
        with self._lock:
            future = self._waiting.pop(line.id or 0, None)
        if future is None:
            return
        if line.error is not None:
            sentence = clean(line.error.get("sentence", "The node refused."), 1000)
            future.set_exception(PlainError(sentence, clean(line.error.get("next_step", ""), 1000)))
        else:
            future.set_result(line.result or {})

    def _end(self, reason: str) -> None:
        with self._lock:
            self.lost = reason
            waiting, self._waiting = list(self._waiting.values()), {}
            on_lost = self.on_lost
        self._socket.close()
        for future in waiting:
            future.set_exception(_gone(reason))
        self._wake()
        if on_lost is not None:
            on_lost(reason)

    def _wake(self) -> None:
        with self._lock:
            wakes = list(self._wakes)
        for wake in wakes:
            wake()


def _gone(reason: str) -> PlainError:
    return PlainError(
        f"The connection to the node is lost: {clean(reason)}.",
        "`swarmtui status` shows whether it still runs.",
    )


# ---------------------------------------------------------------- finding a node


def running_nodes(settings: Settings) -> list[str]:
    """The names of the nodes of this user that run on this machine, sorted."""
    names = set()
    # A node whose socket path would be too long has a folder of its name among the data only.
    for folder in (settings.runtime_dir, settings.data_dir):
        with contextlib.suppress(OSError):
            names |= {item.name for item in folder.iterdir() if item.is_dir()}
    return sorted(name for name in names if _answers(settings.socket_path_of(name)))


def find_socket(settings: Settings, name: str | None) -> Path:
    """The socket of the node `name`, or of the only running one.

    Raises PlainError where there is no such node, or several and no name.
    """
    names = running_nodes(settings)
    if name is not None:
        if name in names:
            return settings.socket_path_of(name)
        others = f"Running: {', '.join(names)}." if names else "No node runs on this machine."
        raise PlainError(f"No node named {clean(name, 64)} runs on this machine.", others)
    if len(names) == 1:
        return settings.socket_path_of(names[0])
    if not names:
        raise PlainError(
            "No node runs on this machine.", "Start one, for example with `swarmtui --shard 0`."
        )
    shown = ", ".join(names[:32])
    raise PlainError(
        f"{len(names)} nodes run on this machine.", f"Choose one with --name: {shown}."
    )


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
    return True
