"""Signed records: announcements, readiness, torrent metadata; checked before anything else.

A record is JSON of at most 2 KiB, signed by the peer it speaks for. `read_record` is the only way
in: size, depth, types, limits, key, age and signature, in that order (cheap first), and a refusal
names the field. Nothing is believed, stored or printed before it.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec

from node.clean import clean
from node.swarm import keys
from node.torrent.files import info_hash

MAX_RECORD_BYTES = 2048
MAX_AGE_S = 300.0
MAX_TORRENT_AGE_S = 3600.0
MAX_AHEAD_S = 300.0
MAX_DEPTH = 4
VERSION = 2
PROTOCOLS = (2, 2)
DOMAIN = b"llama-cluster record v2\0"

Signer = Callable[[bytes], bytes]
Verifier = Callable[[str, bytes, bytes], bool]

PeerId = Annotated[str, msgspec.Meta(min_length=40, max_length=128, pattern=r"^[A-Za-z0-9]+\Z")]
ShortText = Annotated[str, msgspec.Meta(max_length=96)]
ShardId = Annotated[int, msgspec.Meta(ge=0, lt=keys.MAX_SHARDS)]
Layer = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
Sequence = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Address = Annotated[str, msgspec.Meta(max_length=200)]
Phase = Annotated[str, msgspec.Meta(pattern=r"^(none|file|downloading|loading|loaded)\Z")]


class RecordRefusedError(Exception):
    """A record that is not believed. `field` is what was wrong, `reason` one clause."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class Capabilities(msgspec.Struct, frozen=True):
    """What a machine offers; sizes in MiB."""

    cpu_cores: Count = 0
    memory_total_mb: Count = 0
    memory_available_mb: Count = 0
    gpu_available: bool = False
    gpu_memory_mb: Count = 0
    shard_loaded: bool = False


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """One holder's word on one shard (the mission's fields, plus sequence, phase, size, root)."""

    cluster: ShortText
    peer_id: PeerId
    shard_id: ShardId
    layer_start: Layer
    layer_end: Layer
    shard_loaded: bool
    addresses: Annotated[tuple[Address, ...], msgspec.Meta(max_length=6)]
    capabilities: Capabilities
    model_name: ShortText
    total_shards: Annotated[int, msgspec.Meta(ge=1, le=keys.MAX_SHARDS)]
    timestamp: float
    version: int
    sequence: Sequence
    phase: Phase = "none"
    progress: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    size: Size = 0
    root: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    agent: ShortText = ""
    protocols: tuple[int, int] = PROTOCOLS
    leaving: bool = False
    sig: Annotated[str, msgspec.Meta(max_length=128)] = ""


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the announcing peer sees every shard held and loaded."""

    cluster_name: ShortText
    total_shards: Annotated[int, msgspec.Meta(ge=1, le=keys.MAX_SHARDS)]
    available_shards: Annotated[tuple[ShardId, ...], msgspec.Meta(max_length=256)]
    announcing_peer_id: PeerId
    is_ready: bool
    timestamp: float
    sequence: Sequence
    sig: Annotated[str, msgspec.Meta(max_length=128)] = ""


class TorrentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The mission's metadata record of a shard file, and its root.

    manifest: the signed manifest as JSON text, where there is room; it is what decides
    withdrawn: this peer no longer has the file
    """

    cluster: ShortText
    info_hash: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    filename: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    size: Size
    peer_id: PeerId
    timestamp: float
    sequence: Sequence
    root: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    piece_length: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] = 0
    publisher: Annotated[str, msgspec.Meta(max_length=128)] = ""
    manifest: Annotated[str, msgspec.Meta(max_length=MAX_RECORD_BYTES)] = ""
    withdrawn: bool = False
    sig: Annotated[str, msgspec.Meta(max_length=128)] = ""


Record = Announcement | Readiness | TorrentRecord
R = TypeVar("R", Announcement, Readiness, TorrentRecord)
_TYPES: dict[keys.Kind, type[Any]] = {
    "shard": Announcement,
    "holder": Announcement,
    "readiness": Readiness,
    "torrent": TorrentRecord,
}


def author(record: Record) -> str:
    """The peer a record speaks for."""
    return record.announcing_peer_id if isinstance(record, Readiness) else record.peer_id


