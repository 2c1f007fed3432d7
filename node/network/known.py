"""What this node remembers of one peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from node import events as ev
from node.network.ping import PingStream

QUARANTINE_FIRST_S = 5.0
REDIAL_FIRST_S = 1.0

Source = Literal["bootstrap", "dht", "mdns", "machine", "gossip", "cache", "inbound"]
Emit = Callable[[ev.Event], None]


@dataclass(eq=False)
class Known:
    """One peer. Times are trio's monotonic seconds; 0 means never."""

    peer_id: str
    id: ID
    ping: PingStream
    addresses: list[Multiaddr] = field(default_factory=list)
    heard: float = 0.0
    failures: int = 0
    silent: bool = False
    suspected: bool = False
    quarantined_until: float = 0.0
    quarantine_s: float = QUARANTINE_FIRST_S
    redial_at: float = 0.0
    redial_s: float = REDIAL_FIRST_S
    dialing: trio.Event | None = None
    transports: tuple[ev.Transport, ...] = ()
    busy: bool = False
