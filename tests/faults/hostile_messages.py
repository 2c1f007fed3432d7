"""Messages and records that must be refused, each with the field that has to be named."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

from record_kit import announcement, fields_of, signed, signed_fields

from node.network.identity import Identity
from node.swarm.records import MAX_RECORD_BYTES

Case = tuple[bytes | None, str]


def _command(peer_id: str, number: int, **changes: Any) -> dict[str, Any]:
    fields = {
        "command": "GET_STATUS",
        "request_id": f"hostile-{number}",
        "from": peer_id,
        "timestamp": time.time(),
        "params": {},
    }
    return fields | changes


def messages(peer_id: str, stranger: str) -> Iterator[Case]:
    """An endless round of bad messages that say to come from `peer_id`."""
    deep = {"[": "]", '{"a":': "}"}
    used = json.dumps(_command(peer_id, 0, request_id="used before")).encode()
    yield used, ""  # the first is good, every replay of it is not
    for number in itertools.count(1):
        now = time.time()

        def bad(number: int = number, **changes: Any) -> bytes:
            return json.dumps(_command(peer_id, number, **changes)).encode()

        opening = ("[", '{"a":')[number % 2]
        yield used, "request_id"
        yield b"", "message"
        yield b"\xff\xfe" + bytes([number % 256]) * 50, "message"
        yield f"[{number}]".encode(), "message"
        yield bad()[: -1 - number % 40], "message"
        yield (opening * (50 + number % 2000)).encode(), "message"
        yield (opening * 300 + "1" + deep[opening] * 300).encode(), "message"
        yield None, "size"
        yield bad(**{"from": stranger}), "from"
        yield bad(**{"from": number}), "from"
        yield bad(command=f"NO_SUCH_{'X' * (number % 9)}"), "command"
        yield bad(command="\x1b[2J"), "command"
        yield bad(command=None), "command"
        yield bad(request_id=""), "request_id"
        yield bad(request_id="x" * 200), "request_id"
        yield bad(to=stranger), "to"
        yield bad(timestamp=now - 301 - number), "timestamp"
        yield bad(timestamp=now + 3600 + number), "timestamp"
        yield bad(timestamp="soon"), "timestamp"
        yield bad(timestamp=10**400), "timestamp"
        yield bad(params=[number]), "params"
        yield bad(command="LOAD_SHARD"), "params.shard_id"
        yield bad(command="LOAD_SHARD", params={"shard_id": -number}), "params.shard_id"
        yield bad(command="LOAD_SHARD", params={"shard_id": 1000 + number}), "params.shard_id"
        yield bad(command="SYNC_TORRENTS", params={"total_shards": "4"}), "params.total_shards"
        yield bad(command="INFERENCE", params={"temperature": 9}), "params.temperature"
        yield json.dumps({"from": peer_id, "timestamp": now}).encode(), "command"
        yield json.dumps({"from": peer_id, "message": number, "timestamp": now}).encode(), "message"
        long = {"from": peer_id, "message": "x" * 5000, "timestamp": now}
        yield json.dumps(long).encode(), "message"


def records(author: Identity, stranger: Identity) -> Iterator[tuple[bytes, str]]:
    """An endless round of bad announcements of shard 1."""
    good = fields_of(announcement(author))
    forged = json.loads(signed(announcement(author)))
    for number in itertools.count(1):
        now = time.time()

        def bad(**changes: Any) -> bytes:
            return json.dumps({**forged, **changes}).encode()

        yield bytes([number % 256]) * (1 + number % 60), "record"
        yield b"[" * (5 + number % 1000), "record"
        yield b'{"a":' * 300, "record"
        yield b" " * (MAX_RECORD_BYTES + number % 5000 + 1), "size"
        yield bad(sequence=number + 10), "sig"  # a newer word that its author never gave
        yield bad(sig=""), "sig"
        yield bad(sequence="9"), "sequence"
        yield bad(total_shards=0), "total_shards"
        yield bad(layer_start=-number), "layer_start"
        yield bad(phase="loaded\n"), "phase"
        yield bad(progress=number + 1), "progress"
        yield bad(addresses=["x"] * 7), "addresses"
        yield bad(addresses=["x" * (201 + number % 300)]), "addresses"
        yield bad(timestamp=now - 400 - number), "timestamp"
        yield bad(timestamp=now + 400 + number), "timestamp"
        yield bad(model_name="\x1b" * 97), "model_name"
        yield bad(root="z"), "root"
        if number % 10 == 0:
            yield signed_fields(good | {"timestamp": now}, stranger), "sig"
            yield signed(announcement(author, layer_start=9, layer_end=1), author), "layer_end"
