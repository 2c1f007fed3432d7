"""The Yamux connection: many streams over one Noise session.

One task reads and hands out what has arrived, one sends what could not be sent at once; writers
encrypt and send by themselves. Memory is bounded by `Limits`, whatever the other side does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import trio
from libp2p.abc import IMuxedConn
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable
from multiaddr import Multiaddr

from node.network.fast.frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    GO_AWAY_NORMAL,
    GO_AWAY_PROTOCOL_ERROR,
    INITIAL_WINDOW,
    MAX_LENGTH,
    MAX_STREAM_ID,
    MORE,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    Event,
    FrameError,
    FrameReader,
    frame,
)
from node.network.fast.session import QUEUE_BYTES, FastSession
from node.network.fast.stream import FastStream

CLOSE_S = 1.0
LINGER_S = 60.0
# Answers (ACK, ping, reset) to a peer that does not read; data writers stay far below.
MAX_QUEUED = 2 * QUEUE_BYTES + 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """What one connection may cost.

    `max_window` bytes per stream, `growth` bytes of window beyond the standard 256 KiB for all
    streams together, `max_unread` bytes received and not yet read for all streams together.
    Credit comes back per half window, so over a long way half of `max_window` is under way: it is
    twice what a transfer asks for at once.
    """

    max_inbound: int = 512
    max_outbound: int = 256
    max_window: int = 2 * MAX_LENGTH
    growth: int = 3 * MAX_LENGTH
    max_unread: int = 4 * MAX_LENGTH


class FastYamux(IMuxedConn):
    """A Yamux connection as py-libp2p's swarm uses it."""

    negotiated_muxer_protocol: str | None = None
    negotiated_security_protocol: str | None = None

    def __init__(
        self,
        conn: FastSession,
        peer_id: ID,
        *,
        limits: Limits | None = None,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.session = conn
        self.secured_conn = conn
        self.peer_id = peer_id
        self.limits = limits or Limits()
        self.on_close = on_close
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self.streams: dict[int, FastStream] = {}
        self.reason = ""
        self._next_id = 1 if conn.is_initiator else 2
        self._closing = False
        self._remote_gone = False
        self._scope: trio.CancelScope | None = None
        self._frames = FrameReader()
        self._accepted: deque[FastStream] = deque()
        self._acceptors = trio.lowlevel.ParkingLot()
        self._slots = trio.lowlevel.ParkingLot()
        self._holding: set[int] = set()
        self._inbound = 0
        self._grown = 0
        self._unread = 0

    # ------------------------------------------------------------ running and closing

    @property
    def is_initiator(self) -> bool:
        return self.session.is_initiator

    @property
    def is_established(self) -> bool:
        return self.event_started.is_set() and not self._closing

    @property
    def is_closed(self) -> bool:
        return self.event_closed.is_set()

    async def start(self) -> None:
        """Serve the connection until it ends; then tell `on_close`."""
        if self.event_started.is_set():
            return
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            try:
                if not self._closing:
                    nursery.start_soon(self._pump)
                    self.event_started.set()
                    await self._receive()
            finally:
                self._lose_streams()
                # Closing is what ends a write that cannot be cancelled, so it comes first.
                with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                    await self.session.close()
                self.event_started.set()
                self.event_closed.set()
                nursery.cancel_scope.cancel()
        if self.on_close is not None:
            await self.on_close()

    async def _pump(self) -> None:
        try:
            await self.session.pump()
        except ConnectionClosedError as error:
            self._end(str(error))

    async def _receive(self) -> None:
        session = self.session
        try:
            while True:
                for message in await session.receive():
                    for event in self._frames.feed(message):
                        self._handle(event)
                session.flush()
        except ConnectionClosedError as error:
            self._end(str(error))
        except FrameError as error:
            session.seal(frame(GO_AWAY, 0, 0, GO_AWAY_PROTOCOL_ERROR))
            with trio.move_on_after(CLOSE_S), suppress(ConnectionClosedError):
                await session.drain()
            self._end(str(error))

    def _end(self, reason: str) -> None:
        """Have `start` finish; safe to call from anywhere, any number of times."""
        self.reason = self.reason or reason
        self._closing = True
        if self._scope is not None:
            self._scope.cancel()

    def _lose_streams(self) -> None:
        self._closing = True
        streams = list(self.streams.values())
        self.streams.clear()
        self._accepted.clear()
        for stream in streams:
            stream.on_lost()
        self._acceptors.unpark_all()
        self._slots.unpark_all()

    async def close(self, error_code: int = GO_AWAY_NORMAL) -> None:
        """Send what is queued (for at most a second), say goodbye and close."""
        if self._closing:
            return
        self._closing = True
        self.session.seal(frame(GO_AWAY, 0, 0, error_code))
        self.session.flush()
        try:
            with trio.move_on_after(CLOSE_S):
                await self.session.drain()
        except ConnectionClosedError as error:
            self.reason = str(error)
        finally:
            self._end("closed on this side")
            self._lose_streams()
            if self._scope is None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                    await self.session.close()
                self.event_closed.set()
        await self.event_closed.wait()

    # ------------------------------------------------------------ streams

    async def open_stream(self) -> FastStream:
        """A new stream; waits while too many of this side's are open."""
        while not self._gone and len(self._holding) >= self.limits.max_outbound:
            await self._slots.park()
        if self._gone or self._next_id > MAX_STREAM_ID:
            raise MuxedConnUnavailable("the connection is closed or closing")
        stream = FastStream(self, self._next_id, is_initiator=True)
        self._next_id += 2
        self.streams[stream.stream_id] = stream
        self._holding.add(stream.stream_id)
        self.session.seal(frame(WINDOW_UPDATE, SYN, stream.stream_id))
        self.session.flush()
        return stream

    @property
    def _gone(self) -> bool:
        return self._closing or self._remote_gone

    async def accept_stream(self) -> FastStream:
        """The next stream the other side opens; MuxedConnUnavailable when there will be none."""
        while not self._accepted:
            if self._closing:
                raise MuxedConnUnavailable("the connection is closed")
            await self._acceptors.park()
        return self._accepted.popleft()

    def forget(self, stream: FastStream) -> None:
        """A stream has ended in both directions, or at once."""
        if self.streams.pop(stream.stream_id, None) is None:
            return
        self._unread -= stream.unread
        self._grown -= stream.window - INITIAL_WINDOW
        if not stream.is_initiator:
            self._inbound -= 1
        self.release_slot(stream)
        if self._remote_gone and not self.streams:
            self._end("the other side closed the connection")

    def release_slot(self, stream: FastStream) -> None:
        """This side is done with a stream it opened: another one may be opened."""
        if stream.stream_id in self._holding:
            self._holding.discard(stream.stream_id)
            self._slots.unpark()

    def taken(self, stream: FastStream, size: int) -> None:
        """`size` bytes of a stream have been read."""
        if stream.stream_id in self.streams:
            self._unread -= size

    def grow(self, window: int) -> int:
        """By how much a stream's window may grow now: doubled, within the limits; perhaps 0."""
        room = min(self.limits.max_window - window, self.limits.growth - self._grown)
        grown = max(0, min(window, room))
        self._grown += grown
        return grown

    # ------------------------------------------------------------ frames

    def _handle(self, event: Event) -> None:
        kind, flags, stream_id, length, payload = event
        if kind == MORE or (kind == DATA and not flags):
            stream = self.streams.get(stream_id)
            if stream is not None:
                if kind == DATA:
                    stream.on_frame(length)
                self._store(stream, payload)
                if flags & FIN:
                    stream.on_fin()
            elif not stream_id:
                raise FrameError("data without a stream")
        elif kind == PING:
            if flags & SYN:
                self._answer(frame(PING, ACK, 0, length))
        elif kind == GO_AWAY:
            self._remote_gone = True
            self._slots.unpark_all()
            if length != GO_AWAY_NORMAL or not self.streams:
                self._end(f"the other side closed the connection (code {length})")
        else:
            self._handle_flags(kind, flags, stream_id, length, payload)

    def _handle_flags(
        self, kind: int, flags: int, stream_id: int, length: int, payload: memoryview
    ) -> None:
        if not stream_id:
            raise FrameError("a frame without a stream")
        if flags & SYN and not self._accept(stream_id, flags):
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        if flags & RST:
            stream.on_reset()
            return
        if kind == WINDOW_UPDATE:
            if length:
                stream.on_window(length)
        elif length:
            stream.on_frame(length)
            self._store(stream, payload)
        if flags & FIN:
            stream.on_fin()

    def _store(self, stream: FastStream, payload: memoryview) -> None:
        if not payload:
            return
        self._unread += stream.on_data(payload)
        if self._unread > self.limits.max_unread:
            self._answer(frame(WINDOW_UPDATE, RST, stream.stream_id))
            stream.drop()

    def _accept(self, stream_id: int, flags: int) -> bool:
        """Take a stream the other side opens; False when it is refused."""
        if (stream_id % 2 == 1) == self.is_initiator:
            raise FrameError(f"stream {stream_id} has the id of a stream of this side")
        if stream_id in self.streams:
            raise FrameError(f"stream {stream_id} is opened twice")
        if flags & RST:
            return False
        if self._inbound >= self.limits.max_inbound:
            self._drop_lingering()
        if self._closing or self._inbound >= self.limits.max_inbound:
            self._answer(frame(WINDOW_UPDATE, RST, stream_id))
            return False
        stream = FastStream(self, stream_id, is_initiator=False)
        self.streams[stream_id] = stream
        self._inbound += 1
        self._answer(frame(WINDOW_UPDATE, ACK, stream_id))
        self._accepted.append(stream)
        self._acceptors.unpark()
        return True

    def _drop_lingering(self) -> None:
        """Reset streams this side closed long ago and the other side never finished."""
        before = trio.current_time() - LINGER_S
        for stream in list(self.streams.values()):
            if stream.closed_at is not None and stream.closed_at < before:
                self._answer(frame(WINDOW_UPDATE, RST, stream.stream_id))
                stream.drop()

    def _answer(self, data: bytes) -> None:
        """Queue an answer; the reader must not wait, so a peer that reads none is cut off."""
        self.session.seal(data)
        if self.session.queued > MAX_QUEUED:
            raise FrameError("the other side sends but does not read")

    # ------------------------------------------------------------ the rest of the interface

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.session.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        return self.session.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        return self.session.get_connection_type()
