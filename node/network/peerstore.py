"""py-libp2p's peer store with limits: what a peer says of itself is passed on to others.

Every answer of the DHT carries the addresses and the signed record of each peer it names. Stock,
both may be as long as a message (4 MiB): two such peers make every answer of an honest node longer
than anybody reads, and a thousand of them take gigabytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from libp2p.peer.envelope import Envelope
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from multiaddr import Multiaddr

MAX_KEPT_ADDRESSES = 12
"""Twice as many as a node of ours announces: those of its last start may be there still."""
MAX_ADDRESS_BYTES = 256
MAX_PEER_RECORD_BYTES = 2048


class BoundedPeerStore(PeerStore):
    """Keeps few addresses per peer, the latest ones, and no long record."""

    def add_addrs(self, peer_id: ID, addrs: Sequence[Multiaddr], ttl: int = 0) -> None:
        """Remember addresses of a peer; of too many the oldest leave."""
        wanted = short(addrs)[:MAX_KEPT_ADDRESSES]
        super().add_addrs(peer_id, wanted, ttl)
        data = self.peer_data_map.get(peer_id)
        if data is not None and len(data.addrs) > MAX_KEPT_ADDRESSES:
            old = [item for item in data.addrs if item not in wanted]
            data.addrs = [*old[len(data.addrs) - MAX_KEPT_ADDRESSES :], *wanted]

    def consume_peer_record(self, envelope: Envelope, ttl: int) -> bool:
        """Take a signed record unless it is older than what is here, or too long."""
        if len(envelope.raw_payload) > MAX_PEER_RECORD_BYTES:
            return False
        return super().consume_peer_record(envelope, ttl)


def short(addresses: Sequence[Multiaddr]) -> list[Multiaddr]:
    """The addresses that are no longer than addresses are."""
    return [item for item in addresses if len(item.to_bytes()) <= MAX_ADDRESS_BYTES]
