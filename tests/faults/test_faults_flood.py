"""A hundred thousand messages and records that must not get in, against a node that lives."""

from __future__ import annotations

import gc
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio
from hostile_messages import messages, records
from hosts import Here, hosts
from libp2p.records.record import make_signed_put_record
from record_kit import CLUSTER, STRANGER, announcement, signed, signed_fields

from node import events as ev, runtime
from node.network.identity import Identity, parse_peer_id
from node.network.messages import JsonProtocol, RequestFailed
from node.network.rpc import CallFailed
from node.runtime import Node
from node.settings import load_settings
from node.swarm import exchange, keys
from node.swarm.discovery import Discovery
from node.swarm.serving import Commands

pytestmark = pytest.mark.swarm

GROWTH_MIB = 16
WARM_UP = 30_000  # more than the door's memory of events holds
FLOOD = 100_000
OVER_THE_WIRE = 3_000
KEY = keys.shard_key(CLUSTER, 1)


class Live:
    """A node that runs, with its command server and its discovery in reach."""

    def __init__(self, node: Node, commands: Commands, discovery: Discovery) -> None:
        self.node = node
        self.commands = commands
        self.discovery = discovery
        assert node.door.state.node is not None
        self.peer_id = node.door.state.node.peer_id
        self.addresses = node.door.state.node.addresses
        self.latest: dict[type, Any] = {}
        node.door.tap(lambda event, before, after: self.latest.update({type(event): event}))

    def refused(self) -> tuple[int, int]:
        """Messages and records refused so far."""
        counters = self.node.door.state.counters
        return counters.messages_refused, counters.records_refused


