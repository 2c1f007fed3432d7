"""The door over a Unix socket: JSON lines, for other processes of the same user.

The server sends `{"protocol", "snapshot", "version", "past"}` first (`past` are the last events up
to `version`, for the log), then `{"event", "version"}` for each event after it (and a new snapshot
where a reader fell behind the door's memory). The client sends
`{"id", "request", "params"}` and gets `{"id", "result"}` or
`{"id", "error": {"sentence", "next_step"}}`.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from node.clean import clean
from node.door import NodeDoor
from node.errors import PlainError
from node.requests import NAMES

PROTOCOL = 1
MAX_LINE = 4 * 2**20
MAX_CLIENTS = 32
MAX_OPEN_REQUESTS = 32
MAX_BATCH = 256
PAST_EVENTS = 1000
SEND_TIMEOUT_S = 10.0

_encoder = msgspec.json.Encoder(enc_hook=str)


class Request(msgspec.Struct, frozen=True):
    """One request line of a client."""

    id: int
    request: str
    params: dict[str, Any] = {}


_requests = msgspec.json.Decoder(Request)


class ClaimedSocket:
    """A node's name and socket on this machine, claimed until `close`."""

    def __init__(self, path: Path, lock: int, listener: socket.socket) -> None:
        self.path = path
        self.listener = listener
        self._lock = lock

    def close(self) -> None:
        """Remove the socket and give the name back."""
        self.listener.close()
        self.path.unlink(missing_ok=True)
        _lock_path(self.path).unlink(missing_ok=True)
        os.close(self._lock)


def claim_socket(path: Path, name: str) -> ClaimedSocket:
    """Bind the socket of the node `name`, mode 0600, in a folder of mode 0700.

    Raises PlainError where a node of that name runs already or the folder cannot be used. What a
    killed node left behind is replaced.
    """
    try:
        _private_folder(path.parent)
        lock = _lock(_lock_path(path))
    except BlockingIOError:
        raise PlainError(
            f"A node named {clean(name, 64)} runs on this machine already.",
            "Stop it, or give this one another name with --name.",
        ) from None
    except OSError as error:
        raise PlainError(
            f"The folder for the socket, {clean(path.parent, 200)}, cannot be used: "
            f"{clean(error.strerror or error)}.",
            "Mend its permissions, or set SWARMTUI_RUNTIME_DIR to a folder of your own.",
        ) from None
    try:
        listener = _bind(path)
    except OSError as error:
        os.close(lock)
        raise PlainError(
            f"The socket {clean(path, 200)} cannot be made: {clean(error.strerror or error)}.",
            "Set SWARMTUI_RUNTIME_DIR to another folder of your own.",
        ) from None
    return ClaimedSocket(path, lock, listener)


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _lock(path: Path) -> int:
    """An open file with its exclusive lock. BlockingIOError where another process has it.

    The lock dies with its process, so what a killed node left never looks alive.
    """
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The node before may have removed the file between opening and locking it.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(lock)):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _bind(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        # Until now the folder's mode alone kept others out.
        path.chmod(0o600)
        listener.listen(64)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _private_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(1, "it belongs to another user or is no folder")
    if found.st_mode & 0o077:
        folder.chmod(0o700)


async def serve_door(door: NodeDoor, path: Path, name: str) -> None:
    """Serve the door of the node `name` at `path` until cancelled; the socket is removed then.

    Raises PlainError as `claim_socket` does.
    """
    own = claim_socket(path, name)
    limit = trio.Semaphore(MAX_CLIENTS)
    try:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(own.listener))

        async def handle(stream: trio.SocketStream) -> None:
            try:
                limit.acquire_nowait()
            except trio.WouldBlock:
                await stream.aclose()
                return
            try:
                await _Client(door, stream).run()
            finally:
                limit.release()

        await trio.serve_listeners(handle, [listener])
    finally:
        own.close()


