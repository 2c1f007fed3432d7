"""Lines between two ports of 127.0.0.1 that are worse than loopback: slow, lossy, silent, cut.

`TcpLine` passes bytes on as TCP does over such a line: in order, late, and after a loss not at all
until it was sent again. `UdpLine` passes packets on, or drops, delays and overtakes them, as QUIC
sees it. Both run in the trio loop of the test; `running_line` runs one beside a test that waits.
"""

from __future__ import annotations

import contextlib
import errno
import math
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import trio

CHUNK = 64 * 1024
RESEND_S = 0.2
"""TCP's least time until it sends a lost segment again when nothing follows it (Linux)."""
ON_THE_LINE = 32 * 1024 * 1024
"""Most bytes on the way in one direction of one connection: the line's bounded buffer."""
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


@dataclass
class Quality:
    """How bad a line is; may be changed while it runs.

    delay: seconds one way; jitter: up to so many more; rate: bytes per second each way (0: as
    fast as it goes); loss: chance for a chunk (TCP: 64 KiB) or packet (UDP) to be lost
    overtaking: chance for a packet to come `delay` later than those after it (UDP)
    """

    delay: float = 0.0
    jitter: float = 0.0
    rate: float = 0.0
    loss: float = 0.0
    overtaking: float = 0.0


class _Direction:
    """One direction of one connection: chunks with the time at which they arrive."""

    def __init__(self, line: TcpLine) -> None:
        self._line = line
        self._queue: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._ended = False
        self._changed = trio.lowlevel.ParkingLot()
        self._free_at = 0.0
        self._last = 0.0

    def _arrives(self, size: int) -> float:
        quality, now = self._line.quality, trio.current_time()
        rng = self._line.rng
        self._free_at = max(self._free_at, now)
        if quality.rate:
            self._free_at += size / quality.rate
        at = self._free_at + quality.delay + rng.uniform(0, quality.jitter)
        if rng.random() < quality.loss:
            at += RESEND_S + 2 * quality.delay
            self._line.lost += 1
        self._last = max(self._last, at)  # what follows a lost segment waits for it
        return self._last

    async def take(self, source: trio.SocketStream) -> None:
        """Read from the sender; never more than the line holds, nothing while it is silent."""
        while True:
            await self._line.speaking.wait()
            data = await source.receive_some(CHUNK)
            if not data:
                break
            self._queue.append((self._arrives(len(data)), bytes(data)))
            self._size += len(data)
            self._changed.unpark_all()
            room = ON_THE_LINE
            if self._line.quality.rate:  # a slow line holds a quarter of a second
                room = int(self._line.quality.rate / 4) + CHUNK
            while self._size > room:
                await self._changed.park()
        self._ended = True
        self._changed.unpark_all()

    async def give(self, target: trio.SocketStream) -> None:
        """Hand to the receiver what has arrived."""
        while True:
            if not self._queue:
                if self._ended:
                    with contextlib.suppress(*GONE):
                        await target.send_eof()
                    return
                await self._changed.park()
                continue
            at, data = self._queue[0]
            await trio.sleep_until(at)
            await self._line.speaking.wait()
            await target.send_all(data)
            self._queue.popleft()
            self._size -= len(data)
            self._line.passed += len(data)
            self._changed.unpark_all()


