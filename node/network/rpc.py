"""Kademlia calls to one peer: a kept stream each, a deadline each, bounded answers.

py-libp2p opens and negotiates a new stream per call (5 ms); its server reads calls from one
stream until it ends, so a kept stream does the same work in a fraction. Messages are the standard
`/ipfs/kad/1.0.0` protobufs.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import trio
import varint
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.kad_dht.pb.kademlia_pb2 import Message, Record
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from node.events import Transport
from node.network.addresses import MAX_ADDRESSES, parse_addresses
from node.network.host import quiet_reset
from node.network.identity import parse_peer_id
from node.network.streams import (
    BufferedStream,
    StreamUnavailable,
    end_writing,
    has_better,
    open_stream,
    read_exactly,
)

MAX_ANSWER_BYTES = 256 * 1024
MAX_CLOSER = 40
MAX_PROVIDERS = 40
IDLE_S = 45.0


class CallFailed(Exception):
    """A call to a peer failed; `timeout` tells silence from a refusal."""

    def __init__(self, reason: str, *, timeout: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.timeout = timeout


@dataclass
class Answer:
    """What a peer answered: a value or none, providers, and closer peers with addresses."""

    value: bytes | None = None
    record: Record | None = None
    closer: list[tuple[str, list[Multiaddr]]] = field(default_factory=list)
    providers: list[tuple[str, list[Multiaddr]]] = field(default_factory=list)


@dataclass(eq=False)
class _Kept:
    lock: trio.Lock = field(default_factory=trio.Lock)
    stream: BufferedStream | None = None
    transport: Transport = "tcp"
    used: float = 0.0


class DhtCalls:
    """The calling side of the Kademlia protocol for one host."""

    def __init__(self, host: BasicHost, is_known: Callable[[str], bool]) -> None:
        self._host = host
        self._is_known = is_known
        self._kept: dict[ID, _Kept] = {}

    async def call(self, peer: ID, message: Message, timeout: float) -> Message:
        """Send one message and return the answer; CallFailed within `timeout` seconds.

        A kept stream that turns out to be dead is replaced once.
        """
        kept = self._kept.setdefault(peer, _Kept())
        try:
            with trio.fail_after(timeout):
                async with kept.lock:
                    return await self._exchange(peer, kept, message, timeout)
        except trio.TooSlowError as error:
            raise CallFailed(f"no answer within {timeout:.1f} s", timeout=True) from error

    async def _exchange(self, peer: ID, kept: _Kept, message: Message, timeout: float) -> Message:
        body = message.SerializeToString()
        stale = trio.current_time() - kept.used > IDLE_S
        if stale or has_better(self._host, peer, kept.transport):
            await self._drop(kept)
        fresh = kept.stream is None
        while True:
            try:
                if kept.stream is None:
                    stream, kept.transport = await open_stream(
                        self._host, peer, str(PROTOCOL_ID), timeout=timeout
                    )
                    kept.stream = BufferedStream(stream)
                await kept.stream.write(varint.encode(len(body)) + body)
                answer = await self._read(kept.stream)
                if answer.type != message.type or (answer.key and answer.key != message.key):
                    raise CallFailed("the answer belongs to another question")
                kept.used = trio.current_time()
                return answer
            except (trio.Cancelled, CallFailed):
                with trio.CancelScope(shield=True):
                    await self._drop(kept)
                raise
            except StreamUnavailable as error:
                raise CallFailed(str(error)) from error
            except Exception as error:
                await self._drop(kept)
                if fresh:
                    raise CallFailed(f"refused ({type(error).__name__})") from error
                fresh = True

    async def _read(self, stream: BufferedStream) -> Message:
        size = shift = 0
        while True:
            byte = (await read_exactly(stream, 1))[0]
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
            if shift > 28:
                raise CallFailed("the answer's length is malformed")
        if size > MAX_ANSWER_BYTES:
            raise CallFailed(f"the answer has {size} bytes")
        message = Message()
        try:
            message.ParseFromString(await read_exactly(stream, size))
        except EOFError:
            raise
        except Exception as error:
            raise CallFailed("the answer is malformed") from error
        return message

    async def _drop(self, kept: _Kept) -> None:
        stream, kept.stream = kept.stream, None
        if stream is not None:
            await quiet_reset(cast(INetStream, stream))

    async def forget(self, peer: ID) -> None:
        """Drop the kept stream of a peer that went away."""
        kept = self._kept.pop(peer, None)
        if kept is not None:
            await self._drop(kept)

    # ------------------------------------------------------------ the calls

    async def find_node(self, peer: ID, target: bytes, timeout: float) -> Answer:
        """FIND_NODE: the peers closest to `target` that `peer` knows."""
        message = Message(type=Message.MessageType.FIND_NODE, key=target)
        return self._read_answer(await self.call(peer, message, timeout))

    async def get_value(self, peer: ID, key: bytes, timeout: float) -> Answer:
        """GET_VALUE: the record `peer` has under `key`, and closer peers."""
        message = Message(type=Message.MessageType.GET_VALUE, key=key)
        return self._read_answer(await self.call(peer, message, timeout))

    async def put_value(self, peer: ID, record: Record, timeout: float) -> None:
        """PUT_VALUE: have `peer` store the record; CallFailed when it refuses."""
        message = Message(type=Message.MessageType.PUT_VALUE, key=record.key)
        message.record.CopyFrom(record)
        message.record.ClearField("timeReceived")
        answer = await self.call(peer, message, timeout)
        if answer.type != Message.MessageType.PUT_VALUE or answer.key != record.key:
            raise CallFailed("the peer did not confirm the record")

    async def get_providers(self, peer: ID, key: bytes, timeout: float) -> Answer:
        """GET_PROVIDERS: who offers `key`, and closer peers."""
        message = Message(type=Message.MessageType.GET_PROVIDERS, key=key)
        return self._read_answer(await self.call(peer, message, timeout))

    async def add_provider(
        self, peer: ID, key: bytes, own: ID, addresses: list[Multiaddr], timeout: float
    ) -> None:
        """ADD_PROVIDER: tell `peer` that this node offers `key`.

        The protocol has no answer, but py-libp2p sends one: on a kept stream it would be taken
        for the answer to the next question. So this call has a stream of its own.
        """
        message = Message(type=Message.MessageType.ADD_PROVIDER, key=key)
        entry = message.providerPeers.add()
        entry.id = own.to_bytes()
        entry.addrs.extend(item.to_bytes() for item in addresses)
        body = message.SerializeToString()
        stream = None
        try:
            with trio.fail_after(timeout):
                stream, _ = await open_stream(self._host, peer, str(PROTOCOL_ID), timeout=timeout)
                await stream.write(varint.encode(len(body)) + body)
                await end_writing(stream)
                # Any answer or a plain end will do: py-libp2p resets the stream after its answer.
                with contextlib.suppress(StreamEOF):
                    await stream.read(MAX_ANSWER_BYTES)
        except trio.TooSlowError as error:
            raise CallFailed(f"no answer within {timeout:.1f} s", timeout=True) from error
        except Exception as error:
            raise CallFailed(f"refused ({type(error).__name__})") from error
        finally:
            if stream is not None:
                await quiet_reset(stream)

    def _read_answer(self, message: Message) -> Answer:
        answer = Answer()
        if message.HasField("record") and message.record.value:
            answer.record = message.record
            answer.value = message.record.value
        answer.closer = _read_peers(message.closerPeers, MAX_CLOSER, self._is_known)
        answer.providers = _read_peers(message.providerPeers, MAX_PROVIDERS, self._is_known)
        return answer


def _read_peers(
    entries: Iterable[Any], limit: int, is_known: Callable[[str], bool]
) -> list[tuple[str, list[Multiaddr]]]:
    """Peer ids with their addresses; those already known come without (parsing is the cost)."""
    found: list[tuple[str, list[Multiaddr]]] = []
    for entry in itertools.islice(entries, limit):
        if not 2 <= len(entry.id) <= 64:
            continue
        try:
            peer_id = str(ID(entry.id))
            if is_known(peer_id):
                found.append((peer_id, []))
                continue
            parse_peer_id(peer_id)
            texts = [str(Multiaddr(raw)) for raw in entry.addrs[: MAX_ADDRESSES * 2]]
        except Exception:
            continue
        found.append((peer_id, parse_addresses(texts, peer_id)))
    return found
