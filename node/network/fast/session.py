"""A Noise session after its handshake.

Encrypting and queueing are one step without an await, so a cancelled writer leaves whole messages
behind and nonces never skip; whoever comes next, or the pump, sends them. Any failure of
authentication closes the connection.
"""

from __future__ import annotations

from typing import Any, cast

import trio
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.crypto.keys import PrivateKey, PublicKey
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.security.base_session import BaseSession
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession
from multiaddr import Multiaddr

from node.network.fast.noise_messages import (
    MAX_PLAINTEXT,
    BadMessage,
    Buffer,
    Opener,
    Sealer,
)
from node.network.fast.suites import CHACHA_POLY, Suite
from node.network.fast.wire import Wire, wire_of

QUEUE_BYTES = 512 * 1024
PARTS_PER_WRITE = 512  # below the kernel's limit of 1024 pieces per call


class FastSession(BaseSession):
    """An authenticated, encrypted connection: one reader, any number of writers.

    `read` and `write` are the standard interface; the muxer uses `receive`, `seal` and `flush`.
    Every failure is a ConnectionClosedError.
    """

    def __init__(
        self,
        *,
        local_peer: ID,
        local_private_key: PrivateKey,
        remote_peer: ID,
        remote_permanent_pubkey: PublicKey,
        is_initiator: bool,
        conn: IRawConnection,
        sealer: Sealer,
        opener: Opener,
        wire: Wire | None = None,
    ) -> None:
        super().__init__(
            local_peer=local_peer,
            local_private_key=local_private_key,
            remote_peer=remote_peer,
            remote_permanent_pubkey=remote_permanent_pubkey,
            is_initiator=is_initiator,
        )
        self.conn = conn
        self._sealer = sealer
        self._opener = opener
        self._wire = wire or wire_of(conn)
        self._unread = bytearray()
        self._queue: list[Buffer] = []
        self.queued = 0
        self._draining = False
        self._closed = False
        self._failure: ConnectionClosedError | None = None
        self._room = trio.lowlevel.ParkingLot()
        self._pump = trio.lowlevel.ParkingLot()

    @classmethod
    def after_handshake(
        cls, conn: IRawConnection, stock: SecureSession, suite: Suite = CHACHA_POLY
    ) -> FastSession:
        """Take over the keys of a session whose handshake py-libp2p has just finished."""
        transport = cast(NoiseTransportReadWriter, stock.conn)
        protocol = cast(Any, transport.noise_state.noise_protocol)
        sending, receiving = protocol.cipher_state_encrypt, protocol.cipher_state_decrypt
        return cls(
            local_peer=stock.get_local_peer(),
            local_private_key=stock.get_local_private_key(),
            remote_peer=stock.get_remote_peer(),
            remote_permanent_pubkey=stock.get_remote_public_key(),
            is_initiator=stock.is_initiator,
            conn=conn,
            sealer=Sealer(sending.k, sending.n, suite),
            opener=Opener(receiving.k, receiving.n, suite),
        )

    # ------------------------------------------------------------ sending

    def seal(self, plaintext: Buffer) -> None:
        """Queue one message of at most MAX_PLAINTEXT bytes, without sending it yet."""
        if self._failure is None:
            prefix, sealed = self._sealer.seal(plaintext)
            self._queue.append(prefix)
            self._queue.append(sealed)
            self.queued += 2 + len(sealed)

    @property
    def full(self) -> bool:
        """Whether a writer should `wait_room` before it seals more."""
        return self.queued >= QUEUE_BYTES

    def flush(self) -> None:
        """Send what the wire takes without waiting; the pump sends the rest. Never raises."""
        if self._draining or not self._queue:
            return
        try:
            self._sent(self._wire.write_now(self._queue[:PARTS_PER_WRITE]))
        except ConnectionClosedError as error:
            self._fail(error)
        if self._queue:
            self._pump.unpark_all()

    async def wait_room(self) -> None:
        """Wait until less than QUEUE_BYTES are queued; raises when the session has failed."""
        while self._failure is None and self.full:
            await self._room.park()
        if self._failure is not None:
            raise self._failed()

    async def drain(self) -> None:
        """Wait until everything queued is with the operating system."""
        while self._queue:
            if self._draining:
                await self._room.park()
                continue
            self._draining = True
            try:
                while self._queue:
                    self._sent(await self._wire.write_some(self._queue[:PARTS_PER_WRITE]))
            except ConnectionClosedError as error:
                self._fail(error)
            finally:
                self._draining = False
                self._room.unpark_all()
        if self._failure is not None:
            raise self._failed()

    async def pump(self) -> None:
        """Send whatever `flush` could not, until the session fails (ConnectionClosedError)."""
        while True:
            await self.drain()
            await self._pump.park()

    def _sent(self, count: int) -> None:
        if self._failure is not None:
            return
        self.queued -= count
        if not self.queued:
            self._queue.clear()
        else:
            index = 0
            while count:
                size = len(self._queue[index])
                if size > count:
                    self._queue[index] = memoryview(self._queue[index])[count:]
                    break
                count -= size
                index += 1
            del self._queue[:index]
        if self._room and self.queued <= QUEUE_BYTES // 2:
            self._room.unpark_all()

    def _fail(self, error: ConnectionClosedError) -> None:
        if self._failure is None:
            self._failure = error
        self._queue.clear()
        self.queued = 0
        self._room.unpark_all()
        self._pump.unpark_all()

    def _failed(self) -> ConnectionClosedError:
        return ConnectionClosedError(str(self._failure) or "the connection is closed")

    async def write(self, data: bytes) -> None:
        """Send `data` as one message per 65519 bytes; a begun write is finished."""
        view = memoryview(data)
        with trio.CancelScope(shield=True):
            for start in range(0, len(view), MAX_PLAINTEXT):
                self.seal(view[start : start + MAX_PLAINTEXT])
                if self.full:
                    await self.drain()
            await self.drain()

    # ------------------------------------------------------------ receiving

    async def receive(self) -> list[Buffer]:
        """Wait for data; the plaintexts of every message that has arrived, at least one."""
        if self._unread:
            unread, self._unread = bytes(self._unread), bytearray()
            return [unread]
        return await self._receive()

    async def _receive(self) -> list[Buffer]:
        while True:
            if self._failure is not None:
                raise self._failed()
            try:
                count = await self._wire.read_into(self._opener.space())
                if not count:
                    raise ConnectionClosedError("the other side closed the connection")
                messages = self._opener.filled(count)
            except BadMessage as error:
                self._fail(ConnectionClosedError(str(error)))
                await self.close()
                raise self._failed() from error
            except ConnectionClosedError as error:
                self._fail(error)
                raise
            if messages:
                return messages

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes, fewer only at the end; with None whatever comes next."""
        if n == 0:
            return b""
        while not self._unread or (n is not None and len(self._unread) < n):
            try:
                messages = await self._receive()
            except ConnectionClosedError:
                if self._unread:
                    break
                raise
            for message in messages:
                self._unread += message
        size = len(self._unread) if n is None else n
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        return taken

    # ------------------------------------------------------------ the rest of the interface

    async def close(self) -> None:
        """Close the connection; whatever waits on it ends with ConnectionClosedError."""
        self._fail(ConnectionClosedError("closed on this side"))
        if not self._closed:
            self._closed = True
            await self._wire.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.conn.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        return self.conn.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        return self.conn.get_connection_type()
