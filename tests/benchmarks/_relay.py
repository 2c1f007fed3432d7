"""A door that opens late: a port that refuses until `open`, then leads to another port.

With it a node can be told of a bootstrap address at once and still connect only when its shard is
loaded. TCP and UDP (QUIC) are passed on as they are.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from types import TracebackType
from typing import Self

CHUNK = 65536


class LateDoor:
    """Forwards 127.0.0.1:`port` (TCP and UDP) to the given ports once it is open."""

    def __init__(self, port: int, tcp_to: int | None, udp_to: int | None) -> None:
        self.port = port
        self._tcp_to = tcp_to
        self._udp_to = udp_to
        self._closing = False
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        for item in list(self._sockets):
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
            item.close()
        for thread in self._threads:
            thread.join(2.0)

    def open(self) -> None:
        """Listen from now on."""
        if self._tcp_to is not None:
            listener = socket.create_server(("127.0.0.1", self.port))
            self._start(self._accept, listener)
        if self._udp_to is not None:
            face = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            face.bind(("127.0.0.1", self.port))
            self._start(self._datagrams, face)

    def _start(self, work: object, *sockets: socket.socket) -> None:
        self._sockets += sockets
        thread = threading.Thread(target=work, args=sockets, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._closing:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._tcp_to or 0))
            except OSError:
                return
            for side in (near, far):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(self._copy, near, far)
            self._start(self._copy, far, near)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _datagrams(self, face: socket.socket) -> None:
        behind: dict[tuple[str, int], socket.socket] = {}
        before: dict[socket.socket, tuple[str, int]] = {}
        while not self._closing:
            try:
                ready, _, _ = select.select([face, *before], [], [], 0.5)
                for item in ready:
                    if item is not face:
                        face.sendto(item.recv(CHUNK), before[item])
                        continue
                    data, origin = face.recvfrom(CHUNK)
                    if origin not in behind:
                        far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                        far.connect(("127.0.0.1", self._udp_to or 0))
                        self._sockets.append(far)
                        behind[origin], before[far] = far, origin
                    behind[origin].send(data)
            except (OSError, ValueError):
                return
