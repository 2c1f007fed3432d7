"""Hosts that attack a DHT: ids near a key, answers of their choosing, floods of providers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import trio
import varint
from hosts import Here
from libp2p.abc import INetStream
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.kad_dht.utils import sort_peer_ids_by_distance
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from node.network.identity import Identity
from node.network.streams import read_exactly

KAD = str(PROTOCOL_ID)
Answer = Callable[[Message, Message], Message]
"""From the question and an empty answer to what is answered."""


def near(key: bytes, count: int, among: int) -> list[Identity]:
    """The `count` of `among` new identities that are closest to `key`."""
    made = {item.id: item for item in (Identity.create() for _ in range(among))}
    return [made[peer] for peer in sort_peer_ids_by_distance(key, list(made))[:count]]


def kad_key(key: str) -> bytes:
    """The key of providers as it goes over the wire."""
    raw = key.encode("utf-8")
    return raw if len(raw) <= 80 else b"\x12\x20" + hashlib.sha256(raw).digest()


async def read_message(stream: INetStream) -> Message:
    """The next question of a stream."""
    size = shift = 0
    while True:
        byte = (await read_exactly(stream, 1))[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
    message = Message()
    message.ParseFromString(await read_exactly(stream, size))
    return message


async def write_message(stream: INetStream, message: Message) -> None:
    body = message.SerializeToString()
    await stream.write(varint.encode(len(body)) + body)


class Evil:
    """Makes a host answer every question of the DHT as `answer` says; counts them by type."""

    def __init__(self, here: Here, answer: Answer) -> None:
        self.here = here
        self.asked: dict[int, int] = {}
        self._answer = answer
        here.serve(KAD, self._serve)

    async def _serve(self, stream: INetStream) -> None:
        try:
            while True:
                question = await read_message(stream)
                self.asked[question.type] = self.asked.get(question.type, 0) + 1
                answer = Message(type=question.type, key=question.key)
                await write_message(stream, self._answer(question, answer))
        except (EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.reset()


def named(entries: Iterable[object], peers: Iterable[tuple[ID, str]]) -> None:
    """Put peers with an address each into a part of an answer."""
    for peer, address in peers:
        entry = entries.add()  # type: ignore[attr-defined]
        entry.id = peer.to_bytes()
        entry.addrs.append(Multiaddr(address).to_bytes())


def swallows(others: list[Identity]) -> Answer:
    """Says yes to every put, has nothing, and knows nobody but its like."""

    def answer(question: Message, made: Message) -> Message:
        if question.type == Message.MessageType.PUT_VALUE:
            made.record.CopyFrom(question.record)
        named(made.closerPeers, [(item.id, "/ip4/127.0.0.1/tcp/9") for item in others])
        return made

    return answer