class _Client:
    """One connected reader."""

    def __init__(self, door: NodeDoor, stream: trio.SocketStream) -> None:
        self._door = door
        self._stream = stream
        self._sending = trio.Lock()
        self._news = trio.Event()
        self._open_requests = 0

    async def run(self) -> None:
        """Serve it until it goes away, falls behind or sends nonsense."""
        token = trio.lowlevel.current_trio_token()
        # Events come from the node's thread, but a wake may come from any.
        wake = partial(token.run_sync_soon, self._set_news, idempotent=True)
        unsubscribe = self._door.subscribe(wake)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell, nursery.cancel_scope)
                await self._listen(nursery)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass  # the reader went away, which is its right
        finally:
            unsubscribe()
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await self._stream.aclose()

    def _set_news(self) -> None:
        self._news.set()

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            with trio.fail_after(SEND_TIMEOUT_S):
                await self._stream.send_all(data)

    async def _tell(self, scope: trio.CancelScope) -> None:
        """Send the snapshot and what happens after it. The door's memory is the only queue."""
        try:
            seen = await self._send_snapshot(PAST_EVENTS)
            while True:
                self._news = trio.Event()
                events, last = self._door.events(seen, MAX_BATCH)
                if not events:
                    await self._news.wait()
                    continue
                first = last - len(events) + 1
                if first > seen + 1:
                    seen = await self._send_snapshot()
                    continue
                batch = bytearray()
                for number, event in enumerate(events, first):
                    batch += _encoder.encode({"event": event, "version": number}) + b"\n"
                await self._send(bytes(batch))
                seen = last
        except trio.TooSlowError:
            # A reader that takes nothing for ten seconds would only hold memory.
            scope.cancel()

    async def _send_snapshot(self, past: int = 0) -> int:
        now = self._door.snapshot()
        line: dict[str, Any] = {
            "protocol": PROTOCOL,
            "snapshot": now.state,
            "version": now.version,
        }
        if past:
            line["past"] = self._door.events(max(now.version - past, 0), past)[0]
        await self._send(_encoder.encode(line) + b"\n")
        return now.version

    # ------------------------------------------------------------ requests

    async def _listen(self, nursery: trio.Nursery) -> None:
        buffer = bytearray()
        while True:
            data = await self._stream.receive_some(65536)
            if not data:
                return
            start = len(buffer)
            buffer += data
            end = buffer.find(b"\n", start)
            while end >= 0:
                line = bytes(buffer[:end])
                del buffer[: end + 1]
                if line.strip():
                    await self._take(line, nursery)
                end = buffer.find(b"\n")
            if len(buffer) > MAX_LINE:
                text = f"A request is longer than {MAX_LINE} bytes."
                await self._answer(None, error=PlainError(text, "Send shorter requests."))
                return

    async def _take(self, line: bytes, nursery: trio.Nursery) -> None:
        try:
            if len(line) > MAX_LINE:
                raise ValueError(f"it is longer than {MAX_LINE} bytes")
            request = _requests.decode(line)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            sentence = f"The request cannot be read: {clean(error)}."
            await self._answer(
                None, error=PlainError(sentence, 'Send {"id": 1, "request": "status"} lines.')
            )
            return
        if request.request not in NAMES:
            sentence = f"There is no request {clean(request.request, 40)!r}."
            step = f"The requests are {', '.join(NAMES)}."
            await self._answer(request.id, error=PlainError(sentence, step))
        elif self._open_requests >= MAX_OPEN_REQUESTS:
            sentence = f"{MAX_OPEN_REQUESTS} requests of this connection wait already."
            await self._answer(request.id, error=PlainError(sentence, "Wait for their answers."))
        else:
            self._open_requests += 1
            nursery.start_soon(self._serve, request)

    async def _serve(self, request: Request) -> None:
        try:
            future = self._door.request(request.request, request.params)
            result = await _result(future)
        except PlainError as error:
            await self._answer(request.id, error=error)
        except Exception as error:
            # The handler is the node's: its failure must not take the connection along.
            name = type(error).__name__
            sentence = f"The node could not answer {request.request} ({name}: {clean(error)})."
            await self._answer(request.id, error=PlainError(sentence))
        else:
            await self._answer(request.id, result=result)
        finally:
            self._open_requests -= 1

    async def _answer(
        self,
        number: int | None,
        *,
        result: dict[str, Any] | None = None,
        error: PlainError | None = None,
    ) -> None:
        line: dict[str, Any] = {"id": number}
        if error is not None:
            line["error"] = {"sentence": error.sentence, "next_step": error.next_step}
        else:
            line["result"] = result
        with suppress(trio.TooSlowError):
            await self._send(_encoder.encode(line) + b"\n")


async def _result(future: Future[dict[str, Any]]) -> dict[str, Any]:
    """Wait for a concurrent future inside trio."""
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def finished(_: Future[dict[str, Any]]) -> None:
        # The loop may be over by the time a late answer comes.
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    future.add_done_callback(finished)
    await done.wait()
    return future.result()
