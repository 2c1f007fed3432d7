"""Seeding keeps what is offered equal to what lies in the folder."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from node import events as ev
from node.errors import PlainError
from node.shards.service import Shards
from node.shards.split import split_model
from node.shards.synth import synth_model
from node.swarm.seeding import Seeding
from node.torrent.files import info_hash
from node.torrent.hash_cache import HashCache
from node.torrent.library import Library, Seeded
from node.torrent.trust import KnownRoots

PATIENCE_S = 15.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    synth_model(folder / "whole.gguf", layers=4, embd=64, vocab=300, seed=1, quant="f32")
    (folder / "shards").mkdir()
    split_model(folder / "whole.gguf", 2, folder / "shards")
    return folder / "shards"


class FakeRegistering:
    """Notes what it is told, in place of the DHT."""

    def __init__(self) -> None:
        self.withdrawn: list[str] = []

    def scanned(self) -> None: ...

    def changed(self) -> None: ...

    async def withdraw(self, item: Seeded) -> None:
        self.withdrawn.append(item.file.filename)


class Bench:
    """A seeding service over a real folder, with its events."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "shards"
        self.folder.mkdir(exist_ok=True)
        self.events: list[ev.Event] = []
        self.news = trio.Event()
        self.library = Library()
        self.registering = FakeRegistering()
        shards = Shards(self.emit, folder=self.folder, total_shards=2, threads=1, use_mmap=True)
        self.seeding = Seeding(
            shards,
            self.library,
            self.registering,  # type: ignore[arg-type]
            HashCache(tmp_path / "hashes"),
            KnownRoots(tmp_path / "roots.json"),
            self.emit,
            total_shards=lambda: 2,
            rescan_s=3600.0,
        )

    def emit(self, event: ev.Event) -> None:
        self.events.append(event)
        self.news.set()
        self.news = trio.Event()

    def of(self, kind: type[ev.Event]) -> list[Any]:
        return [item for item in self.events if isinstance(item, kind)]

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(PATIENCE_S):
            while not condition():
                await self.news.wait()

    @property
    def names(self) -> list[str]:
        return [item.file.filename for item in self.library.seeded]


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[Bench]:
    async with trio.open_nursery() as nursery:
        bench = Bench(tmp_path)
        nursery.start_soon(bench.seeding.run)
        await bench.seeding.scanned.wait()
        yield bench
        nursery.cancel_scope.cancel()
    bench.library.close()


def put(model: Path, bench_folder: Path, name: str = "shard-0.gguf", source: str = "") -> Path:
    path = bench_folder / name
    path.write_bytes((model / (source or name)).read_bytes())
    return path


async def test_files_of_the_start_are_hashed_and_seeded(tmp_path: Path, model: Path) -> None:
    (tmp_path / "shards").mkdir()
    for name in ("shard-0.gguf", "shard-1.gguf"):
        put(model, tmp_path / "shards", name)
    put(model, tmp_path / "shards", "other.gguf", "shard-1.gguf")
    (tmp_path / "shards" / "notes.txt").write_text("not a model")
    (tmp_path / "shards" / "link.gguf").symlink_to(model / "shard-0.gguf")
    async with running(tmp_path) as bench:
        assert bench.names == ["other.gguf", "shard-0.gguf", "shard-1.gguf"]
        (scanned,) = bench.of(ev.TorrentsScanned)
        assert (scanned.files, scanned.primary, scanned.total_shards) == (3, 2, 2)
        by_name = {item.filename: item for item in bench.of(ev.TorrentSeeded)}
        zero = by_name["shard-0.gguf"]
        assert zero.info_hash == info_hash("shard-0.gguf", zero.size)
        assert zero.shard_id == 0 and by_name["other.gguf"].shard_id is None
        assert by_name["other.gguf"].root == by_name["shard-1.gguf"].root
        found = bench.library.find(bytes.fromhex(zero.info_hash), bytes.fromhex(zero.root))
        assert found is not None and found.ready(0)
        assert bench.library.find(bytes.fromhex(zero.info_hash), b"\0" * 32) is None


async def test_a_second_start_hashes_nothing(tmp_path: Path, model: Path) -> None:
    (tmp_path / "shards").mkdir()
    put(model, tmp_path / "shards")
    async with running(tmp_path) as bench:
        assert bench.of(ev.TorrentHashing)
        root = bench.library.seeded[0].root
    async with running(tmp_path) as bench:
        assert not bench.of(ev.TorrentHashing)
        assert bench.library.seeded[0].root == root
        shared = bench.library.seeded[0].shared
        assert not shared.ready(0), "served pieces are checked once after a start"


