"""The commands of `/json-message/1.0`: each one declared type with its limits.

A request is checked in order of cost: length, JSON, depth, envelope, sender, age, replay, command,
params. Whatever is wrong is named by its field in the error answer and in an event.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from node.clean import clean
from node.swarm import keys
from node.swarm.records import ShardId, field_of

MAX_AGE_S = 300.0
MAX_AHEAD_S = 60.0
MAX_DEPTH = 12
MAX_TEXT = 4096
REPLAY_MEMORY = 8192

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Z_]+\Z")]
RequestId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
PeerText = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class MessageRefusedError(Exception):
    """A message that is not acted on. `field` is what was wrong, `reason` one clause."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class NoParams(msgspec.Struct, frozen=True):
    """GET_STATUS, GET_CAPABILITIES and LIST_FILES take none."""


class LoadShard(msgspec.Struct, frozen=True):
    """LOAD_SHARD: which shard; `model_name` is accepted as the origin sends it."""

    shard_id: ShardId
    model_name: Annotated[str, msgspec.Meta(max_length=96)] = ""


class UnloadShard(msgspec.Struct, frozen=True):
    """UNLOAD_SHARD: which shard."""

    shard_id: ShardId


class SyncTorrents(msgspec.Struct, frozen=True):
    """SYNC_TORRENTS: how many shards the sender expects in all."""

    total_shards: Annotated[int, msgspec.Meta(ge=1, le=keys.MAX_SHARDS)]


class SwarmReady(msgspec.Struct, frozen=True):
    """SWARM_READY: the sender's cluster and shard count."""

    total_shards: Annotated[int, msgspec.Meta(ge=1, le=keys.MAX_SHARDS)]
    cluster_name: Annotated[str, msgspec.Meta(max_length=64)] = ""


class ShardLoaded(msgspec.Struct, frozen=True):
    """SHARD_LOADED: the sender has this shard in memory.

    With `status` it tells how a LOAD_SHARD ended that was answered "downloading": "loaded", or
    "failed" with the `error`.
    """

    shard_id: ShardId
    cluster_name: Annotated[str, msgspec.Meta(max_length=64)] = ""
    peer_id: Annotated[str, msgspec.Meta(max_length=128)] = ""
    status: Annotated[str, msgspec.Meta(pattern=r"^(loaded|failed)?\Z")] = ""
    error: Annotated[str, msgspec.Meta(max_length=400)] = ""


class Inference(msgspec.Struct, frozen=True):
    """INFERENCE: accepted in shape; answered "not available in this version"."""

    prompt: Annotated[str, msgspec.Meta(max_length=1_000_000)] = ""
    input_data: Annotated[str, msgspec.Meta(max_length=1_000_000)] = ""
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 256
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.7
    shard_id: ShardId | None = None


PARAMS: dict[str, type[msgspec.Struct]] = {
    "GET_STATUS": NoParams,
    "GET_CAPABILITIES": NoParams,
    "LIST_FILES": NoParams,
    "LOAD_SHARD": LoadShard,
    "UNLOAD_SHARD": UnloadShard,
    "SYNC_TORRENTS": SyncTorrents,
    "SWARM_READY": SwarmReady,
    "SHARD_LOADED": ShardLoaded,
    "INFERENCE": Inference,
}


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A request to another node."""

    command: Name
    request_id: RequestId
    from_: PeerText = msgspec.field(name="from")
    to: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    timestamp: float
    params: dict[str, Any] = {}


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a command."""

    command: Annotated[str, msgspec.Meta(max_length=64)]
    request_id: Annotated[str, msgspec.Meta(max_length=128)]
    from_: Annotated[str, msgspec.Meta(max_length=128)] = msgspec.field(name="from")
    to: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    timestamp: float
    status: Annotated[str, msgspec.Meta(pattern=r"^(success|error|timeout)\Z")]
    result: dict[str, Any] | None = None
    error: Annotated[str, msgspec.Meta(max_length=4096)] | None = None


class PlainMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A text to the operator of another node."""

    from_: PeerText = msgspec.field(name="from")
    message: Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
    timestamp: float | Annotated[str, msgspec.Meta(max_length=64)]
    send_time_ms: float | None = None


class Replays:
    """The request ids of the last minutes, so that a repeated one is not served twice."""

    def __init__(self, limit: int = REPLAY_MEMORY) -> None:
        self._seen: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._limit = limit

    def is_new(self, peer_id: str, request_id: str, now: float) -> bool:
        """Remember the pair; False when it was seen within the allowed age."""
        key = (peer_id, request_id)
        if now - self._seen.get(key, -MAX_AGE_S * 2) <= MAX_AGE_S + MAX_AHEAD_S:
            return False
        self._seen[key] = now
        self._seen.move_to_end(key)
        while len(self._seen) > self._limit:
            self._seen.popitem(last=False)
        return True


def _depth(value: Any, limit: int) -> bool:
    if limit < 0:
        return False
    if isinstance(value, dict):
        return all(_depth(item, limit - 1) for item in value.values())
    if isinstance(value, list):
        return all(_depth(item, limit - 1) for item in value)
    return True


def parse(raw: bytes | None, peer_id: str, now: float) -> Command | PlainMessage:
    """Check a stranger's request. `peer_id` is who authenticated. Raises MessageRefusedError."""
    if raw is None:
        raise MessageRefusedError("size", "longer than 1 MiB")
    try:
        fields = msgspec.json.decode(raw)
    except RecursionError as error:
        raise MessageRefusedError("message", "nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MessageRefusedError("message", "not JSON") from error
    if not isinstance(fields, dict):
        raise MessageRefusedError("message", "not a JSON object")
    if not _depth(fields, MAX_DEPTH):
        raise MessageRefusedError("message", f"nested deeper than {MAX_DEPTH}")
    kind: type[Command] | type[PlainMessage] = Command if "command" in fields else PlainMessage
    if kind is PlainMessage and "message" not in fields:
        raise MessageRefusedError("command", "missing")
    try:
        message = msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise MessageRefusedError(field_of(error), clean(error, 160)) from error
    if message.from_ != peer_id:
        raise MessageRefusedError("from", "is not the peer that sent it")
    check_timestamp(message.timestamp, now)
    return message


def check_timestamp(timestamp: float | str, now: float) -> None:
    """Refuse what is older than 300 s or more than 60 s ahead; text times are display only."""
    if isinstance(timestamp, str):
        return
    age = now - timestamp
    if not age <= MAX_AGE_S:
        raise MessageRefusedError("timestamp", f"{age:.0f} s old, {MAX_AGE_S:.0f} are allowed")
    if not age >= -MAX_AHEAD_S:
        raise MessageRefusedError("timestamp", f"{-age:.0f} s in the future")


def parse_params(command: str, params: dict[str, Any]) -> msgspec.Struct:
    """The typed params of a known command. Raises MessageRefusedError."""
    kind = PARAMS.get(command)
    if kind is None:
        raise MessageRefusedError("command", f"unknown command {clean(command, 64)}")
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise MessageRefusedError(f"params.{field_of(error)}", clean(error, 160)) from error


class RequestIds:
    """Ids for our own requests: `req-<unix nanoseconds>`, never twice."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._last = 0

    def next(self) -> str:
        self._last = max(self._last + 1, self._clock())
        return f"req-{self._last}"


def encode_command(command: Command) -> bytes:
    """A command as it goes over the wire."""
    return msgspec.json.encode(command)


def encode_response(response: Response) -> bytes:
    """An answer as it goes over the wire."""
    return msgspec.json.encode(response)


def parse_response(raw: bytes) -> Response:
    """Check an answer. Raises MessageRefusedError."""
    try:
        fields = msgspec.json.decode(raw)
        if not _depth(fields, MAX_DEPTH):
            raise MessageRefusedError("answer", f"nested deeper than {MAX_DEPTH}")
        return msgspec.convert(fields, Response)
    except msgspec.ValidationError as error:
        raise MessageRefusedError(field_of(error), clean(error, 160)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageRefusedError("answer", "not JSON") from error
