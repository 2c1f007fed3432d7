"""What the disk does to a download: full for a while, failing, lying about a sync, odd files."""

from __future__ import annotations

import errno
import os
import random
import sys
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from transfer_kit import KIB, MIB, Published, Swarm, inline

from node.errors import PlainError
from node.torrent.disk_errors import DiskFullError, NameTakenError
from node.torrent.folder import RealFolder
from node.torrent.transfer.download import Download
from node.torrent.transfer.progress import State


class BadFolder(RealFolder):
    """A folder that fails on demand: `fail[call]` is the errno."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.fail: dict[str, int] = {}
        self.calls: dict[str, int] = {}

    def _call(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        if name in self.fail:
            raise OSError(self.fail[name], os.strerror(self.fail[name]))

    def write(self, handle: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        self._call("write")
        return super().write(handle, data, offset)

    def sync_data(self, handle: int) -> None:
        self._call("sync_data")
        super().sync_data(handle)

    def free(self) -> int:
        return 0 if self.fail.get("write") == errno.ENOSPC else super().free()


def download_into(swarm: Swarm, folder: RealFolder) -> Download:
    return Download(
        swarm.published.plan,
        folder,
        emit_progress=swarm.seen.append,
        rng=random.Random(1),
        run_sync=inline,
    )


async def test_a_full_disk_stalls_and_goes_on_by_itself(
    tmp_path: Path, autojump_clock: object
) -> None:
    published = Published(tmp_path / "source", 16 * MIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        folder = BadFolder(swarm.target)
        download = download_into(swarm, folder)
        swarm.honest(download, "one", rate=2 * MIB)
        done = trio.Event()

        async def run() -> None:
            await download.run()
            done.set()

        nursery.start_soon(run)
        await trio.sleep(3)
        folder.fail["write"] = errno.ENOSPC
        await trio.sleep(30)
        full = download.snapshot
        assert full.state == State.STALLED
        assert "There is no room for shard-0.gguf" in full.reason
        await trio.sleep(60)
        assert not done.is_set()
        del folder.fail["write"]
        await done.wait()
    swarm.check()


async def test_no_room_is_told_before_the_first_byte(
    tmp_path: Path, autojump_clock: object
) -> None:
    published = Published(tmp_path / "source", 2 * MIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        folder = BadFolder(swarm.target)
        folder.fail["write"] = errno.ENOSPC
        download = download_into(swarm, folder)
        swarm.honest(download, "one")
        with pytest.raises(DiskFullError, match="bytes are missing"):
            await download.run()
    assert list(swarm.target.iterdir()) == []
    assert swarm.seen[-1].state == State.FAILED
    assert swarm.seen[-1].fetched == 0


async def test_a_write_error_ends_it_with_a_sentence(
    tmp_path: Path, autojump_clock: object
) -> None:
    published = Published(tmp_path / "source", 4 * MIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        folder = BadFolder(swarm.target)
        download = download_into(swarm, folder)
        swarm.honest(download, "one", rate=1 * MIB)

        async def break_it() -> None:
            await trio.sleep(2)
            folder.fail["write"] = errno.EIO

        nursery.start_soon(break_it)
        with pytest.raises(PlainError, match="could not be written"):
            await download.run()
    assert swarm.seen[-1].state == State.FAILED
    assert "Check the disk" in swarm.seen[-1].reason


async def test_a_failed_sync_reads_everything_again(tmp_path: Path, autojump_clock: object) -> None:
    published = Published(tmp_path / "source", 24 * MIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        folder = BadFolder(swarm.target)
        download = download_into(swarm, folder)
        swarm.honest(download, "one", rate=2 * MIB)

        async def break_it() -> None:
            await trio.sleep(4)
            folder.fail["sync_data"] = errno.EIO
            while folder.calls.get("sync_data", 0) < 1:
                await trio.sleep(0.1)
            await trio.sleep(0.05)
            del folder.fail["sync_data"]

        nursery.start_soon(break_it)
        await download.run()
    swarm.check()
    assert [item.state for item in swarm.seen].count(State.PREALLOC) == 2
    # What was on disk was found to be right and is not fetched again.
    assert swarm.seen[-1].fetched < 28 * MIB


async def test_a_name_that_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, autojump_clock: object
) -> None:
    published = Published(tmp_path / "source", 4 * MIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download()
        swarm.honest(download, "one", rate=1 * MIB)

        async def appear() -> None:
            await trio.sleep(2)
            (swarm.target / "shard-0.gguf").write_bytes(b"mine")

        nursery.start_soon(appear)
        with pytest.raises(NameTakenError):
            await download.run()
    assert (swarm.target / "shard-0.gguf").read_bytes() == b"mine"


async def test_wrong_pieces_in_the_part_are_fetched_again(
    tmp_path: Path, autojump_clock: object
) -> None:
    """Edited behind our back between two runs, where the sample does not look."""
    published = Published(tmp_path / "source", 16 * MIB)
    target = tmp_path / "target"
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, target, nursery)
        download = swarm.download()
        swarm.honest(download, "one", rate=2 * MIB)
        with trio.move_on_after(5):
            await download.run()
        nursery.cancel_scope.cancel()
    with (target / "shard-0.gguf.part").open("r+b") as handle:
        for piece in range(64):
            handle.seek(piece * 256 * KIB)
            handle.write(b"edited")
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, target, nursery)
        download = swarm.download()
        swarm.honest(download, "one")
        await download.run()
    swarm.check()


async def test_with_real_threads_and_the_real_clock(tmp_path: Path) -> None:
    published = Published(tmp_path / "source", 48 * MIB, piece_length=512 * KIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download(run_sync=trio.to_thread.run_sync)
        swarm.honest(download, "one")
        swarm.honest(download, "two")
        await download.run()
    swarm.check()
