"""`swarmtui torrent verify` and `publish`: files of this machine."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import sample_events as sample
from test_cli import python
from torrent_cli_kit import (
    HASH,
    ROOT,
    ROOTS,
    Capture,
    Node,
    no_pause,
    node,
    write,
)

from node.settings import load_settings
from node.torrent.files import info_hash
from node.torrent.trust import KnownRoots
from swarmtui import cli

__all__ = ["no_pause", "node"]


# ---------------------------------------------------------------- verify


def test_verify_compares_with_what_a_node_remembers(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    good = write(folder / "shard-0.gguf", b"a" * 70_000)
    wrong = write(folder / "shard-1.gguf", b"b" * 70_000)
    fresh = write(folder / "shard-2.gguf", b"")
    known = KnownRoots(load_settings({"name": "here"}).roots_path)
    known.remember(info_hash("shard-0.gguf", 70_000), good)
    known.remember(info_hash("shard-1.gguf", 70_000), ROOT)
    assert cli.run(["torrent", "verify", "--shards-dir", str(folder)]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"ok         {folder}/shard-0.gguf  {good}  (remembered by here)",
        f"DIFFERS    {folder}/shard-1.gguf  {wrong}",
        f"           from {ROOT} (remembered by here)",
        f"not known  {folder}/shard-2.gguf  {fresh}",
    ]
    assert said.err == (
        "Not what it should be: shard-1.gguf. Move it away, then fetch it again: "
        "swarmtui torrent get shard-1.gguf\n"
    )
    monkeypatch.chdir(folder)
    assert cli.run(["torrent", "verify", "shard-0.gguf", "shard-2.gguf"]) == 0


def test_a_given_root_counts_before_a_pin_and_a_pin_before_memory(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = write(tmp_path / "x.gguf", b"content")
    known = KnownRoots(load_settings({"name": "here"}).roots_path)
    known.remember(info_hash("x.gguf", 7), root)
    (tmp_path / "swarmtui.toml").write_text(f'pins = ["x.gguf@{ROOT}"]\n')
    assert cli.run(["torrent", "verify", "x.gguf"]) == 1
    assert f"from {ROOT} (pinned)" in capsys.readouterr().out
    assert cli.run(["torrent", "verify", "x.gguf", "--root", root.upper()]) == 0
    assert "(given)" in capsys.readouterr().out
    assert cli.run(["torrent", "verify", f"x.gguf@{root}"]) == 0
    assert cli.run(["torrent", "verify", f"x.gguf@{ROOTS[0]}"]) == 1
    assert f"from {ROOTS[0]} (given)" in capsys.readouterr().out


def test_verify_names_the_node_and_refuses_a_damaged_list(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "x.gguf"
    root = write(path, b"content")
    for name, remembered in (("one", root), ("two", ROOT)):
        known = KnownRoots(load_settings({"name": name}).roots_path)
        known.remember(info_hash("x.gguf", 7), remembered)
    assert cli.run(["torrent", "verify", str(path)]) == 0
    assert "(remembered by one)" in capsys.readouterr().out
    assert cli.run(["torrent", "verify", str(path), "--name", "two"]) == 1
    load_settings({"name": "two"}).roots_path.write_text("[]")
    assert cli.run(["torrent", "verify", str(path), "--name", "two"]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_verify_refuses_what_is_no_regular_file(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "real.gguf").write_bytes(b"content")
    (tmp_path / "link.gguf").symlink_to(tmp_path / "real.gguf")
    assert cli.run(["torrent", "verify", str(tmp_path / "link.gguf")]) == 2
    assert "cannot be read" in capsys.readouterr().err


# ---------------------------------------------------------------- publish


def test_publish_prints_what_others_need(
    node: Node, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + b"\0" * 60)
    node.answer = {"info_hash": HASH, "filename": "m.gguf", "size": 64, "root": ROOT}
    assert cli.run(["torrent", "publish", "m.gguf"]) == 0
    said = capsys.readouterr().out
    assert node.asked == [("publish", {"path": str(tmp_path / "m.gguf")})]
    assert f"others     --pin m.gguf@{ROOT}" in said
    folder = tmp_path / "of-the-node"
    folder.mkdir()
    (folder / "n.gguf").write_bytes(b"GGUF")
    node.emit(msgspec.structs.replace(sample.started(), shards_dir=str(folder)))
    assert cli.run(["torrent", "publish", "n.gguf"]) == 0
    assert node.asked[-1] == ("publish", {"path": str(folder / "n.gguf")})
    assert cli.run(["torrent", "publish", "o.gguf"]) == 2
    assert f"There is no file {folder}/o.gguf" in capsys.readouterr().err
    assert re.search(rf"info hash +{HASH}", said)


def test_no_subcommand_needs_a_heavy_library() -> None:
    done = python(
        "import sys\n"
        "import swarmtui.commands.torrent, swarmtui.following, swarmtui.torrent_list\n"
        "heavy = {'trio', 'libp2p', 'textual', 'rich', 'numpy', 'llama_cpp', 'gguf'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    assert done.returncode == 0, done.stderr
    assert "heavy: []" in done.stdout
