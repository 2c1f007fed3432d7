"""What the picker answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from node.torrent.picker_parts import Asked
from node.torrent.sizes import Block


class State(IntEnum):
    """Where a piece is. MISSING may hold blocks of a peer that was released."""

    MISSING = 0
    ASSIGNED = 1
    HASHING = 2
    VERIFIED = 3
    WRITTEN = 4
    DURABLE = 5


class Kind(IntEnum):
    """What a block that arrived was."""

    NEEDED = 0
    DUPLICATE = 1
    UNSOLICITED = 2


@dataclass(frozen=True, slots=True)
class Received:
    """kind: keep the block only when NEEDED; UNSOLICITED is a strike.

    complete: all blocks of the piece are here, it is HASHING now
    cancels:  (peer, block) to cancel, because another copy was on its way
    """

    kind: Kind
    complete: bool = False
    cancels: tuple[Asked, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Requests for the peer that was asked about, and cancels for those it took pieces from."""

    requests: list[Block] = field(default_factory=list)
    cancels: list[Asked] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Tick:
    """What time alone brought about.

    snubbed: peers that stall: their pieces were released, one block at a time from now on
    close:   (peer, reason) to disconnect with backoff; call remove_peer for them
    cancels: (peer, block) of what was released
    """

    snubbed: list[str] = field(default_factory=list)
    close: list[tuple[str, str]] = field(default_factory=list)
    cancels: list[Asked] = field(default_factory=list)
