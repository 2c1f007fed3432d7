"""The cache of hashes gives back what was hashed, and never what does not prove itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.torrent import hash_cache
from node.torrent.hash_cache import HashCache
from node.torrent.hashing import FileHashes, hash_file


@pytest.fixture
def hashed(tmp_path: Path) -> FileHashes:
    path = tmp_path / "a.gguf"
    path.write_bytes(os.urandom(700_000))
    return hash_file(path)


def test_what_was_put_comes_back(tmp_path: Path, hashed: FileHashes) -> None:
    cache = HashCache(tmp_path / "hashes")
    assert cache.get(hashed.identity) is None
    cache.put(hashed)
    assert cache.get(hashed.identity) == hashed


def test_another_time_size_or_inode_is_another_file(tmp_path: Path, hashed: FileHashes) -> None:
    cache = HashCache(tmp_path / "hashes")
    cache.put(hashed)
    for place in range(4):
        other = list(hashed.identity)
        other[place] += 1
        assert cache.get((other[0], other[1], other[2], other[3])) is None


def test_every_damaged_byte_is_noticed(tmp_path: Path, hashed: FileHashes) -> None:
    cache = HashCache(tmp_path / "hashes")
    cache.put(hashed)
    (path,) = (tmp_path / "hashes").iterdir()
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        assert cache.get(hashed.identity) is None, place
    for size in (0, 7, 40, len(good) - 1):
        path.write_bytes(good[:size])
        assert cache.get(hashed.identity) is None, size
    path.write_bytes(good + b"\0")
    assert cache.get(hashed.identity) is None


def test_the_oldest_go_when_it_is_full(
    tmp_path: Path, hashed: FileHashes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hash_cache, "MAX_ENTRIES", 3)
    cache = HashCache(tmp_path / "hashes")
    made = []
    for number in range(5):
        device, inode, size, mtime = hashed.identity
        item = FileHashes(
            hashed.layout, hashed.root, hashed.layer, b"", (device, inode, size, mtime + number)
        )
        cache.put(item)
        for path in (tmp_path / "hashes").iterdir():
            if path.stat().st_mtime > 1_000_000:
                os.utime(path, (number, number))
        made.append(item)
    kept = [cache.get(item.identity) is not None for item in made]
    assert kept == [False, False, True, True, True]


def test_a_folder_that_cannot_be_written_is_no_trouble(tmp_path: Path, hashed: FileHashes) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    cache = HashCache(blocked / "hashes")
    cache.put(hashed)
    assert cache.get(hashed.identity) is None
