"""Finding files: every way is used, every answer is checked, and nobody is asked too often."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import trio
from record_kit import signed

from node import events as ev
from node.network.identity import Identity, verify
from node.swarm import keys
from node.swarm.announcements import Book
from node.swarm.records import TorrentRecord
from node.swarm.sources import ASK_AGAIN_S, MAX_ANSWERED, Sources
from node.torrent.catalogue import Catalogue
from node.torrent.files import FileHash, info_hash
from node.torrent.hashing import hash_file
from node.torrent.library import Library, Seeded
from node.torrent.manifest import make_manifest, write_manifest
from node.torrent.sizes import piece_length_for
from node.torrent.transfer.shared import OpenFile

ME, ONE, TWO = Identity.create(), Identity.create(), Identity.create()
NAME, SIZE = "shard-1.gguf", 5000
KEY = info_hash(NAME, SIZE)
DHT_KEY = keys.torrent_key("test", KEY)
ROOT = "11" * 32


def manifest(by: Identity = ONE, name: str = NAME, root: str = ROOT, size: int = SIZE) -> str:
    made = make_manifest(
        filename=name,
        size=size,
        root=bytes.fromhex(root),
        piece_length=piece_length_for(size),
        publisher=by.peer_id,
        seq=1,
        now=time.time(),
    )
    return write_manifest(made, by.sign).decode()


def entry(*manifests: str, name: str = NAME, **more: Any) -> dict[str, Any]:
    return {
        "info_hash": info_hash(name, SIZE),
        "filename": name,
        "size": SIZE,
        "manifests": list(manifests),
        **more,
    }


def record(by: Identity = ONE, **changes: Any) -> TorrentRecord:
    fields: dict[str, Any] = {
        "cluster": "test",
        "info_hash": KEY,
        "filename": NAME,
        "size": SIZE,
        "peer_id": by.peer_id,
        "timestamp": round(time.time(), 3),
        "sequence": 1,
        "root": ROOT,
        "manifest": manifest(by),
    }
    return TorrentRecord(**(fields | changes))


class FakeDht:
    def __init__(self) -> None:
        self.values: dict[str, list[bytes]] = {}
        self.providers: dict[str, list[str]] = {}

    async def get(self, key: str) -> list[bytes]:
        await trio.lowlevel.checkpoint()
        return self.values.get(key, [])

    async def find_providers(self, key: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        return self.providers.get(key, [])


class FakeCommands:
    """Answers LIST_FILES and SYNC_TORRENTS as each peer was told to."""

    def __init__(self) -> None:
        self.files: dict[str, Any] = {}
        self.asked: list[tuple[str, str]] = []

    async def send(
        self, peer_id: str, command: str, params: dict[str, Any], **options: Any
    ) -> dict[str, Any]:
        self.asked.append((command, peer_id))
        await trio.lowlevel.checkpoint()
        if peer_id not in self.files:
            return {"status": "timeout", "error": "No answer."}
        return {"status": "success", "raw": {"files": self.files[peer_id]}}


class FakePeers:
    def __init__(self) -> None:
        self.connected: list[str] = []

    def is_connected(self, peer_id: str) -> bool:
        return peer_id in self.connected

    def connected_ids(self) -> list[str]:
        return list(self.connected)

    async def connect(self, peer_id: str) -> bool:
        await trio.lowlevel.checkpoint()
        self.connected.append(peer_id)
        return True


class Bench:
    def __init__(self) -> None:
        self.events: list[ev.Event] = []
        self.dht, self.commands, self.peers = FakeDht(), FakeCommands(), FakePeers()
        self.library = Library()
        self.manifests: list[bytes] = []
        self.sources = Sources(
            ME.peer_id,
            "test",
            self.peers,  # type: ignore[arg-type]
            Book("test", verify),
            Catalogue(verify),
            self.library,
            verify,
            self.events.append,
            lambda name: self.manifests,
        )
        self.sources.attach(self.dht, self.commands)  # type: ignore[arg-type]

    @property
    def with_it(self) -> set[str]:
        return self.sources.catalogue.peers_with(KEY, ROOT)

    def of(self, kind: type[ev.Event]) -> list[Any]:
        return [item for item in self.events if isinstance(item, kind)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_the_dht_leads_to_peers_and_these_to_their_manifests(bench: Bench) -> None:
    bench.dht.values[DHT_KEY] = [signed(record(), ONE)]
    bench.dht.providers[DHT_KEY] = [TWO.peer_id]
    bench.commands.files = {
        ONE.peer_id: [entry(manifest(ONE))],
        TWO.peer_id: [entry(manifest(TWO))],
    }
    await bench.sources.look_up(KEY)
    assert bench.with_it == {ONE.peer_id, TWO.peer_id}
    assert {item.peer_id for item in bench.of(ev.TorrentListed)} == {ONE.peer_id, TWO.peer_id}
    assert sorted(bench.peers.connected) == sorted([ONE.peer_id, TWO.peer_id])


async def test_every_content_is_seen_before_one_is_chosen(bench: Bench) -> None:
    """A name that is only known from one peer is looked up before anybody decides on it."""
    bench.peers.connected = [ONE.peer_id]
    bench.commands.files = {
        ONE.peer_id: [entry(manifest(ONE))],
        TWO.peer_id: [entry(manifest(TWO, root="22" * 32))],
    }
    bench.dht.providers[DHT_KEY] = [TWO.peer_id]
    assert await bench.sources.look_for(NAME, 1) == [KEY]
    assert {offer.root for offer in bench.sources.catalogue.offers(KEY)} == {ROOT, "22" * 32}


async def test_nobody_is_asked_twice_in_a_moment(bench: Bench, mock_clock: Any) -> None:
    bench.commands.files = {ONE.peer_id: []}
    await bench.sources.ask_all([ONE.peer_id, ONE.peer_id, ME.peer_id])
    await bench.sources.ask(ONE.peer_id)
    assert bench.commands.asked == [("LIST_FILES", ONE.peer_id)]
    mock_clock.jump(ASK_AGAIN_S + 1)
    await bench.sources.ask(ONE.peer_id)
    assert len(bench.commands.asked) == 2


async def test_a_whole_list_replaces_the_one_before(bench: Bench, mock_clock: Any) -> None:
    bench.commands.files = {ONE.peer_id: [entry(manifest(ONE))]}
    await bench.sources.ask(ONE.peer_id)
    assert bench.with_it == {ONE.peer_id}
    bench.commands.files = {ONE.peer_id: []}
    mock_clock.jump(ASK_AGAIN_S + 1)
    await bench.sources.ask(ONE.peer_id)
    assert bench.with_it == set()
    assert [item.info_hash for item in bench.of(ev.TorrentUnlisted)] == [KEY]


async def test_a_rendezvous_node_names_the_peers_that_have_it(bench: Bench) -> None:
    rendezvous = Identity.create().peer_id
    named = entry(manifest(ONE), here=False, peers=[ONE.peer_id, ME.peer_id])
    bench.commands.files = {rendezvous: [named]}
    assert await bench.sources.sync(rendezvous, 4, again=False) == 1
    assert bench.with_it == {ONE.peer_id}, "neither the rendezvous node nor this one has it"
    assert await bench.sources.sync("silent", 4, again=False) is None


@pytest.mark.parametrize(
    "files",
    [
        "not a list",
        [1, 2],
        [entry(manifest(), peers=["../../etc/passwd"])],
        [entry(*["x"] * 9)],
        [entry("x" * 3000)],
        [entry() for _ in range(MAX_ANSWERED + 1)],
    ],
    ids=["text", "numbers", "bad peer", "many manifests", "long manifest", "many files"],
)
async def test_a_malformed_list_is_refused_whole(bench: Bench, files: Any) -> None:
    bench.commands.files = {ONE.peer_id: files}
    await bench.sources.ask(ONE.peer_id)
    assert bench.sources.catalogue.files() == []
    (refused,) = bench.of(ev.MessageRefused)
    assert (refused.peer_id, refused.field) == (ONE.peer_id, "files")


async def test_a_bad_manifest_is_refused_and_the_good_one_beside_it_taken(bench: Bench) -> None:
    forged = manifest(ONE).replace('"seq":1', '"seq":7')
    bench.commands.files = {ONE.peer_id: [entry(forged, manifest(TWO))]}
    await bench.sources.ask(ONE.peer_id)
    assert bench.with_it == {ONE.peer_id}
    (refused,) = bench.of(ev.RecordRefused)
    assert (refused.field, refused.source) == ("sig", "message")


async def test_a_withdrawn_record_takes_its_peer_out(bench: Bench) -> None:
    bench.sources.take_record(record(ONE))
    bench.sources.take_record(record(TWO))
    bench.sources.take_record(record(ONE, withdrawn=True, manifest=""))
    assert bench.with_it == {TWO.peer_id}
    bench.sources.take_record(record(ME))
    assert ME.peer_id not in bench.with_it


async def test_seeders_come_from_the_list_and_from_the_root(bench: Bench) -> None:
    bench.sources.take_record(record(ONE))
    bench.dht.providers[keys.root_key("test", ROOT)] = [TWO.peer_id, ME.peer_id]
    assert await bench.sources.seeders(KEY, ROOT) == {ONE.peer_id, TWO.peer_id}


async def test_what_this_node_answers(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(b"x" * SIZE)
    hashes = hash_file(path)
    found = path.stat()
    file = FileHash(NAME, SIZE, found.st_mtime_ns, found.st_ino, KEY)
    bench.library.add(Seeded(file, hashes, OpenFile(path, hashes, checked=True)))
    bench.manifests = [manifest(ME, root=hashes.root.hex()).encode()]
    bench.sources.take_record(record(ONE))
    own = bench.sources.listing(all_known=False)
    assert [(item["filename"], item["here"]) for item in own] == [(NAME, True)]
    every = bench.sources.listing(all_known=True)
    assert [(item["root"], item["here"], item["peers"]) for item in every] == [
        (hashes.root.hex(), True, ()),
        (ROOT, False, (ONE.peer_id,)),
    ]
    other = Bench()
    other.commands.files = {ME.peer_id: every}
    other.sources._own_id = "somebody else"
    await other.sources.ask(ME.peer_id)
    assert other.with_it == {ONE.peer_id}
    assert other.sources.catalogue.peers_with(KEY, hashes.root.hex()) == {ME.peer_id}
    bench.library.close()


@pytest.mark.parametrize("how", ["silent", "unreachable"])
@pytest.mark.parametrize("first", [True, False])
async def test_invented_providers_cost_seconds_and_hide_nobody(
    bench: Bench, autojump_clock: object, monkeypatch: pytest.MonkeyPatch, how: str, first: bool
) -> None:
    """160 of them each cost their own deadline: 200 s, one after the other."""
    bogus = [f"bogus-{number}" for number in range(160)]
    named = [ONE.peer_id, *bogus] if first else [*bogus, ONE.peer_id]
    bench.commands.files = {ONE.peer_id: [entry(manifest(ONE))]}
    bench.dht.providers[DHT_KEY] = named
    if not first:  # a seeder has a record, too
        bench.dht.values[DHT_KEY] = [signed(record(), ONE)]
    send, connect = bench.commands.send, bench.peers.connect

    async def slow_send(peer_id: str, *rest: Any, **options: Any) -> Any:
        if peer_id in bogus and how == "silent":
            await trio.sleep(options["timeout"])
        return await send(peer_id, *rest, **options)

    async def slow_connect(peer_id: str) -> bool:
        if peer_id in bogus and how == "unreachable":
            await trio.sleep(4)
            return False
        return bool(await connect(peer_id))

    monkeypatch.setattr(bench.commands, "send", slow_send)
    monkeypatch.setattr(bench.peers, "connect", slow_connect)
    began = trio.current_time()
    await bench.sources.look_up(KEY)
    assert trio.current_time() - began <= 8.0
    assert bench.with_it == {ONE.peer_id}
    # Those that were left out have their turn the next time, however often that is.
    for _ in range(8):
        await bench.sources.look_up(KEY)
    began = trio.current_time()
    await bench.sources.look_up(KEY)
    assert trio.current_time() - began < 1.0


async def test_who_did_not_answer_waits_longer_unless_it_connects(
    bench: Bench, autojump_clock: object
) -> None:
    asked: list[float] = []

    async def refuse(peer_id: str) -> bool:
        asked.append(trio.current_time())
        return False

    bench.peers.connect = refuse  # type: ignore[method-assign]
    began = trio.current_time()
    for _ in range(70):
        await bench.sources.ask(ONE.peer_id)
        await trio.sleep(1)
    assert [round(item - began) for item in asked] == [0, 60]
    bench.sources.met(ONE.peer_id)
    bench.sources.met(TWO.peer_id)  # never asked: nothing to change
    for _ in range(12):
        await bench.sources.ask(ONE.peer_id)
        await trio.sleep(1)
    assert [round(item - began) for item in asked] == [0, 60, 80]
