"""Fetching: from a wish to a seeded file; who waits, who is refused, who is told."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from transfer_kit import Published, Shelf, memory_streams

from node import events as ev
from node.errors import PlainError
from node.network.identity import Identity, verify
from node.swarm.fetching import Fetching
from node.swarm.job import Job, Unfound
from node.swarm.transferring import Transferring
from node.torrent.catalogue import Catalogue
from node.torrent.disk_errors import DiskFullError
from node.torrent.files import info_hash
from node.torrent.folder import RealFolder
from node.torrent.library import Library
from node.torrent.manifest import make_manifest, write_manifest
from node.torrent.own_manifests import ManifestStore
from node.torrent.transfer.download import CancelledError
from node.torrent.transfer.server import Limits, serve
from node.torrent.transfer.upload import Uploads
from node.torrent.trust import KnownRoots

NAME = "shard-1.gguf"
SIZE = 3 * 2**20 + 17
PATIENCE_S = 20.0
ONE, TWO = Identity.create(), Identity.create()


class FakeSources:
    """Finds what the catalogue holds; `shown` runs before each look."""

    def __init__(self) -> None:
        self.catalogue = Catalogue(verify)
        self.looks = 0
        self.shown: Callable[[int], None] = lambda looks: None
        self._news = trio.Event()

    async def look_for(self, filename: str, shard_id: int | None) -> list[str]:
        self.looks += 1
        self.shown(self.looks)
        await trio.lowlevel.checkpoint()
        return self.catalogue.named(filename)

    async def seeders(self, key: str, root: str) -> set[str]:
        return self.catalogue.peers_with(key, root)

    def tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def news(self, timeout: float) -> None:
        with trio.move_on_after(timeout):
            await self._news.wait()


class FakeSeeding:
    def __init__(self) -> None:
        self.arriving: set[str] = set()
        self.adopted: list[str] = []

    def nudge(self) -> None: ...

    async def adopt(self, filename: str, hashes: object) -> None:
        self.adopted.append(filename)


class FakeStreams:
    """Streams to peers that serve what they were given, in this process."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.served: dict[str, Shelf] = {}

    async def open(self, peer_id: str) -> Any:
        near, far = memory_streams()
        shelf = self.served[peer_id]

        async def answer() -> None:
            await serve(far, shelf, Limits(), Uploads(), peer_id="me")

        self._nursery.start_soon(answer)
        return near


class Bench:
    def __init__(self, tmp_path: Path, nursery: trio.Nursery, **options: Any) -> None:
        self.folder = tmp_path / "shards"
        self.tmp_path = tmp_path
        self.events: list[ev.Event] = []
        self.sources = FakeSources()
        self.seeding = FakeSeeding()
        self.streams = FakeStreams(nursery)
        self.ended: list[Job] = []
        transferring = Transferring(
            self.sources,  # type: ignore[arg-type]
            self.seeding,  # type: ignore[arg-type]
            Library(),
            self.streams,  # type: ignore[arg-type]
            ManifestStore(tmp_path / "manifests", verify),
            Uploads(),
            self.events.append,
            folder=self.folder,
            max_down=options.pop("max_down", None),
        )
        settings: dict[str, Any] = {"pins": {}, "trusted": frozenset(), "resume": False}
        self.fetching = Fetching(
            self.sources,  # type: ignore[arg-type]
            self.seeding,  # type: ignore[arg-type]
            transferring,
            KnownRoots(tmp_path / "roots.json"),
            self.events.append,
            folder=self.folder,
            **{**settings, **options},
        )

        async def loaded(job: Job) -> None:
            self.ended.append(job)

        self.fetching.loaded = loaded

    def of(self, kind: type[ev.Event]) -> list[Any]:
        return [item for item in self.events if isinstance(item, kind)]

    def publish(self, name: str = NAME, seed: int = 1, by: Identity = ONE) -> Published:
        """A peer named after its publisher that has a file of this name."""
        folder = self.tmp_path / f"of-{by.peer_id[-6:]}"
        folder.mkdir(exist_ok=True)
        published = Published(folder / name, SIZE, seed=seed)
        raw = write_manifest(
            make_manifest(
                filename=name,
                size=SIZE,
                root=published.hashes.root,
                piece_length=published.hashes.layout.piece_length,
                publisher=by.peer_id,
                seq=1,
                now=time.time(),
            ),
            by.sign,
        )
        self.sources.catalogue.take(raw, [by.peer_id])
        self.streams.served[by.peer_id] = Shelf(published.open())
        return published

    async def end(self, job: Job) -> Job:
        with trio.fail_after(PATIENCE_S):
            await job.ended.wait()
            while job not in self.ended:
                await trio.lowlevel.checkpoint()
        return job