async def test_a_file_that_appears_and_vanishes(tmp_path: Path, model: Path) -> None:
    async with running(tmp_path) as bench:
        assert bench.names == []
        path = put(model, bench.folder)
        await bench.until(lambda: bench.names == ["shard-0.gguf"])
        path.unlink()
        await bench.until(lambda: bench.of(ev.TorrentWithdrawn))
        assert bench.names == []
        assert bench.registering.withdrawn == ["shard-0.gguf"]


async def test_a_changed_file_is_withdrawn_until_it_is_published(
    tmp_path: Path, model: Path
) -> None:
    (tmp_path / "shards").mkdir()
    path = put(model, tmp_path / "shards")
    async with running(tmp_path) as bench:
        before = bench.library.seeded[0].root
        with path.open("r+b") as file:
            file.seek(-64, os.SEEK_END)
            file.write(b"\1" * 16)
        await bench.until(lambda: bench.of(ev.Problem))
        assert bench.names == []
        (problem,) = bench.of(ev.Problem)
        assert "is not what it was" in problem.sentence and before[:16] in problem.sentence
        assert "torrent publish" in problem.next_step
        answer = await bench.seeding.publish(path)
        assert answer["root"] != before and bench.names == ["shard-0.gguf"]
    async with running(tmp_path) as bench:
        assert bench.names == ["shard-0.gguf"], "what was published is known at the next start"


async def test_rot_found_while_serving_withdraws_the_file(tmp_path: Path, model: Path) -> None:
    (tmp_path / "shards").mkdir()
    put(model, tmp_path / "shards")
    async with running(tmp_path) as bench:
        shared = bench.library.seeded[0].shared
        bench.seeding.corrupt(shared, "piece 0 no longer matches its hash")
        assert bench.names == []
        (problem,) = bench.of(ev.Problem)
        assert problem.level == "error" and "damaged" in problem.sentence
        bench.seeding.corrupt(shared, "again")
        assert len(bench.of(ev.Problem)) == 1


async def test_publishing_a_file_from_elsewhere(tmp_path: Path, model: Path) -> None:
    async with running(tmp_path) as bench:
        answer = await bench.seeding.publish(model / "shard-1.gguf")
        assert bench.names == ["shard-1.gguf"]
        assert answer["info_hash"] == info_hash("shard-1.gguf", answer["size"])
        again = await bench.seeding.publish(model / "shard-1.gguf")
        assert again == answer

        other = tmp_path / "else"
        other.mkdir()
        changed = bytearray((model / "shard-1.gguf").read_bytes())
        changed[-1] ^= 1
        (other / "shard-1.gguf").write_bytes(changed)
        with pytest.raises(PlainError, match="another"):
            await bench.seeding.publish(other / "shard-1.gguf")
        (other / "shard-0.gguf").write_bytes(changed)
        with pytest.raises(PlainError, match="not shard 0"):
            await bench.seeding.publish(other / "shard-0.gguf")
        (other / "text.gguf").write_text("no model at all")
        with pytest.raises(PlainError):
            await bench.seeding.publish(other / "text.gguf")
        with pytest.raises(PlainError):
            await bench.seeding.publish(other / "nowhere.gguf")
        with pytest.raises(PlainError, match="does not end in"):
            await bench.seeding.publish(other / "model.bin")
        assert sorted(os.listdir(bench.folder)) == ["shard-1.gguf"]


async def test_a_name_that_others_could_not_store_is_not_offered(
    tmp_path: Path, model: Path
) -> None:
    (tmp_path / "shards").mkdir()
    put(model, tmp_path / "shards", "con.gguf", "shard-0.gguf")
    async with running(tmp_path) as bench:
        assert bench.names == []
        (problem,) = bench.of(ev.Problem)
        assert "device on Windows" in problem.sentence


async def test_the_end_of_the_node_does_not_wait_for_a_long_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from node.swarm import seeding as module
    from node.torrent.hashing import HashingStopped

    begun = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def forever(path: Path, *, progress: object, stop: Any) -> None:
        token.run_sync_soon(begun.set)
        assert stop.wait(PATIENCE_S), "the hashing thread was not told to stop"
        raise HashingStopped

    monkeypatch.setattr(module, "hash_file", forever)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "x.gguf").write_bytes(b"GGUF")
    bench = Bench(tmp_path)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.seeding.run)
            await begun.wait()
            nursery.cancel_scope.cancel()
