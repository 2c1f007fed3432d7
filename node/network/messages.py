"""One JSON request, one JSON answer, each half-closed: `/json-message/1.0` and its kin."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import trio
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost

from node.network.host import quiet_close, quiet_reset, set_handler
from node.network.peers import Peers
from node.network.streams import (
    StreamUnavailable,
    TooLong,
    end_writing,
    open_stream,
    read_to_end,
)

JSON_MESSAGE = "/json-message/1.0"
MAX_MESSAGE_BYTES = 1 << 20
READ_S = 15.0
MAX_SERVING = 64
MAX_SERVING_PER_PEER = 8

# (raw request or None when it was too long, peer id) -> raw answer
Serve = Callable[[bytes | None, str], Awaitable[bytes]]


class RequestFailed(Exception):
    """No answer came. `timeout` tells silence from refusal."""

    def __init__(self, reason: str, *, timeout: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.timeout = timeout


class JsonProtocol:
    """Both sides of one half-closed request/answer protocol."""

    def __init__(
        self,
        host: BasicHost,
        peers: Peers,
        protocol: str = JSON_MESSAGE,
        limit: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._host = host
        self._peers = peers
        self._protocol = protocol
        self._limit = limit
        self._serving: dict[str, int] = {}
        self.sent = 0
        self.served = 0

    async def request(self, peer_id: str, body: bytes, timeout: float) -> tuple[bytes, float]:
        """Send `body` and return the answer and how long it took in milliseconds.

        Raises RequestFailed within `timeout` seconds.
        """
        entry = self._peers.get(peer_id)
        if entry is None:
            raise RequestFailed("the peer is not known")
        start = time.perf_counter()
        self.sent += 1
        with trio.move_on_after(timeout):
            if not await self._peers.connect(peer_id, force=True):
                raise RequestFailed("the peer cannot be reached")
            try:
                stream, _ = await open_stream(self._host, entry.id, self._protocol, timeout=timeout)
            except StreamUnavailable as error:
                raise RequestFailed(str(error)) from error
            done = False
            try:
                await stream.write(body)
                await end_writing(stream)
                answer = await read_to_end(stream, self._limit)
                done = True
            except TooLong as error:
                raise RequestFailed("the answer is too long") from error
            except Exception as error:
                raise RequestFailed(f"the stream broke ({type(error).__name__})") from error
            finally:
                await (quiet_close if done else quiet_reset)(stream)
            self._peers.heard(peer_id)
            return answer, (time.perf_counter() - start) * 1000
        raise RequestFailed(f"no answer within {timeout:.0f} s", timeout=True)

    def serve(self, serve: Serve) -> None:
        """Answer requests with `serve`. A request that never ends is cut off after READ_S."""

        async def handle(stream: INetStream) -> None:
            peer_id = str(stream.muxed_conn.peer_id)
            mine = self._serving.get(peer_id, 0)
            if mine >= MAX_SERVING_PER_PEER or sum(self._serving.values()) >= MAX_SERVING:
                await quiet_reset(stream)
                return
            self._serving[peer_id] = mine + 1
            try:
                await self._answer(stream, peer_id, serve)
            finally:
                self._serving[peer_id] -= 1
                if not self._serving[peer_id]:
                    del self._serving[peer_id]

        set_handler(self._host, self._protocol, handle)

    async def _answer(self, stream: INetStream, peer_id: str, serve: Serve) -> None:
        raw: bytes | None = None
        with trio.move_on_after(READ_S) as deadline:
            try:
                raw = await read_to_end(stream, self._limit)
            except TooLong:
                raw = None
        if deadline.cancelled_caught:
            await quiet_reset(stream)
            return
        self._peers.heard(peer_id)
        self.served += 1
        answer = await serve(raw, peer_id)
        with trio.move_on_after(READ_S):
            await stream.write(answer)
            await end_writing(stream)
        await quiet_close(stream)
