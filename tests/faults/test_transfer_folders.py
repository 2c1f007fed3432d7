"""Whole downloads into folders with traps, leftovers and other contents; many at once; odd times.

Nothing outside the folder changes, nothing of anybody else's is overwritten.
"""

from __future__ import annotations

import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from test_torrent_corruption import TRAPS, outside_of, trap
from test_torrent_processes import tree
from transfer_kit import KIB, MIB, MemoryStream, Published, Shelf, Swarm, inline, memory_streams

from node.errors import PlainError
from node.torrent.disk_errors import InUseError, NameTakenError, OtherContentsError
from node.torrent.folder import RealFolder
from node.torrent.names import part_name, state_name
from node.torrent.transfer.blame import Bans
from node.torrent.transfer.download import Download
from node.torrent.transfer.progress import State
from node.torrent.transfer.server import Limits, serve
from node.torrent.transfer.upload import Uploads

NAMES = [
    "../shard-0.gguf",
    "/etc/shard-0.gguf",
    "folder/shard-0.gguf",
    "a\\b.gguf",
    "shard\0.gguf",
    "..",
    "../../outside/precious",
    "shard-\u202e0.gguf",
    "con.gguf",
    "-rf.gguf",
    ".hidden.gguf",
    "x" * 300 + ".gguf",
    "shard-0.gguf ",
    "shard-0\n.gguf",
    "shard-0.gguf/",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    published = Published(tmp_path / "source", 1)
    target = tmp_path / "target"
    target.mkdir()
    outside_of(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(PlainError) as refused:
        Download(replace(published.plan, filename=name), RealFolder(target))
    assert refused.value.next_step
    assert str(refused.value).isprintable()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", TRAPS)
@pytest.mark.parametrize("which", ["final", "part", "state"])
async def test_a_download_steps_into_no_trap(
    tmp_path: Path, autojump_clock: object, kind: str, which: str
) -> None:
    published = Published(tmp_path / "source", 300 * KIB)
    outside = outside_of(tmp_path)
    name = published.plan.filename
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        path = {"final": name, "part": part_name(name), "state": state_name(name)}[which]
        trap(kind, swarm.target, path, outside)
        before = tree(outside)
        download = swarm.download()
        swarm.honest(download, "honest")
        try:
            await download.run()
        except PlainError as error:
            assert error.next_step
            assert download.snapshot.state == State.FAILED
            assert which != "final" or isinstance(error, NameTakenError)
        else:
            # A state file alone is nobody's: it is replaced, and what it led to stays.
            assert which == "state"
            assert (swarm.target / name).read_bytes() == published.content
        nursery.cancel_scope.cancel()
    assert tree(outside) == before


async def test_two_contents_under_one_name_never_mix(
    tmp_path: Path, autojump_clock: object
) -> None:
    one = Published(tmp_path / "one", 4 * MIB, seed=1)
    two = Published(tmp_path / "two", 4 * MIB, seed=2)
    assert one.plan.info_hash == two.plan.info_hash and one.plan.root != two.plan.root
    bans = Bans(trio.current_time)
    async with trio.open_nursery() as nursery:
        first, second = (Swarm(item, tmp_path / "target", nursery) for item in (one, two))
        download = first.download(bans=bans)
        first.honest(download, "has one", rate=1 * MIB)
        # It answers under the same info hash, but it has the other contents.
        first.honest(download, "has two", file=two.open())
        nursery.start_soon(download.run)
        await trio.sleep(2)
        assert 0 < download.snapshot.done < 4 * MIB
        other = second.download(bans=bans)
        second.honest(other, "has two too")
        with pytest.raises(InUseError):
            await other.run()
        refused = next(i for i in download.snapshot.sources if i.peer_id == "has two")
        assert (refused.state, refused.received, refused.strikes) == ("backoff", 0, 0)
        assert refused.reason == "this node does not have that file"
        nursery.cancel_scope.cancel()
    before = tree(tmp_path / "target")
    assert set(before) == {"shard-0.gguf.part", "shard-0.gguf.part.state"}
    async with trio.open_nursery() as nursery:
        second = Swarm(two, tmp_path / "target", nursery)
        other = second.download(bans=bans)
        second.honest(other, "has two too")
        with pytest.raises(OtherContentsError) as stopped:
            await other.run()
        assert stopped.value.root == one.plan.root
        assert tree(tmp_path / "target") == before
        first = Swarm(one, tmp_path / "target", nursery)
        download = first.download(bans=bans)
        first.honest(download, "has one")
        await download.run()
        first.check()
        other = second.download(bans=bans)
        second.honest(other, "has two too")
        with pytest.raises(NameTakenError):
            await other.run()
        nursery.cancel_scope.cancel()
    first.check()
    for name in ("has one", "has two", "has two too"):
        assert not bans.banned(name, one.plan.root) and not bans.banned(name, two.plan.root)


async def test_an_empty_file_needs_no_source(tmp_path: Path, autojump_clock: object) -> None:
    published = Published(tmp_path / "source", 0)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        with trio.fail_after(5):
            await swarm.download().run()
    swarm.check()


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
async def test_a_storm_of_unfinished_downloads(tmp_path: Path, count: int) -> None:
    """All taken up at once, with real threads: the loop stays free and each one ends whole."""
    files = [
        Published(tmp_path / f"source{number}", 600 * KIB + number, seed=number)
        for number in range(count)
    ]
    plans = [replace(item.plan, filename=f"shard-{n}.gguf") for n, item in enumerate(files)]
    target = tmp_path / "target"
    target.mkdir()
    folder = RealFolder(target)
    lag = 0.0

    async def watch() -> None:
        nonlocal lag
        while True:
            before = trio.current_time()
            await trio.sleep(0.01)
            lag = max(lag, trio.current_time() - before)

    async def one(number: int, pieces: int | None) -> None:
        download = Download(plans[number], folder, rng=random.Random(number))
        swarm = Swarm(files[number], tmp_path / f"unused{number}", nursery)
        swarm.honest(download, "honest", rate=None if pieces is None else 600 * KIB)
        if pieces is None:
            await download.run()
            return
        with trio.CancelScope() as scope:

            def stop(written: list[int]) -> None:
                scope.cancel()

            download._wrote = stop
            await download.run()

    for pieces in (1, None):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            with trio.fail_after(50):
                async with trio.open_nursery() as downloads:
                    for number in range(count):
                        downloads.start_soon(one, number, pieces)
            if pieces:
                unfinished = [item for item in target.iterdir() if item.name.endswith(".part")]
                assert len(unfinished) >= count // 2
            nursery.cancel_scope.cancel()
    assert lag < 1.0
    assert len(os.listdir(target)) == count
    for plan, file in zip(plans, files, strict=True):
        assert (target / plan.filename).read_bytes() == file.content


async def test_the_wall_clock_does_not_matter(
    tmp_path: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hours back and forth in the middle of a transfer: no timeout fires, nobody is closed."""
    real = time.time
    published = Published(tmp_path / "source", 8 * MIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download()
        swarm.honest(download, "one", rate=1 * MIB)
        nursery.start_soon(download.run)
        for jump in (7200.0, -7200.0, 1e9, -1e9):
            monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
            await trio.sleep(1.5)
        while download.snapshot.state != State.DONE:
            await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    swarm.check()
    assert swarm.opened == {"one": 1}


# ---------------------------------------------------------------- the network


class Cable:
    """What a memory stream runs through: nothing passes while it is cut."""

    def __init__(self) -> None:
        self.whole = trio.Event()
        self.whole.set()

    def cut(self) -> None:
        self.whole = trio.Event()


class Wired(MemoryStream):
    """One end of a stream that runs through a cable."""

    cable: Cable

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        for start in range(0, len(view), 32 * KIB):
            await self.cable.whole.wait()
            await super().write(view[start : start + 32 * KIB])


@pytest.mark.parametrize("cuts", [[(2, 4)], [(2, 20)], [(1, 1), (3, 6), (10, 2)]])
async def test_a_cut_network_heals_within_ten_seconds(
    tmp_path: Path, autojump_clock: object, cuts: list[tuple[float, float]]
) -> None:
    """One source only; nothing is lost and nobody blamed: (when, how long) it is cut."""
    published = Published(tmp_path / "source", 16 * MIB)
    cable = Cable()
    bans = Bans(trio.current_time)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download(bans=bans)

        async def open_stream() -> MemoryStream:
            await cable.whole.wait()
            ours, theirs = memory_streams(256 * KIB)
            for end in (ours, theirs):
                end.__class__ = Wired
                end.cable = cable  # type: ignore[attr-defined]
            theirs.rate = 1 * MIB
            shelf = Shelf(published.open())

            async def run() -> None:
                await serve(theirs, shelf, Limits(), Uploads(), run_sync=inline)

            nursery.start_soon(run)
            return ours

        download.add_source("one", open_stream)
        nursery.start_soon(download.run)
        for when, how_long in cuts:
            await trio.sleep(when)
            cable.cut()
            await trio.sleep(how_long)
            before = download.snapshot.fetched
            cable.whole.set()
            with trio.fail_after(10):
                while download.snapshot.fetched < before + 512 * KIB:
                    await trio.sleep(0.1)
        with trio.fail_after(60):
            while download.snapshot.state != State.DONE:
                await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    swarm.check()
    assert not bans.strikes("one", published.plan.root)
