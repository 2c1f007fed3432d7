"""Gossip: the same signed records, at once. The DHT stays the durable path.

One topic per cluster over py-libp2p's gossipsub. Every message is checked by our validator before
it is passed on or believed, so a forged one goes no further than its first honest neighbour.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import trio
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

PROTOCOLS = [TProtocol("/meshsub/1.1.0"), TProtocol("/meshsub/1.0.0")]
DEGREE, DEGREE_LOW, DEGREE_HIGH = 6, 4, 12
HEARTBEAT_S = 30
MAX_RPC_BYTES = 64 * 1024

# (payload, author's peer id, forwarder's peer id) -> whether it may be passed on
Accept = Callable[[bytes, str, str], bool]


_log = logging.getLogger("libp2p.pubsub")


class _SteadyPubsub(Pubsub):
    """Pubsub that outlives a bad message; stock, one with a malformed key ends the node."""

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        try:
            await super().push_msg(msg_forwarder, msg)
        except Exception as error:
            _log.warning("a gossip message was dropped (%s)", type(error).__name__)


class _FloodingRouter(GossipSub):
    """Sends this node's own messages to every subscribed peer, not only to its mesh.

    Gossipsub 1.1 calls it flood publishing. A mesh forms at a heartbeat: a node that leaves soon
    after it joined would otherwise say goodbye to nobody.
    """

    def _get_peers_to_send(
        self,
        topic_ids: Iterable[str],
        msg_forwarder: ID,
        origin: ID,
        msg_id: bytes | None = None,
    ) -> Iterable[ID]:
        topics = list(topic_ids)
        found = set(super()._get_peers_to_send(topics, msg_forwarder, origin, msg_id))
        pubsub = self.pubsub
        if pubsub is not None and origin == pubsub.my_id:
            for topic in topics:
                subscribed = pubsub.peer_topics.get(topic, set())
                found.update(peer for peer in subscribed if peer in self.peer_protocol)
            found.discard(origin)
        return found

    async def send_recent_messages(self, peer_id: ID, topic: str) -> None:
        """Replay nothing to a new peer: the exchange on connection brings what it lacks at once.

        Stock, every connection brings every recent announcement from every peer once more; in a
        swarm of 32 that was a third of all CPU while it formed.
        """


class Gossip:
    """One topic. `accept` checks each message; `receive` gets those that passed, once each."""

    def __init__(
        self,
        host: BasicHost,
        cluster: str,
        accept: Accept,
        receive: Callable[[bytes, str], Awaitable[None]],
    ) -> None:
        self.topic = f"llama-cluster/{cluster}/announcements"
        self._own = str(host.get_id())
        self._accept = accept
        self._receive = receive
        self._router = _FloodingRouter(
            PROTOCOLS,
            degree=DEGREE,
            degree_low=DEGREE_LOW,
            degree_high=DEGREE_HIGH,
            heartbeat_interval=HEARTBEAT_S,
            adaptive_gossip_enabled=False,
            # A cluster often shares one address range; our own check limits each sender.
            eclipse_protection_enabled=False,
            spam_protection_enabled=False,
        )
        self._pubsub = _SteadyPubsub(
            host,
            self._router,
            strict_signing=True,
            max_inbound_rpc_size=MAX_RPC_BYTES,
            allowed_topics={self.topic},
        )
        self.sent = 0
        self.received = 0

    def _validate(self, forwarder: ID, message: rpc_pb2.Message) -> bool:
        author = str(ID(message.from_id))
        if author == self._own:
            return True
        return self._accept(bytes(message.data), author, str(forwarder))

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Subscribe and deliver until cancelled."""
        async with (
            background_trio_service(self._pubsub),
            background_trio_service(self._router),
        ):
            await self._pubsub.wait_until_ready()
            self._pubsub.set_topic_validator(self.topic, self._validate, False)
            subscription = await self._pubsub.subscribe(self.topic)
            task_status.started()
            while True:
                message = await subscription.get()
                author = str(ID(message.from_id))
                if author != self._own:
                    self.received += 1
                    await self._receive(bytes(message.data), author)

    async def publish(self, payload: bytes) -> None:
        """Send to everyone on the topic."""
        self.sent += 1
        await self._pubsub.publish(self.topic, payload)
