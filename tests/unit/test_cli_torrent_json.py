"""`swarmtui torrent … --json`: one document on standard output, whatever happens."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from torrent_cli_kit import (
    HASH,
    MIB,
    NAME,
    OFFERS,
    ROOT,
    ROOTS,
    SIZE,
    Capture,
    Node,
    changed,
    failed,
    finished,
    no_pause,
    node,
    wanted,
    write,
)

from node import events as ev
from node.errors import PlainError
from node.settings import load_settings
from node.torrent.files import info_hash
from node.torrent.trust import KnownRoots
from swarmtui import cli

__all__ = ["no_pause", "node"]

ITEM = {"filename", "info_hash", "root", "size", "status", "fetched", "seconds"}


def run(capsys: Capture, *argv: str, code: int = 0) -> dict[str, Any]:
    """The one document that the command printed."""
    assert cli.run(["torrent", *argv, "--json"]) == code
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.endswith("\n")
    found: dict[str, Any] = json.loads(said)
    return found


def test_verify(tmp_path: Path, capsys: Capture) -> None:
    good = write(tmp_path / "shard-0.gguf", b"a" * 70_000)
    wrong = write(tmp_path / "shard-1.gguf", b"b" * 70_000)
    fresh = write(tmp_path / "shard-2.gguf", b"")
    known = KnownRoots(load_settings({"name": "here"}).roots_path)
    known.remember(info_hash("shard-0.gguf", 70_000), good)
    known.remember(info_hash("shard-1.gguf", 70_000), ROOT)
    folder = ("--shards-dir", str(tmp_path))
    found = run(capsys, "verify", *folder, code=1)
    assert found["ok"] is False
    assert found["files"][0] == {
        "path": str(tmp_path / "shard-0.gguf"),
        "filename": "shard-0.gguf",
        "size": 70_000,
        "root": good,
        "info_hash": info_hash("shard-0.gguf", 70_000),
        "ok": True,
        "matches": ["here"],
        "differs": [],
    }
    _, second, third = found["files"]
    assert (second["ok"], second["root"]) == (False, wrong)
    assert second["differs"] == [{"who": "here", "root": ROOT}] and second["matches"] == []
    assert (third["ok"], third["root"], third["size"]) == (None, fresh, 0)
    assert set(second) == set(third) == set(found["files"][0])
    assert run(capsys, "verify", "shard-0.gguf", "shard-2.gguf", *folder)["ok"] is True


def test_verify_of_a_name_that_is_no_text(tmp_path: Path, capsys: Capture) -> None:
    path = os.fsencode(tmp_path) + b"/shard-\xff.gguf"
    with open(path, "wb") as file:
        file.write(b"content")
    assert cli.run(["torrent", "verify", os.fsdecode(path), "--json"]) == 2
    said = capsys.readouterr()
    assert not said.out and "is not valid text" in said.err


def test_verify_of_an_unreadable_file_prints_no_half_document(
    tmp_path: Path, capsys: Capture
) -> None:
    write(tmp_path / "a.gguf", b"content")
    (tmp_path / "b.gguf").symlink_to(tmp_path / "a.gguf")
    names = [str(tmp_path / name) for name in ("a.gguf", "b.gguf")]
    assert cli.run(["torrent", "verify", *names, "--json"]) == 2
    said = capsys.readouterr()
    assert not said.out and "cannot be read" in said.err and "Traceback" not in said.err


@pytest.mark.parametrize("what", ["pause", "resume", "cancel"])
def test_the_other_requests(node: Node, capsys: Capture, what: str) -> None:
    node.answer = {"info_hash": HASH, "filename": NAME, "status": "paused\x1b[31m"}
    found = run(capsys, what, NAME)
    assert set(found) == {"filename", "status", "info_hash"}
    assert (found["filename"], found["info_hash"]) == (NAME, HASH)
    assert "\x1b" not in found["status"]
    node.answer = PlainError("No file is known as 'x'.", "See `swarmtui torrent list`.")
    assert cli.run(["torrent", what, "x", "--json"]) == 2
    assert not capsys.readouterr().out


def test_get(node: Node, capsys: Capture) -> None:
    assert run(capsys, "get", NAME, "--no-wait")["status"] == "downloading"
    node.play(wanted(), changed("transfer", 4 * MIB), finished())
    found = run(capsys, "get", NAME, "--no-load")
    assert set(found) == ITEM
    assert (found["status"], found["info_hash"], found["size"]) == ("complete", HASH, SIZE)
    node.answer = {"info_hash": HASH, "filename": NAME, "status": "here"}
    assert run(capsys, "get", NAME)["status"] == "here"


def test_get_that_fails(node: Node, capsys: Capture) -> None:
    node.play(wanted(), changed("transfer", 4 * MIB), failed())
    found = run(capsys, "get", NAME, code=1)
    assert set(found) == ITEM | {"reason", "next_step", "offers"}
    assert (found["status"], found["info_hash"]) == ("failed", HASH)
    assert (found["reason"], found["next_step"]) == ("The disk is full.", "Make room.")


def test_get_of_two_contents(node: Node, capsys: Capture) -> None:
    node.answer = PlainError("Two contents.", "Choose.")
    node.play(
        wanted(key=""),
        ev.TransferFailed(
            at=7.0,
            info_hash="",
            filename=NAME,
            shard_id=1,
            sentence="Two contents.",
            next_step="Choose.",
            offers=OFFERS,
        ),
    )
    found = run(capsys, "get", NAME, code=1)
    assert [offer["root"] for offer in found["offers"]] == list(ROOTS)
    assert found["info_hash"] == ""


def test_publish(node: Node, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + b"\0" * 60)
    node.answer = {"info_hash": HASH, "filename": "m.gguf", "size": 64, "root": ROOT}
    path = str(tmp_path / "m.gguf")
    assert run(capsys, "publish", path, path)["files"] == [
        {
            "filename": "m.gguf",
            "size": 64,
            "info_hash": HASH,
            "root": ROOT,
            "pin": f"m.gguf@{ROOT}",
        }
    ] * 2


def test_list(node: Node, capsys: Capture) -> None:
    node.emit(wanted())
    found = run(capsys, "list")
    assert [item["filename"] for item in found["files"]] == [NAME]
