"""Names of strangers: what may become a path, and what the folder refuses to touch."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from node.clean import clean
from node.errors import PlainError
from node.torrent.folder import RealFolder
from node.torrent.names import check_name, part_name, state_name

GOOD = [
    "shard-0.gguf",
    "x-00001-of-00003.gguf",
    "Modèle größe 7B.gguf",
    "モデル.gguf",
    "a.gguf",
    "console.gguf",
    "a" * 250 + ".gguf",
]
BAD = {
    "": "empty",
    ".": "folder",
    "..": "folder",
    "../x.gguf": "'/'",
    "/etc/x.gguf": "'/'",
    "a\\b.gguf": "'\\\\'",
    "a\0.gguf": "U+0000",
    "a\n.gguf": "U+000A",
    "a\x1b[2J.gguf": "U+001B",
    "a\u202egpj.gguf": "U+202E",
    "a\u200b.gguf": "U+200B",
    "a\ud800.gguf": "Unicode",
    ".hidden.gguf": "starts with",
    "-rf.gguf": "starts with",
    "CON.gguf": "device",
    "con.tar.gguf": "device",
    "com\u00b9.gguf": "device",
    "LPT9.gguf": "device",
    "nul .gguf": "device",
    "x.gguf ": "ends with",
    "x.gguf.": "ends with",
    "x.bin": "does not end",
    "gguf": "does not end",
    "a" * 251 + ".gguf": "256 bytes",
    "é" * 126 + ".gguf": "257 bytes",
    "e\u0301.gguf": "NFC",
}


@pytest.mark.parametrize("name", GOOD)
def test_good_names_pass(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", BAD)
def test_bad_names_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(PlainError, match=BAD[name].replace("+", r"\+")) as caught:
        check_name(name)
    assert clean(caught.value.sentence, 500) == caught.value.sentence


@given(st.text(max_size=40).map(lambda text: text + ".gguf") | st.text(max_size=300))
def test_what_passes_is_one_harmless_component(name: str) -> None:
    try:
        check_name(name)
    except PlainError:
        return
    assert os.path.basename(name) == name and name not in ("", ".", "..")
    assert "\0" not in name and "\\" not in name
    assert unicodedata.normalize("NFC", name) == name
    assert len(name.encode()) <= 255 and name.endswith(".gguf")
    assert clean(name, 300) == name
    for made in (part_name(name), state_name(name), state_name(name) + ".tmp"):
        assert len(made.encode()) <= 255 and "/" not in made and not made.endswith(".gguf")


def test_other_suffixes_can_be_configured() -> None:
    assert check_name("x.bin", suffixes=(".gguf", ".bin")) == "x.bin"


def test_the_folder_follows_no_symlink_and_waits_for_no_fifo(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    inside = tmp_path / "shards"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    (inside / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(inside / "fifo")
    (inside / "folder").mkdir()
    folder = RealFolder(inside)
    for name in ("link", "dangling", "fifo", "folder"):
        with pytest.raises(PlainError):
            folder.open(name)
        with pytest.raises(FileExistsError):
            folder.create(name)
    handle = folder.create("x")
    folder.write(handle, b"data", 0)
    for name in ("link", "dangling", "fifo", "folder"):
        with pytest.raises(FileExistsError):
            folder.link("x", name)
    folder.link("x", "y")
    with pytest.raises(FileExistsError):
        folder.link("x", "y")
    assert folder.facts(handle).links == 2
    assert folder.facts_of("link") is not None and folder.facts_of("none") is None
    folder.close(handle)
    folder.close_folder()
    assert outside.read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_is_none_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(PlainError, match="cannot be opened"):
            RealFolder(path)


def test_one_owner_per_file(tmp_path: Path) -> None:
    folder = RealFolder(tmp_path)
    first = folder.create("x")
    assert folder.lock(first)
    second = folder.open("x")
    assert not folder.lock(second)
    folder.close(first)
    assert folder.lock(second)
    folder.close(second)
    folder.close_folder()
