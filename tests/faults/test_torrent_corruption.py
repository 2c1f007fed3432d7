"""Files that lie: damaged part and state files, swapped ones, and traps where a file should be."""

from __future__ import annotations

import os
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torrent_child as child
from torrent_child import CONTENT, LAYER, LAYOUT, NAME, download, open_part

from node.errors import PlainError
from node.torrent import resume
from node.torrent.disk_errors import NameTakenError
from node.torrent.folder import RealFolder
from node.torrent.names import part_name, state_name
from node.torrent.pieces import check_piece

PART, STATE = part_name(NAME), state_name(NAME)


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A folder with a download of which five of eight pieces are durable."""
    path = tmp_path / "half"
    path.mkdir()
    part = open_part(RealFolder(path))
    for piece in range(5):
        part.write(check_piece(LAYOUT, LAYER, piece, child.piece_bytes(piece)), 0.0)
        if piece in (1, 3):
            part.checkpoint()
    part.checkpoint()
    part.close()
    return path


def damaged(half: Path, damage: Callable[[Path], None]) -> None:
    """Damage the half download, go on with it, and undo: right bytes or a plain refusal.

    In place, because the state file knows the part file's inode.
    """
    kept = {name: (half / name).read_bytes() for name in (PART, STATE)}
    inode = (half / PART).stat().st_ino
    damage(half)
    part = open_part(RealFolder(half))
    for piece in part.have:
        assert part.read(piece, 0, LAYOUT.piece_size(piece)) == child.piece_bytes(piece)
    part.close()
    for name, content in kept.items():
        with open(half / name, "wb" if name == STATE else "r+b") as file:
            file.write(content)
            file.truncate()
    assert (half / PART).stat().st_ino == inode


def flip(name: str, at: int, bit: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with open(path / name, "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ (1 << bit)]))

    return damage


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path / name, size)


def test_every_byte_of_the_header(half: Path) -> None:
    for at in range(resume.HEADER.size):
        damaged(half, flip(STATE, at, at % 8))
    assert download(half)["have"] == 5


def test_random_bytes_of_both_files(half: Path) -> None:
    rng = random.Random(4)
    for name in (STATE, PART):
        size = (half / name).stat().st_size
        for _ in range(120):
            damaged(half, flip(name, rng.randrange(size), rng.randrange(8)))
    assert download(half)["have"] == 5


@pytest.mark.slow
def test_a_thousand_random_bytes_of_both_files(half: Path) -> None:
    rng = random.Random(5)
    for name in (STATE, PART):
        size = (half / name).stat().st_size
        for _ in range(1000):
            damaged(half, flip(name, rng.randrange(size), rng.randrange(8)))


def test_every_length_the_files_could_be_cut_to(half: Path) -> None:
    state = (half / STATE).stat().st_size
    for size in {*range(0, state, 11), 0, 1, 127, 128, state - 1, state - 4}:
        damaged(half, cut(STATE, size))
    for size in (0, 1, 4095, 4096, len(CONTENT) // 2, len(CONTENT) - 1):
        damaged(half, cut(PART, size))
    damaged(half, lambda path: (path / STATE).write_bytes(b"\0" * 300))
    damaged(half, lambda path: os.truncate(path / STATE, 1 << 30))
    damaged(half, lambda path: os.truncate(path / PART, 1 << 24))


def test_an_older_version_is_not_believed(half: Path) -> None:
    def older(path: Path) -> None:
        raw = bytearray((path / STATE).read_bytes())
        saved = resume.read_state(bytes(raw))
        header = bytearray(resume.write_header(saved.header))
        header[8] = 1
        header[-4:] = zlib.crc32(bytes(header[:-4])).to_bytes(4, "little")
        raw[: len(header)] = header
        (path / STATE).write_bytes(raw)

    damaged(half, older)
    older(half)
    part = open_part(RealFolder(half))
    assert part.recheck == "full" and part.have == frozenset(range(5))
    part.close()


@pytest.mark.parametrize("missing", [PART, STATE])
def test_one_of_the_files_is_gone(half: Path, missing: str) -> None:
    (half / missing).unlink()
    result = download(half)
    assert result["have"] == (0 if missing == PART else 5)
    assert (half / NAME).read_bytes() == CONTENT
    assert os.listdir(half) == [NAME]


def test_files_swapped_between_two_downloads(half: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    part = open_part(RealFolder(other))
    part.close()
    for swapped in (PART, STATE):
        one, two = tmp_path / f"one-{swapped}", tmp_path / f"two-{swapped}"
        shutil.copytree(half, one)
        shutil.copytree(other, two)
        os.rename(one / swapped, tmp_path / "swap")
        os.rename(two / swapped, one / swapped)
        os.rename(tmp_path / "swap", two / swapped)
        for path in (one, two):
            download(path)
            assert (path / NAME).read_bytes() == CONTENT


def test_a_copied_part_is_read_again_whole(half: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(half, copied)
    part = open_part(RealFolder(copied))
    assert (part.recheck, part.have) == ("full", frozenset(range(5)))
    part.close()


# ---------------------------------------------------------------- traps


def outside_of(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    return outside


TRAPS = ["symlink", "dangling", "inside", "fifo", "folder", "hard link"]


def trap(kind: str, shards: Path, name: str, outside: Path) -> None:
    match kind:
        case "symlink":
            (shards / name).symlink_to(outside / "precious")
        case "dangling":
            (shards / name).symlink_to(outside / "nothing")
        case "inside":
            (shards / "own").write_bytes(b"own")
            (shards / name).symlink_to("own")
        case "fifo":
            os.mkfifo(shards / name)
        case "folder":
            (shards / name).mkdir()
        case "hard link":
            os.link(outside / "precious", shards / name)


@pytest.mark.parametrize("kind", TRAPS)
@pytest.mark.parametrize("name", [NAME, PART, STATE, STATE + ".tmp"])
def test_traps_are_refused_and_nothing_outside_changes(
    kind: str, name: str, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    outside = outside_of(tmp_path)
    part = open_part(RealFolder(shards))
    part.write(check_piece(LAYOUT, LAYER, 0, child.piece_bytes(0)), 0.0)
    part.checkpoint()
    part.close()
    if name in (PART, STATE):
        (shards / name).unlink()
    trap(kind, shards, name, outside)
    try:
        download(shards)
    except PlainError as error:
        assert error.sentence and error.next_step
        assert name != NAME or isinstance(error, NameTakenError)
    else:
        # Only names that we replace ourselves may go: they lead nowhere and nothing reads them.
        assert name == STATE + ".tmp" or (name, kind) == (STATE, "hard link")
        assert (shards / NAME).read_bytes() == CONTENT
    assert os.listdir(outside) == ["precious"]
    assert (outside / "precious").read_bytes() == b"precious"
    if kind == "inside":
        assert (shards / "own").read_bytes() == b"own"


@pytest.mark.parametrize("kind", TRAPS)
def test_a_name_that_appears_between_check_and_link(kind: str, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    outside = outside_of(tmp_path)

    class Racing(RealFolder):
        def link(self, old: str, new: str) -> None:
            trap(kind, shards, new, outside)
            super().link(old, new)

    part = open_part(Racing(shards))
    for piece in range(LAYOUT.pieces):
        part.write(check_piece(LAYOUT, LAYER, piece, child.piece_bytes(piece)), 0.0)
    with pytest.raises(NameTakenError):
        part.finish()
    part.close()
    assert os.listdir(outside) == ["precious"]
    assert (outside / "precious").read_bytes() == b"precious"
    final = shards / NAME
    if final.is_dir() and not final.is_symlink():
        final.rmdir()
    else:
        final.unlink()
    assert download(shards)["written"] == 0
    assert final.read_bytes() == CONTENT
