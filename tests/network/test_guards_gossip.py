"""Gossip: one bad message is dropped where it arrives, and nothing else happens."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import varint
from hosts import Here, hosts
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from node.network.gossip import MAX_RPC_BYTES, Gossip

MESHSUB = "/meshsub/1.1.0"


class Talker:
    """A host's gossip; refuses what starts with "bad" and keeps the rest."""

    def __init__(self, here: Here) -> None:
        self.here = here
        self.got: list[bytes] = []
        self.refused: list[tuple[bytes, str]] = []
        self.news = trio.Event()
        self.handled: list[bytes] = []
        self.gossip = Gossip(here.host, "test", self.accept, self.receive)
        pubsub = self.gossip._pubsub
        handle = pubsub.push_msg

        async def handle_and_tell(forwarder: ID, message: rpc_pb2.Message) -> None:
            try:
                await handle(forwarder, message)
            finally:
                self.handled.append(bytes(message.signature))
                self.stir()

        pubsub.push_msg = handle_and_tell  # type: ignore[method-assign]

    def accept(self, raw: bytes, author: str, forwarder: str) -> bool:
        if raw.startswith(b"bad"):
            self.refused.append((raw, forwarder))
            self.stir()
            return False
        return True

    async def receive(self, raw: bytes, author: str) -> None:
        self.got.append(raw)
        self.stir()

    def stir(self) -> None:
        self.news.set()
        self.news = trio.Event()

    async def gets(self, raw: bytes) -> None:
        """Wait until a message has arrived."""
        await self.until(lambda: raw in self.got)

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(30):
            while not condition():
                await self.news.wait()

    async def still_hears(self, other: Talker) -> None:
        """Assert that the service lives and takes messages in, now and a little later."""
        for number in range(3):
            await other.gossip.publish(b"after %d" % number)
            await self.gets(b"after %d" % number)
            assert self.gossip._pubsub.manager.is_running
        assert self.got[-3:] == [b"after 0", b"after 1", b"after 2"]
        assert b"forged" not in self.got

    async def subscribed(self, count: int) -> None:
        """Wait until so many peers told that they subscribe."""
        with trio.fail_after(30):
            while len(self.gossip._pubsub.peer_topics.get(self.gossip.topic, ())) < count:
                await trio.sleep(0.01)  # pubsub tells nobody


@asynccontextmanager
async def talkers(count: int) -> AsyncIterator[list[Talker]]:
    """Hosts with gossip, connected in a line."""
    async with hosts(count) as found, trio.open_nursery() as nursery:
        line = [Talker(here) for here in found]
        for item in line:
            await nursery.start(item.gossip.run)
        for left, right in itertools.pairwise(line):
            await left.here.connect(right.here)
        for index, item in enumerate(line):
            await item.subscribed((index > 0) + (index < count - 1))
        yield line
        nursery.cancel_scope.cancel()


async def send(sender: Here, to: Here, body: bytes) -> None:
    """One RPC of any bytes over a gossip stream of its own."""
    stream = await sender.stream(to, MESHSUB)
    await stream.write(varint.encode(len(body)) + body)


def message(topic: str, **changes: object) -> rpc_pb2.Message:
    fields: dict[str, object] = {
        "from_id": b"\x12\x20" + os.urandom(32),
        "seqno": os.urandom(8),
        "data": b"forged",
        "topicIDs": [topic],
        "signature": os.urandom(64),
        "key": b"no key at all",
    }
    return rpc_pb2.Message(**(fields | changes))


async def test_a_message_travels_and_a_refused_one_goes_no_further() -> None:
    async with talkers(3) as [a, b, c]:
        await a.gossip.publish(b"bad news")
        await a.gossip.publish(b"good news")
        await c.gets(b"good news")
        assert b.refused == [(b"bad news", a.here.peer_id)]
        assert c.refused == []
        assert b.got == c.got == [b"good news"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"key": b""},
        {"key": b"\x08\x00\x12\x04\x01\x02\x03\x04"},
        {"key": b"\x08\x63\x12\x00"},
        {"from_id": b""},
        {"from_id": b"\x00\x24\x08\x01\x12\x20" + b"\xff" * 32, "key": b""},
        {"from_id": b"x" * 5000},
        {"signature": b""},
        {"seqno": b"x" * 5000},
        {"data": b"x" * 50_000},
    ],
    ids=[
        "key",
        "no key",
        "rsa",
        "unknown",
        "nobody",
        "bad point",
        "long",
        "unsigned",
        "seq",
        "data",
    ],
)
async def test_a_forged_message_is_dropped_and_the_host_lives(changes: dict[str, object]) -> None:
    """Stock, a key that cannot be read raises out of the pubsub service and ends the node."""
    async with talkers(2) as [a, b]:
        forged = message(b.gossip.topic, **changes)
        await send(a.here, b.here, rpc_pb2.RPC(publish=[forged]).SerializeToString())
        await b.until(lambda: forged.signature in b.handled)
        await b.still_hears(a)


async def test_a_message_in_the_name_of_another_is_dropped() -> None:
    async with talkers(2) as [a, b]:
        forged = message(
            b.gossip.topic,
            from_id=b.here.identity.id.to_bytes(),
            key=b.here.identity.key_pair.public_key.serialize(),
        )
        await send(a.here, b.here, rpc_pb2.RPC(publish=[forged]).SerializeToString())
        await b.until(lambda: forged.signature in b.handled)
        await b.still_hears(a)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        os.urandom(500),
        b"\xff" * 100,
        b"x" * (MAX_RPC_BYTES + 1),
        rpc_pb2.RPC(
            control=rpc_pb2.ControlMessage(
                ihave=[rpc_pb2.ControlIHave(topicID="x", messageIDs=[b"zz", b"((", b"1" * 999])],
                iwant=[rpc_pb2.ControlIWant(messageIDs=[b"zz", b"'"])],
                graft=[rpc_pb2.ControlGraft(topicID="x")],
                prune=[rpc_pb2.ControlPrune(topicID="x", peers=[rpc_pb2.PeerInfo(peerID=b"x")])],
            )
        ).SerializeToString(),
    ],
    ids=["empty", "random", "ones", "long", "control"],
)
async def test_malformed_rpcs_are_survived(body: bytes) -> None:
    """Whoever sends one may lose its own place; nobody else notices."""
    async with talkers(3) as [a, b, c]:
        await send(a.here, b.here, body)
        await b.still_hears(c)
        await c.still_hears(b)


async def test_topics_of_others_are_not_taken_in() -> None:
    async with talkers(2) as [a, b]:
        other = rpc_pb2.RPC(
            subscriptions=[
                rpc_pb2.RPC.SubOpts(subscribe=True, topicid=f"topic {number}")
                for number in range(2000)
            ]
        )
        await send(a.here, b.here, other.SerializeToString())
        await b.still_hears(a)
        assert set(b.gossip._pubsub.peer_topics) <= {b.gossip.topic}
