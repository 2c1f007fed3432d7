"""What can happen to files: hashing, seeding, who has what, and transfers."""

from __future__ import annotations

from typing import Literal

import msgspec

from node.events_base import Event

TransferPhase = Literal[
    "resolving",
    "waiting",
    "queued",
    "layer",
    "prealloc",
    "transfer",
    "stalled",
    "paused",
    "endgame",
    "sync",
    "rename",
    "done",
    "failed",
    "cancelled",
]
"""resolving: looking for who has it; waiting: nobody does yet; the rest is the transfer's own."""


class SourceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One source of a transfer.

    state:  connecting, hello, opening, active, idle, choked, stalled, parole, backoff, banned
    reason: a sentence where the state is not a good one
    rate:   bytes per second; received, window, in_flight: bytes; have: pieces it offers
    """

    peer_id: str
    state: str
    reason: str = ""
    have: int = 0
    rate: float = 0.0
    received: int = 0
    window: int = 0
    in_flight: int = 0
    strikes: int = 0


class TorrentHashing(Event, frozen=True, kw_only=True):
    """A file of the shards folder is being hashed; `progress` runs from 0 to 1."""

    info_hash: str
    filename: str
    size: int
    shard_id: int | None
    progress: float


class TorrentSeeded(Event, frozen=True, kw_only=True):
    """A shard file on disk has its info hash and root, and is offered to the swarm."""

    info_hash: str
    filename: str
    size: int
    shard_id: int | None
    root: str = ""
    piece_length: int = 0
    pieces: int = 0


class TorrentWithdrawn(Event, frozen=True, kw_only=True):
    """A file vanished, changed, or no longer is what was hashed."""

    info_hash: str
    filename: str
    reason: str


class TorrentsScanned(Event, frozen=True, kw_only=True):
    """The first look at the shards folder is over: `primary` of `total_shards` are seeded."""

    files: int
    primary: int
    total_shards: int


class TorrentsRegistering(Event, frozen=True, kw_only=True):
    """The routing table is there: this node's files go into the DHT, once per start."""

    count: int


class TorrentRegistered(Event, frozen=True, kw_only=True):
    """A file's record is in the DHT, at `stored_at` peers."""

    info_hash: str
    filename: str
    stored_at: int
    again: bool = False


class TorrentsRegistered(Event, frozen=True, kw_only=True):
    """All files of the start are registered."""

    count: int


class TorrentListed(Event, frozen=True, kw_only=True):
    """A peer says it has this file."""

    info_hash: str
    filename: str
    size: int
    peer_id: str
    root: str = ""


class TorrentUnlisted(Event, frozen=True, kw_only=True):
    """A peer no longer has this file, or is gone."""

    info_hash: str
    peer_id: str


class TorrentsSynced(Event, frozen=True, kw_only=True):
    """SYNC_TORRENTS was answered; `missing`: shards it lacks."""

    peer_id: str
    files: int
    missing: tuple[int, ...]


class TransferWanted(Event, frozen=True, kw_only=True):
    """This node is to have a file it lacks; `info_hash` is empty while nobody named its size.

    wanted_by: "plan" (--shard), "operator", "resumed" (an earlier run left it unfinished), or the
               peer id whose LOAD_SHARD asked for it
    """

    filename: str
    shard_id: int | None
    wanted_by: str
    info_hash: str = ""


class TransferChanged(Event, frozen=True, kw_only=True):
    """How a download stands: at every change of phase, and twice a second while it moves.

    done:      bytes verified and written, earlier runs included
    fetched:   bytes received in this run; wasted: of those, thrown away
    uploaded:  bytes of this file sent to others meanwhile
    rate_*:    bytes per second; eta_s: None while unknown
    reason:    one sentence where it stands still, is paused or failed
    piece_map: at most 256 cells over the file, '0' nothing … '8' everything verified and written
    """

    info_hash: str
    filename: str
    size: int
    root: str
    phase: TransferPhase
    reason: str = ""
    shard_id: int | None = None
    done: int = 0
    fetched: int = 0
    wasted: int = 0
    uploaded: int = 0
    pieces: int = 0
    pieces_done: int = 0
    piece_length: int = 0
    rate_down: float = 0.0
    rate_up: float = 0.0
    eta_s: float | None = None
    elapsed_s: float = 0.0
    sources: tuple[SourceRow, ...] = ()
    piece_map: str = ""


class TransferFinished(Event, frozen=True, kw_only=True):
    """The file is complete, verified and durable. `fetched` counts this run only."""

    info_hash: str
    filename: str
    size: int
    root: str
    shard_id: int | None
    path: str
    fetched: int
    seconds: float
    sources: int
    mb_per_s: float


class TransferFailed(Event, frozen=True, kw_only=True):
    """The file did not come; `sentence` says why and `next_step` what to do.

    offers: the roots to choose from, where two contents have one name
    """

    info_hash: str
    filename: str
    shard_id: int | None
    sentence: str
    next_step: str
    offers: tuple[str, ...] = ()
    cancelled: bool = False


class TransferSourceBlamed(Event, frozen=True, kw_only=True):
    """A peer certainly sent wrong bytes: `reason` is a sentence with peer, piece and leaf."""

    info_hash: str
    filename: str
    peer_id: str
    piece: int
    reason: str


class SeedingChanged(Event, frozen=True, kw_only=True):
    """What goes out of a file: bytes sent since the start, bytes per second, and to whom."""

    info_hash: str
    uploaded: int
    rate_up: float
    peers: tuple[str, ...]


class RemoteLoadEnded(Event, frozen=True, kw_only=True):
    """A peer that answered LOAD_SHARD with "downloading" says how it ended."""

    peer_id: str
    shard_id: int
    ok: bool
    sentence: str
