"""Connected pairs for the tests of the fast stream: in memory, over sockets, whole hosts."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing
from libp2p.abc import INetStream, INotifee, IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.host.basic_host import BasicHost
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from multiaddr import Multiaddr

from node.network.dialer import Dialer
from node.network.fast import AES_GCM, CHACHA_POLY, FastSession, FastYamux, Limits
from node.network.fast.noise_messages import Opener, Sealer
from node.network.fast.stream import FastStream
from node.network.host import build_host, running_host
from node.network.identity import Identity
from node.network.streams import open_stream


class Pipe(IRawConnection):
    """A raw connection over any trio stream."""

    def __init__(self, stream: Any, *, is_initiator: bool) -> None:
        self.stream = stream
        self.is_initiator = is_initiator

    async def read(self, n: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(n))

    async def write(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def close(self) -> None:
        await self.stream.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None

    def get_transport_addresses(self) -> list[Multiaddr]:
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT


IDENTITIES = [Identity.create(), Identity.create()]


def _session(conn: IRawConnection, index: int, sending: bytes, receiving: bytes) -> FastSession:
    own, other = IDENTITIES[index], IDENTITIES[1 - index]
    return FastSession(
        local_peer=own.id,
        local_private_key=own.key_pair.private_key,
        remote_peer=other.id,
        remote_permanent_pubkey=other.key_pair.public_key,
        is_initiator=index == 0,
        conn=conn,
        sealer=Sealer(sending),
        opener=Opener(receiving),
    )


def session_pair(conns: tuple[IRawConnection, IRawConnection]) -> tuple[FastSession, FastSession]:
    """Two ends of a session, as after a handshake."""
    one, two = os.urandom(32), os.urandom(32)
    return _session(conns[0], 0, one, two), _session(conns[1], 1, two, one)


def memory_conns() -> tuple[IRawConnection, IRawConnection]:
    """In-memory connections without a limit."""
    left, right = trio.testing.memory_stream_pair()
    return Pipe(left, is_initiator=True), Pipe(right, is_initiator=False)


def tight_conns() -> tuple[IRawConnection, IRawConnection]:
    """In-memory connections on which a write waits until it has been read."""
    left, right = trio.testing.lockstep_stream_pair()
    return Pipe(left, is_initiator=True), Pipe(right, is_initiator=False)


async def tcp_conns() -> tuple[IRawConnection, IRawConnection]:
    """Raw connections over a TCP socket on loopback, as py-libp2p makes them."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    left = await trio.open_tcp_stream("127.0.0.1", port)
    right = await listener.accept()
    await listener.aclose()
    return (
        RawConnection(TrioTCPStream(left), True),
        RawConnection(TrioTCPStream(right), False),
    )


@asynccontextmanager
async def muxers(
    conns: tuple[IRawConnection, IRawConnection],
    limits: tuple[Limits | None, Limits | None] = (None, None),
) -> AsyncIterator[tuple[FastYamux, FastYamux]]:
    """Two running muxers; both are closed at the end."""
    left, right = session_pair(conns)
    one = FastYamux(left, IDENTITIES[1].id, limits=limits[0])
    two = FastYamux(right, IDENTITIES[0].id, limits=limits[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.start)
        nursery.start_soon(two.start)
        await one.event_started.wait()
        await two.event_started.wait()
        yield one, two
        await one.close()
        await two.close()


class _Connected(INotifee):
    """Tells when the listening side has the connection too."""

    def __init__(self) -> None:
        self.event = trio.Event()

    async def connected(self, network: object, conn: object) -> None:
        self.event.set()

    async def _ignore(self, network: object, what: object) -> None:
        return

    disconnected = opened_stream = closed_stream = listen = listen_close = _ignore


Kind = str  # a key of SUITES or "stock"
# What a host of ours offers, whatever this machine's processor can do.
SUITES = {"ours": (AES_GCM, CHACHA_POLY), "aes": (AES_GCM,), "chacha": (CHACHA_POLY,)}
DIRECTIONS = [("ours", "stock"), ("stock", "ours"), ("ours", "ours")]


@asynccontextmanager
async def hosts(dialling: Kind, listening: Kind) -> AsyncIterator[tuple[BasicHost, BasicHost]]:
    """Two connected hosts over TCP; the first has dialled the second."""
    one, two = (
        build_host(Identity.create(), "tcp", stock=kind == "stock", suites=SUITES.get(kind))
        for kind in (dialling, listening)
    )
    connected = _Connected()
    two.get_network().register_notifee(connected)
    async with (
        running_host(one, "127.0.0.1", 0, "tcp"),
        running_host(two, "127.0.0.1", 0, "tcp") as addresses,
    ):
        await Dialer(one).dial(two.get_id(), addresses[0])
        await connected.event.wait()
        yield one, two


async def opened(host: BasicHost, to: BasicHost, protocol: str) -> INetStream:
    """A stream of `protocol` between two connected hosts."""
    stream, _ = await open_stream(host, to.get_id(), protocol)
    return stream


async def send_random(write: Callable[[bytes], Any], size: int, seed: int) -> str:
    """Write `size` bytes in pieces of random sizes; their SHA-256."""
    chance, digest = random.Random(seed), hashlib.sha256()
    while size:
        data = chance.randbytes(min(size, chance.choice((1, 100, 5000, 65507, 70_000, 1_500_000))))
        digest.update(data)
        await write(data)
        size -= len(data)
    return digest.hexdigest()


async def read_hash(read: Callable[[int], Any], size: int, end: type[Exception]) -> str:
    """Read `size` bytes or to the end; their SHA-256."""
    digest = hashlib.sha256()
    while size:
        try:
            data = await read(min(size, 100_000))
        except end:
            break
        digest.update(data)
        size -= len(data)
    return digest.hexdigest()


async def stream_pair(one: FastYamux, two: FastYamux) -> tuple[FastStream, FastStream]:
    """A stream that `one` opened, at both ends."""
    return await one.open_stream(), await two.accept_stream()


async def read_all(stream: FastStream) -> bytes:
    """Everything until the other side's FIN."""
    parts = []
    while True:
        try:
            parts.append(await stream.read(100_000))
        except MuxedStreamEOF:
            return b"".join(parts)
