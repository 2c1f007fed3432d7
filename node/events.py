"""Everything that can happen in a node: the only vocabulary for it.

Services emit these; state is their fold; journal, log, console and metrics read them. Each event
carries `at` (unix seconds, set by the emitter) and is immutable and JSON-encodable, tagged by its
class name, so that a recorded stream replays to the same state. Strings from peers are cleaned
before they are put into an event. Durations are milliseconds where the name ends in `_ms`,
seconds where it ends in `_s`; sizes are bytes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from node.events_base import Event as Event
from node.events_torrents import (
    RemoteLoadEnded as RemoteLoadEnded,
    SeedingChanged as SeedingChanged,
    SourceRow as SourceRow,
    TorrentHashing as TorrentHashing,
    TorrentListed as TorrentListed,
    TorrentRegistered as TorrentRegistered,
    TorrentSeeded as TorrentSeeded,
    TorrentsRegistered as TorrentsRegistered,
    TorrentsRegistering as TorrentsRegistering,
    TorrentsScanned as TorrentsScanned,
    TorrentsSynced as TorrentsSynced,
    TorrentUnlisted as TorrentUnlisted,
    TorrentWithdrawn as TorrentWithdrawn,
    TransferChanged as TransferChanged,
    TransferFailed as TransferFailed,
    TransferFinished as TransferFinished,
    TransferPhase as TransferPhase,
    TransferSourceBlamed as TransferSourceBlamed,
    TransferWanted as TransferWanted,
)

Transport = Literal["tcp", "quic"]
Level = Literal["debug", "info", "warning", "error"]
QueryKind = Literal["get_value", "put_value", "find_node", "find_providers", "provide", "refresh"]


# ---------------------------------------------------------------- the node itself


class NodeStarted(Event, frozen=True, kw_only=True):
    """The node has its identity and settings; nothing listens yet."""

    peer_id: str
    name: str
    role: Literal["node", "rendezvous"]
    cluster: str
    total_shards: int
    own_shards: tuple[int, ...]
    model_name: str
    transport: str
    version: str
    shards_dir: str
    data_dir: str


class NodeListening(Event, frozen=True, kw_only=True):
    """The host accepts connections at these multiaddrs (with /p2p/<peer id>)."""

    addresses: tuple[str, ...]


class NodeAlone(Event, frozen=True, kw_only=True):
    """No bootstrap was given and nobody was found: a swarm of one."""

    join_command: str


class NodeStopping(Event, frozen=True, kw_only=True):
    """The node is leaving the swarm."""

    reason: str


class NodeStopped(Event, frozen=True, kw_only=True):
    """Everything is closed."""


class Problem(Event, frozen=True, kw_only=True):
    """Something an operator should know: a plain sentence, the next step, and the detail."""

    level: Level
    tag: str
    sentence: str
    next_step: str = ""
    detail: str = ""


# ---------------------------------------------------------------- peers


class BootstrapConnected(Event, frozen=True, kw_only=True):
    """A bootstrap (rendezvous) node answers."""

    address: str
    peer_id: str


class BootstrapLost(Event, frozen=True, kw_only=True):
    """A bootstrap node does not answer; it is dialled again after `retry_in_s`."""

    address: str
    reason: str
    retry_in_s: float


class PeerFound(Event, frozen=True, kw_only=True):
    """A peer's addresses became known."""

    peer_id: str
    addresses: tuple[str, ...]
    source: Literal["bootstrap", "dht", "mdns", "machine", "gossip", "cache", "inbound"]


class PeerDialing(Event, frozen=True, kw_only=True):
    """A connection attempt begins."""

    peer_id: str
    address: str
    transport: Transport


class PeerDialFailed(Event, frozen=True, kw_only=True):
    """A connection attempt failed; the next comes after `retry_in_s` (0: the caller decides)."""

    peer_id: str
    address: str
    transport: Transport
    reason: str
    retry_in_s: float = 0.0