@asynccontextmanager
async def running(tmp_path: Path, **options: Any) -> AsyncIterator[Bench]:
    async with trio.open_nursery() as nursery:
        bench = Bench(tmp_path, nursery, **options)
        nursery.start_soon(bench.fetching.run)
        await trio.testing.wait_all_tasks_blocked()
        yield bench
        nursery.cancel_scope.cancel()


async def test_a_wanted_file_comes_is_adopted_and_told_of(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        published = bench.publish()
        job = bench.fetching.want(NAME, wanted_by="plan", load=True)
        assert bench.fetching.want(NAME, wanted_by="operator") is job
        await bench.end(job)
        assert job.error is None and job.status == "done"
        assert (bench.folder / NAME).read_bytes() == published.path.read_bytes()
        assert bench.seeding.adopted == [NAME] and not bench.seeding.arriving
        (finished,) = bench.of(ev.TransferFinished)
        assert (finished.root, finished.sources) == (published.hashes.root.hex(), 1)
        phases = [item.phase for item in bench.of(ev.TransferChanged)]
        assert phases[0] == "queued" and phases[-1] == "done"
        assert bench.of(ev.TransferChanged)[-2].piece_map.strip("8") == ""
        kept = list((tmp_path / "manifests").iterdir())
        assert [item.stem for item in kept] == [published.hashes.root.hex()]


async def test_the_plan_waits_and_others_are_told_that_nobody_has_it(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as bench:
        waiting = bench.fetching.want(NAME, wanted_by="plan", patient=True)
        asked = bench.fetching.want("shard-2.gguf", wanted_by="operator")
        with trio.fail_after(60):
            await asked.ended.wait()
        assert isinstance(asked.error, Unfound)
        assert asked.error.sentence == "shard-2.gguf cannot be fetched: no peer offers it."
        await trio.sleep(3600)
        assert not waiting.ended.is_set()
        waits = [item for item in bench.of(ev.TransferChanged) if item.filename == NAME]
        assert [(item.phase, item.reason) for item in waits] == [
            ("waiting", "No peer offers it.")
        ], "said once, not at every look"


async def test_news_ends_the_waiting_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        job = bench.fetching.want(NAME, wanted_by="plan", patient=True)
        with trio.fail_after(PATIENCE_S):
            while not bench.of(ev.TransferChanged):
                await trio.lowlevel.checkpoint()
        bench.publish()
        bench.sources.tell()
        await bench.end(job)
        assert job.error is None


async def test_two_contents_stop_and_the_root_decides(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        right = bench.publish(seed=1, by=ONE)
        bench.publish(seed=2, by=TWO)
        job = await bench.end(bench.fetching.want(NAME, wanted_by="plan", patient=True))
        assert job.error is not None and "different contents" in job.error.sentence
        (failed,) = bench.of(ev.TransferFailed)
        assert len(failed.offers) == 2
        assert not bench.folder.exists() or os.listdir(bench.folder) == []
        root = right.hashes.root.hex()
        job = await bench.end(bench.fetching.want(NAME, wanted_by="operator", root=root))
        assert job.error is None
        assert (bench.folder / NAME).read_bytes() == right.path.read_bytes()


@pytest.mark.parametrize("way", ["pin", "trust"])
async def test_a_pin_or_a_trusted_publisher_decides(tmp_path: Path, way: str) -> None:
    probe = Published(tmp_path / NAME, SIZE, seed=2)
    options: dict[str, Any] = (
        {"pins": {NAME: probe.hashes.root.hex()}}
        if way == "pin"
        else {"trusted": frozenset([TWO.peer_id])}
    )
    async with running(tmp_path, **options) as bench:
        bench.publish(seed=1, by=ONE)
        right = bench.publish(seed=2, by=TWO)
        job = await bench.end(bench.fetching.want(NAME, wanted_by="plan", patient=True))
        assert job.error is None
        assert (bench.folder / NAME).read_bytes() == right.path.read_bytes()


async def test_another_content_than_the_one_accepted_before_stops(tmp_path: Path) -> None:
    KnownRoots(tmp_path / "roots.json").remember(info_hash(NAME, SIZE), "ab" * 32)
    async with running(tmp_path) as bench:
        bench.publish()
        job = await bench.end(bench.fetching.want(NAME, wanted_by="plan"))
        assert job.error is not None and "is known with root abababab" in job.error.sentence


async def test_what_does_not_fit_is_refused_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RealFolder, "free", lambda self: 1000)
    async with running(tmp_path) as bench:
        bench.publish()
        job = bench.fetching.want(NAME, wanted_by="operator")
        await bench.end(job)
        assert isinstance(job.error, DiskFullError)
        assert job.resolved.is_set()
        assert os.listdir(bench.folder) == []


async def test_cancelling_while_looking_and_while_fetching(tmp_path: Path) -> None:
    async with running(tmp_path, max_down=100_000.0) as bench:
        job = bench.fetching.want(NAME, wanted_by="plan", patient=True)
        with trio.fail_after(PATIENCE_S):
            await bench.fetching.cancel(job, keep=False)
        assert isinstance(job.error, CancelledError)
        for keep in (True, False):
            bench.publish()
            job = bench.fetching.want(NAME, wanted_by="operator")
            with trio.fail_after(PATIENCE_S):
                while job.download is None or not job.download.snapshot.pieces_done:
                    await trio.sleep(0)
                await bench.fetching.cancel(job, keep=keep)
            assert isinstance(job.error, CancelledError)
            assert bool(os.listdir(bench.folder)) is keep
        failed = bench.of(ev.TransferFailed)
        assert [item.cancelled for item in failed] == [True] * 3


async def test_an_unfinished_download_is_taken_up_with_its_own_root(tmp_path: Path) -> None:
    async with running(tmp_path, max_down=100_000.0) as bench:
        right = bench.publish(seed=1, by=ONE)
        job = bench.fetching.want(NAME, wanted_by="operator")
        with trio.fail_after(PATIENCE_S):
            while job.download is None or not job.download.snapshot.pieces_done:
                await trio.sleep(0)
            await bench.fetching.cancel(job, keep=True)
    async with running(tmp_path, resume=True) as bench:
        bench.publish(seed=2, by=TWO)
        right = bench.publish(seed=1, by=ONE)
        with trio.fail_after(PATIENCE_S):
            while bench.fetching.running(NAME) is None:
                await trio.sleep(0)
        job = bench.fetching.want(NAME, wanted_by="plan")
        assert job.wanted_by == "plan"
        assert job.root == right.hashes.root.hex()
        await bench.end(job)
        assert job.error is None
        assert (bench.folder / NAME).read_bytes() == right.path.read_bytes()


async def test_a_fault_inside_fails_the_file_and_not_the_node(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.publish()

        def broken(looks: int) -> None:
            raise ZeroDivisionError("a fault of ours")

        bench.sources.shown = broken
        job = await bench.end(bench.fetching.want(NAME, wanted_by="operator"))
        assert job.error is not None and "inside the node" in job.error.sentence
        (problem,) = bench.of(ev.Problem)
        assert "a fault of ours" in problem.detail
        bench.sources.shown = lambda looks: None
        job = await bench.end(bench.fetching.want(NAME, wanted_by="operator"))
        assert job.error is None


async def test_what_a_word_means(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.publish()
        bench.publish("model-a.gguf", by=TWO)
        key = info_hash(NAME, SIZE)
        fetching = bench.fetching
        assert fetching.name_of("1") == fetching.name_of(key[:10]) == fetching.name_of(NAME)
        for bad, words in {
            "00000000ff": "No file with the info hash",
            "../x.gguf": "lead out of the folder",
            "": "is empty",
        }.items():
            with pytest.raises(PlainError, match=words):
                fetching.name_of(bad)
        with pytest.raises(PlainError, match="not being downloaded"):
            fetching.job(NAME)
