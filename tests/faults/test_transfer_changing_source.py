"""The file changes under the seeder, at any moment: it withdraws, and nobody is blamed."""

from __future__ import annotations

import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from test_transfer_clients import Client, against
from transfer_kit import KIB, MIB, Published, Swarm

from node.torrent import messages
from node.torrent.hashing import FileHashes, hash_file
from node.torrent.messages import ErrorCode, Why
from node.torrent.sizes import Block
from node.torrent.transfer.blame import Bans, Verdict
from node.torrent.transfer.shared import CorruptError, OpenFile

SIZE = 8 * MIB + 5


def truncate(path: Path) -> None:
    os.truncate(path, SIZE // 2)


def edit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(SIZE - 100)
        file.write(b"edited")


def overwrite(path: Path) -> None:
    path.write_bytes(bytes(SIZE))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rot(path: Path) -> None:
    """Neither size nor time of the file change."""
    found = path.stat()
    with path.open("r+b") as file:
        file.seek(SIZE - 100)
        file.write(b"rotten")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(bytes(SIZE))
    os.rename(other, path)


def remove(path: Path) -> None:
    path.unlink()


def same_time_edit(path: Path) -> None:
    """A program that sets the time back, with another size."""
    found = path.stat()
    append(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (truncate, "ends early"),
        (edit, "changed since it was hashed"),
        (overwrite, "changed since it was hashed"),
        (append, "changed since it was hashed"),
        (same_time_edit, "changed since it was hashed"),
        (rot, "no longer matches its hash"),
        # What is open is still what was published.
        (replace, ""),
        (remove, ""),
    ],
)
async def test_the_source_changes_in_the_middle(
    tmp_path: Path, autojump_clock: object, change: Callable[[Path], None], told: str
) -> None:
    published = Published(tmp_path / "source", SIZE)
    bans = Bans(trio.current_time)
    blamed: list[Verdict] = []
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download(bans=bans, blamed=blamed.append)
        copy = Path(shutil.copy2(published.path, tmp_path / "copy.gguf"))
        good = OpenFile(copy, published_again(published, copy), checked=True)
        swarm.honest(download, "changes", file=published.open(checked=False), rate=2 * MIB)
        nursery.start_soon(download.run)
        await trio.sleep(1.5)
        assert 0 < download.snapshot.done < SIZE // 2
        change(published.path)
        await trio.sleep(3)
        swarm.honest(download, "good", file=good)
        with trio.fail_after(120):
            while download.snapshot.state != "done":
                await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    assert (swarm.target / published.path.name).read_bytes() == published.content
    assert bool(swarm.corrupt) is bool(told)
    if told:
        assert told in swarm.corrupt[0]
        assert swarm.ended["changes"][0] == swarm.corrupt[0]
    assert not blamed
    for name in ("changes", "good"):
        assert not bans.banned(name, published.plan.root)
        assert not bans.strikes(name, published.plan.root)


def published_again(published: Published, path: Path) -> FileHashes:
    found = hash_file(path, published.plan.piece_length)
    assert found.root == published.plan.root
    return found


@pytest.mark.parametrize("way", ["read", "read_cached"])
def test_an_edit_just_before_the_read_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    published = Published(tmp_path / "source", SIZE)
    file = published.open(checked=True)
    view = memoryview(bytearray(256 * KIB))
    getattr(file, way)(view, 0)
    read = os.preadv

    def edited_first(*arguments: object) -> int:
        monkeypatch.setattr(os, "preadv", read)
        overwrite(published.path)
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", edited_first)
    with pytest.raises(CorruptError, match="changed since it was hashed"):
        getattr(file, way)(view, 0)


async def test_every_request_is_refused_as_corrupt_before_the_goodbye(
    tmp_path: Path, autojump_clock: object
) -> None:
    published = Published(tmp_path / "source", SIZE)
    file = published.open(checked=True)
    blocks = tuple(Block(piece, 0, 256 * KIB) for piece in range(6))

    async def script(client: Client) -> None:
        await client.greet()
        edit(published.path)
        await client.send(messages.Request(blocks))
        rejected = await client.next()
        assert isinstance(rejected, messages.Reject)
        assert rejected.blocks == tuple((block, Why.CORRUPT) for block in blocks)
        error = await client.next()
        assert isinstance(error, messages.Failure)
        assert (error.code, error.text) == (ErrorCode.GONE, "the file changed on disk")

    assert "changed since it was hashed" in await against(published, script, file=file)


@pytest.mark.parametrize("seed", range(6))
async def test_an_edit_at_any_moment_blames_nobody(tmp_path: Path, seed: int) -> None:
    """Real threads, real time: the edit falls between any two system calls of the seeder."""
    published = Published(tmp_path / "source", 24 * MIB, seed=seed)
    copy = Path(shutil.copy2(published.path, tmp_path / "copy.gguf"))
    good = OpenFile(copy, published_again(published, copy), checked=True)
    bans = Bans(trio.current_time)
    blamed: list[Verdict] = []
    wait = random.Random(seed).uniform(0.01, 0.15)

    def edits() -> None:
        time.sleep(wait)  # the moment is what the test draws, no condition is waited for
        with published.path.open("r+b") as file:
            for start in range(0, 24 * MIB, MIB):
                file.seek(start)
                file.write(bytes(MIB))

    thread = threading.Thread(target=edits)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download(bans=bans, blamed=blamed.append, run_sync=trio.to_thread.run_sync)
        swarm.honest(download, "changes")
        thread.start()
        nursery.start_soon(download.run)
        await trio.to_thread.run_sync(thread.join)
        swarm.honest(download, "good", file=good)
        with trio.fail_after(30):
            while download.snapshot.state != "done":
                await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    assert (swarm.target / published.path.name).read_bytes() == published.content
    assert not blamed and not bans.banned("changes", published.plan.root)