class PeerConnected(Event, frozen=True, kw_only=True):
    """A secured connection is open."""

    peer_id: str
    address: str
    transport: Transport
    direction: Literal["inbound", "outbound"]


class PeerDisconnected(Event, frozen=True, kw_only=True):
    """A connection closed; `remaining` transports are still open to that peer."""

    peer_id: str
    transport: Transport
    remaining: tuple[Transport, ...]


class PeerIdentified(Event, frozen=True, kw_only=True):
    """The identify protocol told what the peer runs."""

    peer_id: str
    agent: str
    protocols: tuple[str, ...]


class PeerHeard(Event, frozen=True, kw_only=True):
    """The peer answered a ping (`rtt_ms` is the round trip) or spoke to us (None)."""

    peer_id: str
    rtt_ms: float | None
    transport: Transport


class PeerSilent(Event, frozen=True, kw_only=True):
    """The peer has not answered for `silent_s` seconds: its shards go OFFLINE."""

    peer_id: str
    silent_s: float
    reason: str


class PeerQuarantined(Event, frozen=True, kw_only=True):
    """The peer is left out of DHT work until `until` (unix seconds)."""

    peer_id: str
    until: float
    reason: str


class PeerReleased(Event, frozen=True, kw_only=True):
    """A quarantined peer answered again."""

    peer_id: str


class PeerGone(Event, frozen=True, kw_only=True):
    """The peer said goodbye or was forgotten."""

    peer_id: str
    reason: str


# ---------------------------------------------------------------- DHT


class PeerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One peer's part in a DHT query."""

    peer_id: str
    duration_ms: float
    result: Literal["value", "closer", "stored", "providers", "none", "timeout", "error", "refused"]
    detail: str = ""


class DhtQueryStarted(Event, frozen=True, kw_only=True):
    """A DHT query begins."""

    query_id: int
    kind: QueryKind
    key: str
    shard_id: int | None = None


class DhtQueryFinished(Event, frozen=True, kw_only=True):
    """A DHT query ended: who was asked, what each answered, how it came out."""

    query_id: int
    kind: QueryKind
    key: str
    duration_ms: float
    asked: tuple[PeerAnswer, ...]
    outcome: Literal["found", "missing", "stored", "partial", "failed"]
    found: int = 0
    shard_id: int | None = None
    detail: str = ""


class RoutingUpdated(Event, frozen=True, kw_only=True):
    """The routing table changed."""

    peer_id: str
    size: int


class RecordRefused(Event, frozen=True, kw_only=True):
    """A DHT or gossip record was refused before it was believed; `field` names the culprit."""

    peer_id: str
    key: str
    field: str
    reason: str
    source: Literal["dht", "gossip", "message"]


class ShardAnnounced(Event, frozen=True, kw_only=True):
    """This node put its own announcement into the DHT (and on the gossip topic)."""

    shard_id: int
    key: str
    loaded: bool
    sequence: int
    stored_at: int


# ---------------------------------------------------------------- shards


class ShardDiscovered(Event, frozen=True, kw_only=True):
    """A verified announcement of another node, new or newer than the one known."""

    shard_id: int
    peer_id: str
    sequence: int
    loaded: bool
    layer_start: int
    layer_end: int
    total_shards: int
    model_name: str
    addresses: tuple[str, ...]
    agent: str
    source: Literal["dht", "gossip", "message", "bootstrap"]
    expires_at: float
    size: int = 0
    root: str = ""
    progress: float = 0.0
    phase: Literal["none", "file", "downloading", "loading", "loaded"] = "none"


class ShardForgotten(Event, frozen=True, kw_only=True):
    """An announcement no longer counts."""

    shard_id: int
    peer_id: str
    reason: Literal["expired", "goodbye", "unloaded", "replaced"]


class ShardFileFound(Event, frozen=True, kw_only=True):
    """A shard file lies on this node's disk."""

    shard_id: int
    path: str
    size: int
    layer_start: int
    layer_end: int
    model_name: str


