"""What is true now: the fold of the events, as immutable snapshots.

`State.apply(event)` is pure: no clock, no I/O, the same events give the same state, so a recorded
journal replays to the same screen. Every snapshot is frozen; its dicts are never changed after
they were made. Ages ("silent 12 s") are for the reader to compute from the unix times kept here.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from node import events as ev

RECENT_QUERIES = 200
RECENT_COMMANDS = 200
RECENT_PROBLEMS = 100
MAX_PEERS = 1024
MAX_HOLDERS_PER_SHARD = 256
MAX_TORRENTS = 1024

TRANSFERRING = frozenset(
    (
        *("resolving", "waiting", "queued", "layer", "prealloc", "transfer"),
        *("stalled", "paused", "endgame", "sync", "rename"),
    )
)

ShardStatus = Literal["LOCAL", "ONLINE", "OFFLINE"]
Phase = Literal["none", "file", "downloading", "loading", "loaded", "failed"]


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The node this state belongs to."""

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
    started_at: float
    addresses: tuple[str, ...] = ()
    join_command: str = ""
    stopping: str = ""
    stopped: bool = False


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A node seen from this one. `rtt_ms` is None until it answered a ping.

    `transports` are open, `carries` is the one that messages go over (the last ping's).
    """

    peer_id: str
    addresses: tuple[str, ...] = ()
    transports: tuple[ev.Transport, ...] = ()
    direction: str = ""
    agent: str = ""
    source: str = ""
    first_seen: float = 0.0
    connected_at: float = 0.0
    heard_at: float = 0.0
    silent: bool = False
    silent_since: float = 0.0
    rtt_ms: float | None = None
    pings: int = 0
    carries: str = ""
    quarantined_until: float = 0.0
    note: str = ""
    bootstrap: bool = False

    @property
    def answering(self) -> bool:
        """Whether the peer answered within the silence limit (15 s)."""
        return self.heard_at > 0 and not self.silent

    @property
    def connected(self) -> bool:
        return bool(self.transports)


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Another node's verified announcement for one shard."""

    peer_id: str
    sequence: int
    loaded: bool
    phase: Phase
    progress: float
    layer_start: int
    layer_end: int
    model_name: str
    agent: str
    size: int
    root: str
    expires_at: float
    discovered_at: float
    updated_at: float
    source: str


class LocalShard(msgspec.Struct, frozen=True, kw_only=True):
    """What this node has of a shard."""

    phase: Phase = "none"
    wanted: bool = False
    path: str = ""
    size: int = 0
    layer_start: int = 0
    layer_end: int = 0
    model_name: str = ""
    progress: float = 0.0
    load_seconds: float = 0.0
    announced_at: float = 0.0
    sentence: str = ""
    next_step: str = ""


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """One shard of the model: what this node has of it and who else holds it."""

    shard_id: int
    local: LocalShard = msgspec.field(default_factory=LocalShard)
    holders: dict[str, Holder] = msgspec.field(default_factory=dict)
    changed_at: float = 0.0


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A DHT query, running (`duration_ms` None) or ended."""

    query_id: int
    kind: ev.QueryKind
    key: str
    shard_id: int | None
    started_at: float
    duration_ms: float | None = None
    asked: tuple[ev.PeerAnswer, ...] = ()
    outcome: str = "running"
    found: int = 0
    detail: str = ""


class CommandRow(msgspec.Struct, frozen=True, kw_only=True):
    """A command or message, sent or received."""

    request_id: str
    command: str
    peer_id: str
    direction: Literal["out", "in"]
    at: float
    status: str = "waiting"
    duration_ms: float | None = None
    summary: str = ""
    detail: str = ""
    origin: str = "node"


class Torrent(msgspec.Struct, frozen=True, kw_only=True):
    """A shard file, on this node's disk (`local`), at other peers, or on its way here.

    phase:  "" for what only others have, "hashing", "seeding", or a TransferPhase
    done, fetched, wasted, uploaded: bytes; rate_*: bytes per second; progress: 0 to 1 of hashing
    reason: one sentence where it stands still or failed; next_step: what to do about it
    came_from: how many sources a finished download had, mb_per_s: how fast it was, on average
    piece_map: at most 256 cells over the file, '0' nothing … '8' everything verified and written
    wanted_by: "plan", "operator" or the peer id whose LOAD_SHARD asked for it
    offers: the roots to choose from, where it failed because two contents have one name
    """

    info_hash: str
    filename: str
    size: int
    shard_id: int | None = None
    local: bool = False
    peers: tuple[str, ...] = ()
    root: str = ""
    piece_length: int = 0
    pieces: int = 0
    pieces_done: int = 0
    phase: str = ""
    reason: str = ""
    next_step: str = ""
    progress: float = 0.0
    done: int = 0
    fetched: int = 0
    wasted: int = 0
    uploaded: int = 0
    rate_down: float = 0.0
    rate_up: float = 0.0
    eta_s: float | None = None
    seconds: float = 0.0
    came_from: int = 0
    mb_per_s: float = 0.0
    sources: tuple[ev.SourceRow, ...] = ()
    upload_peers: tuple[str, ...] = ()
    blamed: tuple[str, ...] = ()
    piece_map: str = ""
    wanted_by: str = ""
    offers: tuple[str, ...] = ()
    registered_at: float = 0.0
    changed_at: float = 0.0

    @property
    def ratio(self) -> float:
        """Bytes sent to others since the start / size of the file."""
        return self.uploaded / self.size if self.size else 0.0

    @property
    def moving(self) -> bool:
        """Whether a transfer of this node is on its way: neither ended nor only looked at."""
        return self.phase in TRANSFERRING


class Bootstrap(msgspec.Struct, frozen=True, kw_only=True):
    """A bootstrap address and how it stands."""

    address: str
    peer_id: str = ""
    connected: bool = False
    changed_at: float = 0.0
    reason: str = ""
    retry_in_s: float = 0.0


class FilesInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How far seeding and finding have come, in unix seconds; 0 while it has not happened.

    to_register: files that went into the DHT at the start; listed: files the last sync named
    """

    scanned_at: float = 0.0
    to_register: int = 0
    registered_at: float = 0.0
    synced_at: float = 0.0
    synced_with: str = ""
    listed: int = 0


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """Totals since the node started."""

    queries: int = 0
    queries_failed: int = 0
    query_ms: float = 0.0
    records_refused: int = 0
    messages_refused: int = 0
    messages_in: int = 0
    messages_out: int = 0


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The whole picture at one moment."""

    node: NodeInfo | None = None
    peers: dict[str, Peer] = msgspec.field(default_factory=dict)
    shards: dict[int, Shard] = msgspec.field(default_factory=dict)
    queries: tuple[Query, ...] = ()
    commands: tuple[CommandRow, ...] = ()
    torrents: dict[str, Torrent] = msgspec.field(default_factory=dict)
    bootstraps: dict[str, Bootstrap] = msgspec.field(default_factory=dict)
    problems: tuple[ev.Problem, ...] = ()
    routing_size: int = 0
    ready: bool = False
    missing: tuple[int, ...] = ()
    counters: Counters = msgspec.field(default_factory=Counters)
    files: FilesInfo = msgspec.field(default_factory=FilesInfo)
    updated_at: float = 0.0

    def apply(self, event: ev.Event) -> State:
        """The state after `event`. Unknown events change nothing but `updated_at`."""
        from node.fold import fold

        return fold(self, event)

    # ------------------------------------------------------------ readings

    def status_of(self, shard_id: int) -> ShardStatus:
        """LOCAL: loaded here. ONLINE: a loaded holder answers. OFFLINE: neither."""
        shard = self.shards.get(shard_id)
        if shard is None:
            return "OFFLINE"
        if shard.local.phase == "loaded":
            return "LOCAL"
        if any(self.holder_answers(holder) for holder in shard.holders.values()):
            return "ONLINE"
        return "OFFLINE"

    def holder_answers(self, holder: Holder) -> bool:
        """Whether the holder has the shard loaded and answered within the silence limit."""
        peer = self.peers.get(holder.peer_id)
        return holder.loaded and peer is not None and peer.answering

    def why(self, shard_id: int, now: float) -> str:
        """The second word: why the shard has the status it has (`now` in unix seconds)."""
        shard = self.shards.get(shard_id)
        if shard is None:
            return "no holder"
        local = shard.local
        if local.phase == "loaded":
            answering = sum(self.holder_answers(item) for item in shard.holders.values())
            return f"loaded, {answering} more" if answering else "loaded"
        answering = sum(self.holder_answers(item) for item in shard.holders.values())
        if local.phase in ("loading", "downloading"):
            return f"{local.phase} {local.progress * 100:.0f} %"
        if answering:
            return "1 holder" if answering == 1 else f"{answering} holders"
        if local.phase == "failed":
            return "load failed"
        loading = [item for item in shard.holders.values() if item.phase == "loading"]
        if loading:
            return f"loading {max(item.progress for item in loading) * 100:.0f} %"
        coming = [item for item in shard.holders.values() if item.phase == "downloading"]
        if coming:
            return f"downloading {max(item.progress for item in coming) * 100:.0f} %"
        loaded = [item for item in shard.holders.values() if item.loaded]
        if loaded:
            heard = max(
                (
                    self.peers[item.peer_id].heard_at
                    for item in loaded
                    if item.peer_id in self.peers
                ),
                default=0.0,
            )
            return f"silent {max(now - heard, 0):.0f} s" if heard else "not answering yet"
        if local.phase == "file" or any(i.phase == "file" for i in shard.holders.values()):
            return "file only"
        if local.wanted:
            return "no file"
        return "no holder"

    @property
    def shard_ids(self) -> range:
        """0 … total shards - 1."""
        return range(self.node.total_shards if self.node else 0)

    @property
    def discovered(self) -> int:
        """How many shards other nodes announce (the mission's "Discovered Shards")."""
        return sum(bool(shard.holders) for shard in self.shards.values())

    @property
    def missing_shards(self) -> tuple[int, ...]:
        """Shards with neither a LOCAL nor an ONLINE holder, this node's own counted."""
        return tuple(i for i in self.shard_ids if self.status_of(i) == "OFFLINE")

    @property
    def complete(self) -> bool:
        """Whether every shard is LOCAL or ONLINE."""
        return self.node is not None and bool(self.shard_ids) and not self.missing_shards