@asynccontextmanager
async def living(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total_shards: int = 8
) -> AsyncIterator[Live]:
    """A node on 127.0.0.1 without shards."""
    made: dict[str, Any] = {}

    def keep(name: str, kind: type) -> type:
        class Kept(kind):  # type: ignore[misc]
            def __init__(self, *args: Any, **more: Any) -> None:
                super().__init__(*args, **more)
                made[name] = self

        return Kept

    monkeypatch.setattr(runtime, "Commands", keep("commands", Commands))
    monkeypatch.setattr(runtime, "Discovery", keep("discovery", Discovery))
    settings = load_settings(
        {
            "listen": "127.0.0.1",
            "mdns": False,
            "transport": "tcp",
            "cluster": CLUSTER,
            "total_shards": total_shards,
        },
        environ={"SWARMTUI_HOME": str(tmp_path)},
        cwd=tmp_path,
    )
    node = Node(settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        yield Live(node, made["commands"], made["discovery"])
        node.stop("the test is over")


async def join(here: Here, live: Live) -> None:
    """Connect a test's host to the node."""
    from node.network.addresses import parse_addresses

    here.knows(live.peer_id, parse_addresses(live.addresses, live.peer_id))
    assert await here.peers.connect(live.peer_id, force=True)
    await here.dht.add_peer(live.peer_id)


async def honest_status(here: Here, live: Live) -> None:
    """An honest GET_STATUS is answered."""
    request = {
        "command": "GET_STATUS",
        "request_id": f"honest-{random.random()}",
        "from": here.peer_id,
        "timestamp": time.time(),
        "params": {},
    }
    raw, _ = await here.json.request(live.peer_id, json.dumps(request).encode(), 10.0)
    answer = json.loads(raw)
    assert answer["status"] == "success"
    assert answer["result"]["peer_id"] == live.peer_id


async def flood(live: Live, count: int) -> Counter[str]:
    """Give the node `count` bad messages and records; the fields it named."""
    author, sender, stranger = Identity.create(), Identity.create(), Identity.create()
    bad_messages = messages(sender.peer_id, stranger.peer_id)
    raw, _ = next(bad_messages)
    assert json.loads(await live.commands.answer(raw, sender.peer_id))["status"] == "success"
    bad_records = records(author, stranger)
    named: Counter[str] = Counter()
    before = live.refused()
    for number in range(count // 2):
        raw, field = next(bad_messages)
        answer = json.loads(await live.commands.answer(raw, sender.peer_id))
        assert answer["status"] == "error", raw
        told = answer["error"].removeprefix("Input validation failed: ").split(": ")[0]
        assert told == field, raw
        assert live.latest[ev.MessageRefused].field == field
        named[told] += 1
        record, field = next(bad_records)
        if number % 3 == 0:
            with pytest.raises(ValueError):
                live.discovery.check(KEY, record, sender.peer_id)
        elif number % 3 == 1:
            assert not live.discovery.accept_gossip(record, author.peer_id, sender.peer_id)
        else:
            live.discovery.take_from_exchange(record, sender.peer_id)
        told = live.latest[ev.RecordRefused].field.split("[")[0]
        assert told == field or field in ("sequence", "timestamp", "layer_end"), (told, record)
        named[told] += 1
        if number % 500 == 0:
            await trio.lowlevel.checkpoint()
    after = live.refused()
    assert (after[0] - before[0], after[1] - before[1]) == (count // 2, count // 2)
    assert len(live.discovery.book) == 0
    return named


def resident_mib() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / (1 << 20)


async def test_memory_stays_flat_under_a_hundred_thousand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosts(1) as [here], living(tmp_path, monkeypatch) as live:
        await join(here, live)
        await flood(live, WARM_UP)
        before = resident_mib()
        named = await flood(live, FLOOD)
        grown = resident_mib() - before
        assert grown <= GROWTH_MIB, f"{grown:.1f} MiB"
        assert sum(named.values()) == FLOOD
        assert len(named) > 20
        await honest_status(here, live)
        assert not live.node.door.state.problems or all(
            item.level != "error" for item in live.node.door.state.problems
        )


async def test_thousands_over_a_real_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosts(1) as [here], living(tmp_path, monkeypatch) as live:
        await join(here, live)
        bad = messages(here.peer_id, STRANGER.peer_id)
        raw, _ = next(bad)
        assert raw is not None
        await here.json.request(live.peer_id, raw, 10.0)
        wrong: list[str] = []
        left = iter(range(OVER_THE_WIRE))

        async def ask() -> None:
            for _ in left:
                raw, field = next(bad)
                if raw is None:
                    raw = b"x" * ((1 << 20) + 1) if random.random() < 0.02 else b"no JSON"
                    field = "size" if len(raw) > 10 else "message"
                answer = json.loads((await here.json.request(live.peer_id, raw, 20.0))[0])
                if answer["status"] != "error" or f": {field}: " not in answer["error"]:
                    wrong.append(f"{raw[:80]!r}: {answer}")

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(ask)
        assert not wrong
        assert live.refused()[0] == OVER_THE_WIRE
        await honest_status(here, live)


async def test_bad_records_over_a_real_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosts(1) as [here], living(tmp_path, monkeypatch) as live:
        await join(here, live)
        author = Identity.create()
        offers = JsonProtocol(here.host, here.peers, exchange.PROTOCOL, exchange.MAX_BYTES)
        bad = records(author, STRANGER)
        for _ in range(20):
            batch = [raw for raw, _ in itertools.islice(bad, 60) if len(raw) <= 2048]
            texts = [raw.decode("utf-8", "replace")[:2000] for raw in batch]
            body = json.dumps({"cluster": CLUSTER, "records": texts, "have": {}}).encode()
            answer = json.loads((await offers.request(live.peer_id, body, 10.0))[0])
            assert answer["records"] == []
        refused = live.refused()[1]
        assert refused > 800
        stored = 0
        node = parse_peer_id(live.peer_id)
        for raw, _ in itertools.islice(bad, 300):
            record = make_signed_put_record(KEY.encode(), raw, here.host.get_private_key())
            try:
                await here.dht._calls.put_value(node, record, 5.0)
                stored += 1
            except CallFailed:
                continue
        assert stored == 0
        assert live.refused()[1] == refused + 300
        assert len(live.discovery.book) == 0
        await honest_status(here, live)


HOSTILE_OFFERS = {
    "nested": b'{"cluster":' + b"[" * 400_000,
    "nested inside": b'{"cluster":"test","x":' + b"[" * 400_000,
    "not JSON": b"\xff" * 1000,
    "empty": b"",
    "too many": json.dumps({"cluster": "test", "records": [""] * 300}).encode(),
    "wrong types": b'{"cluster":5}',
    "huge digest": json.dumps(
        {"cluster": "test", "have": {str(i): i for i in range(5000)}}
    ).encode(),
    "negative": b'{"cluster":"test","have":{"0/x":-1}}',
    "too long": b" " * ((1 << 20) + 10),
}


@pytest.mark.parametrize("offer", HOSTILE_OFFERS)
async def test_a_malformed_offer_is_answered_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offer: str
) -> None:
    async with hosts(1) as [here], living(tmp_path, monkeypatch) as live:
        await join(here, live)
        offers = JsonProtocol(here.host, here.peers, exchange.PROTOCOL, exchange.MAX_BYTES)
        raw, _ = await offers.request(live.peer_id, HOSTILE_OFFERS[offer], 10.0)
        assert "error" in json.loads(raw)
        await honest_status(here, live)


async def test_signed_announcements_with_hostile_contents_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed by a real peer and within all limits, so they get in: what they say must not hurt.
    An address like /ip4/…/tls/tcp/5 ended the node once, from gossip, exchange and DHT alike."""
    async with hosts(1) as [here], living(tmp_path, monkeypatch) as live:
        await join(here, live)
        mallory = Identity.create()
        base = {"shard_loaded": False, "phase": "file"}
        hostile = [
            {"addresses": ("/ip4/192.0.2.1/tls/tcp/5", "/p2p/x", "\x1b[2J", "/ip4/::/tcp/1")},
            {"model_name": "\x1b]0;owned\x07\u202e" * 5, "agent": "[red]\x1b[31m"},
            {"sequence": (1 << 62) - 1},
            {"size": 1 << 50, "layer_end": 10_000},
        ]
        for number, changes in enumerate(hostile):
            record = announcement(mallory, **{"sequence": number, **base, **changes})
            raw = signed(record, mallory)
            assert live.discovery.accept_gossip(raw, mallory.peer_id, here.peer_id)
            await live.discovery.receive_gossip(raw, mallory.peer_id)
            live.discovery.take_from_exchange(raw, here.peer_id)
            live.discovery.check(KEY, raw, here.peer_id)
        holder = live.node.door.state.shards[1].holders[mallory.peer_id]
        for text in (holder.model_name, holder.agent):
            assert not any(ord(c) < 32 or c in "\u202e\x7f" for c in text)
        # Every event of it can be written and read again, so no journal and no door breaks.
        for event in live.node.door.events(0, 100_000)[0]:
            assert ev.decode(ev.encode(event)) == event
        await honest_status(here, live)


async def test_one_peer_that_announces_everything_is_stopped_and_the_node_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The book's refusal came out of the DHT's validator once, and ended the node."""
    async with hosts(1) as [here], living(tmp_path, monkeypatch, 1000) as live:
        await join(here, live)
        node = parse_peer_id(live.peer_id)
        refused = 0
        for shard in range(90):
            key = keys.shard_key(CLUSTER, shard)
            raw = signed(
                announcement(here.identity, shard_id=shard, total_shards=1000), here.identity
            )
            record = make_signed_put_record(key.encode(), raw, here.host.get_private_key())
            try:
                await here.dht._calls.put_value(node, record, 5.0)
            except CallFailed:
                refused += 1
        assert refused == 26
        assert len(live.discovery.book) == 64
        # The same through a lookup of the node's own.
        for shard in range(64, 70):
            key = keys.shard_key(CLUSTER, shard)
            raw = signed(
                announcement(here.identity, shard_id=shard, total_shards=1000), here.identity
            )
            here.dht._keep(key.encode(), raw)
            assert await live.discovery.dht.get(key) == []
        await honest_status(here, live)


@pytest.mark.parametrize(
    "reply",
    [
        b"[" * 100_000,
        b'{"message":' + b"[" * 100_000,
        b"",
        b"\xff",
        b'{"message": 1' + b"0" * 6000 + b"}",
        b'{"result": {"x": 1' + b"0" * 300 + b'}, "message": 5}',
        b'{"status": "success\\n", "result": {}}',
        b"5",
    ],
    ids=["deep", "deep inside", "empty", "bytes", "huge", "big", "newline", "number"],
)
async def test_hostile_answers_to_our_own_commands_are_failures_and_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: bytes
) -> None:
    """A RecursionError came out of an answer to a message once, and ended the node."""
    async with hosts(1) as [here], living(tmp_path, monkeypatch) as live:

        async def serve(raw: bytes | None, peer_id: str) -> bytes:
            return reply

        here.json.serve(serve)
        await join(here, live)
        answered = live.node.door.request(
            "send", {"command": "MESSAGE", "to": here.peer_id, "text": "hello"}
        )
        status = live.node.door.request("send", {"command": "GET_STATUS", "to": here.peer_id})
        for future in (answered, status):
            answer = (await trio.to_thread.run_sync(future.result, 10))["answers"][0]
            assert answer["status"] in ("error", "success")
        assert answer["status"] == "error"
        for event in live.node.door.events(0, 100_000)[0]:
            assert ev.decode(ev.encode(event)) == event
        await honest_status_without_serving(here, live)


async def honest_status_without_serving(here: Here, live: Live) -> None:
    """The node still answers a host that answers nonsense itself."""
    try:
        await honest_status(here, live)
    except RequestFailed as error:
        pytest.fail(f"the node does not answer: {error.reason}")


async def test_a_record_with_a_fitting_signature_over_nonsense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mallory = Identity.create()
    nonsense = [
        {},
        {"peer_id": mallory.peer_id, "shard_id": 1},
        {"peer_id": mallory.peer_id, "shard_id": 10**30},
        {"peer_id": "x" * 46, "shard_id": 1},
        {"peer_id": mallory.peer_id, "shard_id": 1, "x": {"y": {"z": {"a": {}}}}},
    ]
    async with living(tmp_path, monkeypatch) as live:
        for fields in nonsense:
            raw = signed_fields(fields, mallory)
            before = live.refused()[1]
            assert not live.discovery.accept_gossip(raw, mallory.peer_id, mallory.peer_id)
            live.discovery.take_from_exchange(raw, mallory.peer_id)
            assert live.refused()[1] == before + 2