class ShardFileMissing(Event, frozen=True, kw_only=True):
    """This node should hold the shard and has no usable file for it."""

    shard_id: int
    looked_in: str
    sentence: str
    next_step: str


class ShardLoading(Event, frozen=True, kw_only=True):
    """llama.cpp is reading the weights; `progress` runs from 0 to 1."""

    shard_id: int
    progress: float
    path: str


class ShardLoaded(Event, frozen=True, kw_only=True):
    """The weights of the shard are in this node's memory."""

    shard_id: int
    path: str
    size: int
    layer_start: int
    layer_end: int
    model_name: str
    seconds: float


class ShardLoadFailed(Event, frozen=True, kw_only=True):
    """The shard could not be loaded."""

    shard_id: int
    sentence: str
    next_step: str
    detail: str = ""


class ShardUnloaded(Event, frozen=True, kw_only=True):
    """The weights were released."""

    shard_id: int
    reason: str


class ReadinessChanged(Event, frozen=True, kw_only=True):
    """Whether every shard, this node's own included, has a holder that answers."""

    ready: bool
    missing: tuple[int, ...]


# ---------------------------------------------------------------- messages and commands


class CommandSent(Event, frozen=True, kw_only=True):
    """A command or a plain message (command == "MESSAGE") left this node."""

    request_id: str
    command: str
    to: str
    summary: str
    origin: str = "node"


class CommandAnswered(Event, frozen=True, kw_only=True):
    """The answer to a command of ours came, or did not."""

    request_id: str
    command: str
    peer_id: str
    status: Literal["success", "error", "timeout"]
    duration_ms: float
    summary: str
    detail: str = ""


class CommandReceived(Event, frozen=True, kw_only=True):
    """A peer sent a command."""

    request_id: str
    command: str
    peer_id: str
    summary: str


class CommandServed(Event, frozen=True, kw_only=True):
    """This node answered a peer's command."""

    request_id: str
    command: str
    peer_id: str
    status: Literal["success", "error"]
    duration_ms: float
    summary: str


class MessageReceived(Event, frozen=True, kw_only=True):
    """A plain text message from a peer."""

    peer_id: str
    text: str


class MessageRefused(Event, frozen=True, kw_only=True):
    """A message of a peer was refused; `field` names what was wrong with it."""

    peer_id: str
    field: str
    reason: str


AnyEvent = (
    NodeStarted
    | NodeListening
    | NodeAlone
    | NodeStopping
    | NodeStopped
    | Problem
    | BootstrapConnected
    | BootstrapLost
    | PeerFound
    | PeerDialing
    | PeerDialFailed
    | PeerConnected
    | PeerDisconnected
    | PeerIdentified
    | PeerHeard
    | PeerSilent
    | PeerQuarantined
    | PeerReleased
    | PeerGone
    | DhtQueryStarted
    | DhtQueryFinished
    | RoutingUpdated
    | RecordRefused
    | ShardAnnounced
    | ShardDiscovered
    | ShardForgotten
    | ShardFileFound
    | ShardFileMissing
    | ShardLoading
    | ShardLoaded
    | ShardLoadFailed
    | ShardUnloaded
    | ReadinessChanged
    | CommandSent
    | CommandAnswered
    | CommandReceived
    | CommandServed
    | MessageReceived
    | MessageRefused
    | TorrentHashing
    | TorrentSeeded
    | TorrentWithdrawn
    | TorrentsScanned
    | TorrentsRegistering
    | TorrentRegistered
    | TorrentsRegistered
    | TorrentListed
    | TorrentUnlisted
    | TorrentsSynced
    | TransferWanted
    | TransferChanged
    | TransferFinished
    | TransferFailed
    | TransferSourceBlamed
    | SeedingChanged
    | RemoteLoadEnded
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def encode(event: Event) -> bytes:
    """One event as a single line of JSON, without a newline."""
    return _encoder.encode(event)


def decode(line: bytes) -> AnyEvent:
    """The event written by `encode`.

    Raises msgspec.ValidationError or msgspec.DecodeError on anything else.
    """
    return _decoder.decode(line)