def _signed_bytes(fields: dict[str, Any]) -> bytes:
    body = {name: value for name, value in fields.items() if name != "sig"}
    return DOMAIN + json.dumps(
        body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8")


def write_record(record: Record, sign: Signer) -> bytes:
    """Sign a record of our own and encode it. ValueError when it exceeds MAX_RECORD_BYTES."""
    fields = msgspec.to_builtins(record)
    fields["sig"] = base64.b64encode(sign(_signed_bytes(fields))).decode("ascii")
    encoded = json.dumps(
        fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8")
    if len(encoded) > MAX_RECORD_BYTES:
        raise ValueError(f"the record has {len(encoded)} bytes, {MAX_RECORD_BYTES} are allowed")
    return encoded


def _depth_within(raw: bytes, limit: int) -> bool:
    depth = 0
    in_string = escaped = False
    for byte in raw:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in (0x7B, 0x5B):
            depth += 1
            if depth > limit:
                return False
        elif byte in (0x7D, 0x5D):
            depth -= 1
    return True


_FIELD = re.compile(r"at `\$\.([^`]*)`")


def field_of(error: msgspec.ValidationError) -> str:
    """Which field a msgspec error is about; "record" when it is the whole."""
    text = str(error)
    found = _FIELD.search(text)
    if found and found.group(1):
        return clean(found.group(1), 64)
    missing = re.search(r"required field `([^`]+)`", text)
    return clean(missing.group(1), 64) if missing else "record"


def read_record(
    key: str, raw: bytes, verify: Verifier, *, now: float | None = None
) -> Announcement | Readiness | TorrentRecord:
    """Check a stranger's record under `key` and return it typed.

    `verify(peer_id, data, signature)` checks the signature. Raises RecordRefusedError.
    """
    if len(raw) > MAX_RECORD_BYTES:
        raise RecordRefusedError("size", f"{len(raw)} bytes, {MAX_RECORD_BYTES} are allowed")
    try:
        parsed = keys.parse(key)
    except ValueError as error:
        raise RecordRefusedError("key", clean(error, 120)) from error
    if not _depth_within(raw, MAX_DEPTH):
        raise RecordRefusedError("record", "nested too deeply")
    try:
        fields = msgspec.json.decode(raw)
        record: Record = msgspec.convert(fields, _TYPES[parsed.kind])
    except msgspec.ValidationError as error:
        raise RecordRefusedError(field_of(error), clean(error, 160)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise RecordRefusedError("record", "not JSON") from error
    _check_key(parsed, record)
    longest = MAX_TORRENT_AGE_S if isinstance(record, TorrentRecord) else MAX_AGE_S
    check_age(record.timestamp, time.time() if now is None else now, longest)
    check_signature(fields, author(record), verify)
    return record


def check_age(timestamp: float, now: float, longest: float = MAX_AGE_S) -> None:
    """Refuse what is too old or too far in the future (replay, or a clock gone wrong)."""
    age = now - timestamp
    if not age <= longest:
        raise RecordRefusedError("timestamp", f"{age:.0f} s old, {longest:.0f} s are allowed")
    if not age >= -MAX_AHEAD_S:
        raise RecordRefusedError("timestamp", f"{-age:.0f} s in the future")


def check_signature(fields: dict[str, Any], peer_id: str, verify: Verifier) -> None:
    """Refuse a record that its author did not sign."""
    try:
        signature = base64.b64decode(str(fields.get("sig", "")), validate=True)
    except ValueError as error:
        raise RecordRefusedError("sig", "not base64") from error
    try:
        data = _signed_bytes(fields)
    except (ValueError, RecursionError) as error:
        raise RecordRefusedError("record", "cannot be canonicalised") from error
    if not verify(peer_id, data, signature):
        raise RecordRefusedError("sig", "not signed by the peer it speaks for")


def _check_key(parsed: keys.Key, record: Record) -> None:
    if isinstance(record, Readiness):
        if record.cluster_name != parsed.cluster:
            raise RecordRefusedError("cluster_name", "does not match the key")
        return
    if record.cluster != parsed.cluster:
        raise RecordRefusedError("cluster", "does not match the key")
    if isinstance(record, TorrentRecord):
        if record.info_hash != parsed.name:
            raise RecordRefusedError("info_hash", "does not match the key")
        if record.info_hash != info_hash(record.filename, record.size):
            raise RecordRefusedError("info_hash", "does not follow from filename and size")
        return
    if str(record.shard_id) != parsed.name:
        raise RecordRefusedError("shard_id", "does not match the key")
    if parsed.kind == "holder" and record.peer_id != parsed.peer_id:
        raise RecordRefusedError("peer_id", "does not match the key")
    if record.shard_id >= record.total_shards:
        raise RecordRefusedError("shard_id", "not below total_shards")
    if record.layer_end < record.layer_start:
        raise RecordRefusedError("layer_end", "before layer_start")
    if record.shard_loaded and record.phase not in ("loaded", "none"):
        raise RecordRefusedError("phase", "contradicts shard_loaded")


def order(raw: bytes) -> tuple[int, bytes]:
    """What decides between two records of one key: sequence, then content. Total."""
    try:
        sequence = msgspec.json.decode(raw).get("sequence", -1)
    except (msgspec.DecodeError, AttributeError, UnicodeDecodeError, RecursionError):
        sequence = -1
    return (sequence if isinstance(sequence, int) else -1, raw)


def select(values: list[bytes]) -> int:
    """The index of the best of `values`; among equals the last, so that a re-put is accepted."""
    return max(range(len(values)), key=lambda index: (*order(values[index]), index))


class SequenceClock:
    """Sequence numbers that grow across restarts: unix milliseconds, never the same twice."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last = 0

    def next(self) -> int:
        self._last = max(self._last + 1, int(self._clock() * 1000))
        return self._last
