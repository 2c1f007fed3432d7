"""Files go into the DHT once per start, again before they age, and out when they are gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node import events as ev
from node.network.identity import Identity, verify
from node.swarm import keys
from node.swarm.records import TorrentRecord, read_record
from node.swarm.registering import AGAIN_S, Registering
from node.torrent.files import FileHash, info_hash
from node.torrent.hashing import hash_file
from node.torrent.library import Seeded
from node.torrent.manifest import read_manifest
from node.torrent.transfer.shared import OpenFile

ME = Identity.create()
OTHER = Identity.create()


class FakeDht:
    """Keeps what is put, as a DHT of `copies` peers would."""

    def __init__(self) -> None:
        self.copies = 3
        self.values: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.provided: list[str] = []

    async def put(self, key: str, value: bytes) -> int:
        read_record(key, value, verify)
        self.values[key] = value
        self.puts.append(key)
        return self.copies

    async def get(self, key: str) -> list[bytes]:
        return [self.values[key]] if key in self.values else []

    async def provide(self, key: str) -> int:
        self.provided.append(key)
        return self.copies


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[Seeded] = []
        self.events: list[ev.Event] = []
        self.dht = FakeDht()
        self.registering = Registering(ME, "test", self.events.append, lambda: self.files)
        self.registering.attach(self.dht)  # type: ignore[arg-type]

    def add(self, name: str) -> Seeded:
        path = self.folder / name
        path.write_bytes(name.encode() * 100)
        found = path.stat()
        size = found.st_size
        file = FileHash(name, size, found.st_mtime_ns, found.st_ino, info_hash(name, size))
        hashes = hash_file(path)
        item = Seeded(file, hashes, OpenFile(path, hashes, checked=True))
        self.files.append(item)
        return item

    def of(self, kind: type[ev.Event]) -> list[Any]:
        return [item for item in self.events if isinstance(item, kind)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_the_start_waits_for_the_scan_and_the_routing_table(
    bench: Bench, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    items = [bench.add("a.gguf"), bench.add("b.gguf")]
    nursery.start_soon(bench.registering.run)
    bench.registering.more_peers()
    await wait_all_tasks_blocked()
    assert not bench.events
    bench.registering.scanned()
    await wait_all_tasks_blocked()
    kinds = [type(item).__name__ for item in bench.events]
    assert kinds == [
        "TorrentsRegistering",
        "TorrentRegistered",
        "TorrentRegistered",
        "TorrentsRegistered",
    ]
    assert bench.of(ev.TorrentsRegistering)[0].count == 2
    for item in items:
        key = keys.torrent_key("test", item.file.info_hash)
        record = read_record(key, bench.dht.values[key], verify)
        assert isinstance(record, TorrentRecord)
        assert (record.filename, record.size, record.peer_id, record.root) == (
            item.file.filename,
            item.file.size,
            ME.peer_id,
            item.root,
        )
        manifest = read_manifest(record.manifest.encode(), verify, now=record.timestamp)
        assert manifest.root == item.root and manifest.publisher == ME.peer_id
        assert {key, keys.root_key("test", item.root)} <= set(bench.dht.provided)


async def test_files_are_registered_again_before_their_records_age(
    bench: Bench, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    bench.add("a.gguf")
    nursery.start_soon(bench.registering.run)
    bench.registering.scanned()
    bench.registering.more_peers()
    await wait_all_tasks_blocked()
    assert len(bench.dht.puts) == 1
    mock_clock.jump(AGAIN_S * 0.7)
    await wait_all_tasks_blocked()
    assert len(bench.dht.puts) == 1
    mock_clock.jump(AGAIN_S * 0.6)
    await wait_all_tasks_blocked()
    assert len(bench.dht.puts) == 2
    assert [item.again for item in bench.of(ev.TorrentRegistered)] == [False, True]
    assert len(bench.of(ev.TorrentsRegistering)) == 1, "once per start"


async def test_a_record_with_few_copies_is_put_again_when_peers_join(
    bench: Bench, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    bench.dht.copies = 1
    bench.add("a.gguf")
    nursery.start_soon(bench.registering.run)
    bench.registering.scanned()
    bench.registering.more_peers()
    await wait_all_tasks_blocked()
    before = len(bench.dht.puts)
    bench.dht.copies = 3
    bench.registering.more_peers()
    await wait_all_tasks_blocked()
    assert len(bench.dht.puts) == before + 1
    bench.registering.more_peers()
    await wait_all_tasks_blocked()
    assert len(bench.dht.puts) == before + 1, "enough copies"


async def test_a_file_that_comes_later_is_registered_at_once(
    bench: Bench, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    nursery.start_soon(bench.registering.run)
    bench.registering.scanned()
    bench.registering.more_peers()
    await wait_all_tasks_blocked()
    assert not bench.events, "no file, no words"
    bench.add("a.gguf")
    bench.registering.changed()
    await wait_all_tasks_blocked()
    assert [item.filename for item in bench.of(ev.TorrentRegistered)] == ["a.gguf"]


async def test_a_withdrawn_file_leaves_no_word_of_ours_but_that_of_others(
    bench: Bench, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    items = [bench.add("a.gguf"), bench.add("b.gguf")]
    nursery.start_soon(bench.registering.run)
    bench.registering.scanned()
    bench.registering.more_peers()
    await wait_all_tasks_blocked()
    first, second = (keys.torrent_key("test", item.file.info_hash) for item in items)
    bench.dht.values[second] = msgspec.json.encode({"peer_id": OTHER.peer_id})
    bench.files.clear()
    for item in items:
        await bench.registering.withdraw(item)
    record = read_record(first, bench.dht.values[first], verify)
    assert isinstance(record, TorrentRecord) and record.withdrawn
    assert OTHER.peer_id.encode() in bench.dht.values[second]
    puts = len(bench.dht.puts)
    mock_clock.jump(AGAIN_S * 3)
    await wait_all_tasks_blocked()
    assert len(bench.dht.puts) == puts


async def test_a_name_too_long_for_a_record_goes_without_the_manifest(
    bench: Bench, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    name = "ü" * 124 + ".gguf"
    item = bench.add(name)
    nursery.start_soon(bench.registering.run)
    bench.registering.scanned()
    bench.registering.more_peers()
    await wait_all_tasks_blocked()
    key = keys.torrent_key("test", item.file.info_hash)
    record = read_record(key, bench.dht.values[key], verify)
    assert isinstance(record, TorrentRecord) and record.filename == name


async def test_the_own_manifest_is_signed_once_an_hour(bench: Bench, mock_clock: MockClock) -> None:
    item = bench.add("a.gguf")
    first = bench.registering.manifest(item)
    assert bench.registering.manifest(item) is first
    mock_clock.jump(3700)
    second = bench.registering.manifest(item)
    assert second != first