class TcpLine:
    """Leads from its own `port` to `target` on 127.0.0.1."""

    def __init__(self, target: int, quality: Quality | None = None, *, seed: int = 1) -> None:
        self.target = target
        self.quality = quality or Quality()
        self.rng = random.Random(seed)
        self.port = 0
        self.passed = 0
        self.lost = 0
        self.opened = 0
        self.speaking = trio.Event()
        self.speaking.set()
        self._open: dict[trio.CancelScope, tuple[trio.SocketStream, ...]] = {}

    def silence(self) -> None:
        """From now on nothing passes and nothing is refused: the line is a black hole."""
        if self.speaking.is_set():
            self.speaking = trio.Event()

    def speak(self) -> None:
        """What had been held is delivered, as TCP would by sending it again."""
        self.speaking.set()

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        found = list(self._open.items())
        for scope, sides in found:
            for side in sides:
                # No lingering: the kernel sends RST instead of FIN.
                with contextlib.suppress(*GONE):
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            scope.cancel()
        return len(found)

    async def _carry(self, near: trio.SocketStream) -> None:
        await self.speaking.wait()
        try:
            far = await trio.open_tcp_stream("127.0.0.1", self.target)
        except OSError:
            await trio.aclose_forcefully(near)
            return
        self.opened += 1
        scope = trio.CancelScope()
        self._open[scope] = (near, far)
        try:
            with scope, contextlib.suppress(*GONE):
                for side in (near, far):
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                async with near, far, trio.open_nursery() as nursery:
                    for source, sink in ((near, far), (far, near)):
                        nursery.start_soon(self._one_way, nursery, source, sink)
        finally:
            del self._open[scope]

    async def _one_way(
        self, nursery: trio.Nursery, source: trio.SocketStream, sink: trio.SocketStream
    ) -> None:
        way = _Direction(self)
        try:
            async with trio.open_nursery() as both:
                both.start_soon(way.take, source)
                both.start_soon(way.give, sink)
        except* GONE:
            nursery.cancel_scope.cancel()  # one side is gone: so is the connection

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled."""
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, self._carry, [listener])
            task_status.started()


class UdpLine:
    """The same for packets. `sent` and `lost` count both directions."""

    def __init__(self, target: int, quality: Quality | None = None, *, seed: int = 1) -> None:
        self.target = target
        self.quality = quality or Quality()
        self.rng = random.Random(seed)
        self.port = 0
        self.sent = 0
        self.lost = 0
        self.overtaken = 0
        self.silent = False
        self._nursery: trio.Nursery
        self._on_the_way = 0

    async def _deliver(self, send: Any, data: bytes, after: float) -> None:
        await trio.sleep(after)
        self._on_the_way -= len(data)
        try:
            await send(data)
        except OSError as error:
            # The port may be closed by now, or the buffer full: either way a packet is lost.
            if error.errno not in (errno.ECONNREFUSED, errno.ENOBUFS, errno.EBADF):
                raise
            self.lost += 1

    def _pass(self, send: Any, data: bytes) -> None:
        quality = self.quality
        if self.silent or self.rng.random() < quality.loss or self._on_the_way > ON_THE_LINE:
            self.lost += 1
            return
        after = quality.delay + self.rng.uniform(0, quality.jitter)
        if self.rng.random() < quality.overtaking:
            after += max(quality.delay, 0.005)
            self.overtaken += 1
        self.sent += 1
        self._on_the_way += len(data)
        self._nursery.start_soon(self._deliver, send, data, after)

    async def _back(self, face: Any, far: Any, origin: Any) -> None:
        async def send(data: bytes) -> None:
            await face.sendto(data, origin)

        while True:
            try:
                data = await far.recv(CHUNK)
            except ConnectionRefusedError:
                continue
            self._pass(send, data)

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled."""
        behind: dict[Any, Any] = {}
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as face:
            face.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
            await face.bind(("127.0.0.1", 0))
            self.port = face.getsockname()[1]
            try:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    task_status.started()
                    while True:
                        data, origin = await face.recvfrom(CHUNK)
                        if origin not in behind:
                            far = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                            await far.connect(("127.0.0.1", self.target))
                            behind[origin] = far
                            nursery.start_soon(self._back, face, far, origin)
                        self._pass(behind[origin].send, data)
            finally:
                for far in behind.values():
                    far.close()


@asynccontextmanager
async def line(kind: type[Any], target: int, quality: Quality | None = None) -> AsyncIterator[Any]:
    """A running `TcpLine` or `UdpLine`."""
    made = kind(target, quality)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()


class Beside:
    """A TcpLine in a thread of its own; `do` runs a method of it in its loop."""

    def __init__(self, target: int, quality: Quality) -> None:
        self.line = TcpLine(target, quality)
        self._token: trio.lowlevel.TrioToken
        self._scope = trio.CancelScope()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,), daemon=True)

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.line.run)
                self._ready.set()

    def do(self, name: str) -> Any:
        return trio.from_thread.run_sync(getattr(self.line, name), trio_token=self._token)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(5), "the line does not start"

    def stop(self) -> None:
        trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self._thread.join(5)
        assert not self._thread.is_alive()


@contextmanager
def running_line(target: int, quality: Quality) -> Iterator[Beside]:
    """A TcpLine that runs beside the test."""
    made = Beside(target, quality)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def chunks_of(size: int) -> int:
    """How many chunks a line makes of so many bytes, at least."""
    return math.ceil(size / CHUNK)
