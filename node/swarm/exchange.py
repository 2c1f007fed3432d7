"""Exchanging announcement books with a peer at once: what each lacks, in one round trip.

On every new connection the side that dialled sends its own announcements and a digest of what it
knows; the answer brings what it lacks. So a join needs no DHT round to show everywhere, and
replicas are found even when the DHT's one value per key names another holder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from node.network.messages import JsonProtocol, RequestFailed
from node.swarm.announcements import Book
from node.swarm.records import MAX_RECORD_BYTES

PROTOCOL = "/llama-cluster/announcements/1.0.0"
MAX_RECORDS = 256
MAX_DIGEST = 4096
MAX_BYTES = 1 << 20
TIMEOUT_S = 5.0

Raw = Annotated[str, msgspec.Meta(max_length=MAX_RECORD_BYTES)]


class Offer(msgspec.Struct):
    """`records`: signed announcements as JSON text. `have`: `shard/peer` -> sequence.

    `agent`: what the sender runs and its name, for display only.
    """

    cluster: Annotated[str, msgspec.Meta(max_length=64)]
    agent: Annotated[str, msgspec.Meta(max_length=96)] = ""
    records: Annotated[list[Raw], msgspec.Meta(max_length=MAX_RECORDS)] = []
    have: Annotated[
        dict[
            Annotated[str, msgspec.Meta(max_length=140)],
            Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)],
        ],
        msgspec.Meta(max_length=MAX_DIGEST),
    ] = {}


Take = Callable[[bytes, str], None]


class Exchange:
    """Both sides of the exchange.

    `take(raw, from_peer)` checks and enters one announcement; `identified(peer_id, agent)` hears
    what the other side says it runs (not cleaned yet).
    """

    def __init__(
        self,
        protocol: JsonProtocol,
        book: Book,
        own: Callable[[], list[bytes]],
        take: Take,
        *,
        agent: str = "",
        identified: Callable[[str, str], None] = lambda peer_id, agent: None,
    ) -> None:
        self._protocol = protocol
        self._book = book
        self._own = own
        self._take = take
        self._agent = agent
        self._identified = identified
        protocol.serve(self._serve)

    async def _serve(self, raw: bytes | None, peer_id: str) -> bytes:
        try:
            offer = msgspec.json.decode(raw or b"", type=Offer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return msgspec.json.encode({"cluster": self._book.cluster, "error": "malformed offer"})
        self._identified(peer_id, offer.agent)
        if offer.cluster != self._book.cluster:
            return msgspec.json.encode(Offer(cluster=self._book.cluster, agent=self._agent))
        for text in offer.records:
            self._take(text.encode("utf-8"), peer_id)
        fresh = self._book.newer_than(offer.have, MAX_RECORDS)
        return msgspec.json.encode(
            Offer(
                cluster=self._book.cluster,
                agent=self._agent,
                records=[item.decode("utf-8") for item in fresh],
            )
        )

    async def with_peer(self, peer_id: str) -> int:
        """Exchange with a connected peer; returns how many announcements came back."""
        records = [item.decode("utf-8") for item in self._own()]
        offer = Offer(
            cluster=self._book.cluster,
            agent=self._agent,
            records=records,
            have=self._book.sequences(),
        )
        try:
            raw, _ = await self._protocol.request(peer_id, msgspec.json.encode(offer), TIMEOUT_S)
            answer = msgspec.json.decode(raw, type=Offer)
        except (RequestFailed, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return 0
        self._identified(peer_id, answer.agent)
        if answer.cluster != self._book.cluster:
            return 0
        for text in answer.records:
            self._take(text.encode("utf-8"), peer_id)
        return len(answer.records)

    async def tell(self, peer_id: str, records: list[bytes]) -> bool:
        """Give a connected peer these records; whether it answered."""
        offer = Offer(
            cluster=self._book.cluster,
            agent=self._agent,
            records=[item.decode("utf-8") for item in records],
            have=self._book.sequences(),
        )
        try:
            await self._protocol.request(peer_id, msgspec.json.encode(offer), TIMEOUT_S)
        except RequestFailed:
            return False
        return True
