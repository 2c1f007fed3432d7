"""`swarmtui torrent` and downloads: what it asks of a node, what it prints, how it ends."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import sample_events as sample
from test_door_socket import Served
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
    listed,
    no_pause,
    node,
    wanted,
)

from node import events as ev
from node.errors import PlainError
from node.settings import load_settings
from node.torrent.files import info_hash
from swarmtui import cli, following
from swarmtui.following import ProgressLine
from swarmtui.transfers import split_root

__all__ = ["no_pause", "node"]


# ---------------------------------------------------------------- list


def test_the_list_for_people_has_transfers_first_and_says_why(node: Node, capsys: Capture) -> None:
    node.emit(
        ev.TorrentSeeded(
            at=2.0, info_hash=info_hash("shard-0.gguf", 3), filename="shard-0.gguf", size=3,
            shard_id=0, root=ROOT, piece_length=MIB, pieces=1,
        ),
        listed("other\x1b[2J.gguf", 12_345),
        wanted(),
        changed("stalled", 16 * MIB, reason="No source is known."),
        ev.TransferFailed(
            at=7.0, info_hash="", filename="model.gguf", shard_id=None, offers=OFFERS,
            sentence="model.gguf is offered with different contents.", next_step="Say which.",
        ),
    )
    assert cli.run(["torrent", "list"]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0].split()[:4] == ["FILE", "SHARD", "SIZE", "STATE"]
    assert lines[1].split()[:6] == [NAME, "1", "64.0", "MiB", "stalled", "25"]
    assert lines[2] == "    No source is known."
    assert lines[3].startswith("model.gguf") and "failed" in lines[3]
    told = f"    swarmtui torrent get model.gguf@{ROOTS[1]}  # size {SIZE}, 1 seeder(s)"
    assert told in lines
    assert lines[-2].startswith("shard-0.gguf") and "seeding" in lines[-2]
    assert "1 peer" in lines[-1] and "12.1 KiB" in lines[-1]
    assert "\x1b" not in said


def test_the_list_for_machines(node: Node, capsys: Capture) -> None:
    node.emit(
        wanted(),
        changed(
            "transfer", 16 * MIB, rate_down=2e6, uploaded=32 * MIB,
            sources=(ev.SourceRow(peer_id=sample.PEER, state="active", rate=2e6),),
        ),
        ev.TransferWanted(at=8.0, filename="x.gguf", shard_id=None, wanted_by="operator"),
    )
    assert cli.run(["torrent", "list", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["name"] == "shard-0" and report["peer_id"] == sample.ME
    first, second = report["files"]
    assert first["info_hash"] == HASH and first["state"] == "downloading"
    assert first["share"] == 0.25 and first["ratio"] == 0.5 and first["rate_down"] == 2e6
    assert first["pin"] == f"{NAME}@{ROOT}"
    assert first["sources"][0]["peer_id"] == sample.PEER
    assert second["info_hash"] is None and second["filename"] == "x.gguf"


def test_an_empty_list_says_what_to_do(node: Node, capsys: Capture) -> None:
    assert cli.run(["torrent", "list"]) == 0
    assert "Put shard files into /s." in capsys.readouterr().out
    assert cli.run(["torrent", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == []


# ---------------------------------------------------------------- get


def test_get_follows_until_the_file_is_here(node: Node, capsys: Capture) -> None:
    steps = [changed("transfer", share * 4 * MIB) for share in range(0, 16, 4)]
    node.play(wanted(), *steps, finished())
    assert cli.run(["torrent", "get", NAME, "--no-load"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"✓ {NAME} is complete and verified: 64.0 MiB fetched in 2.0 s (32.0 MiB/s).",
        f"  root {ROOT}",
    ]
    assert node.asked == [("get", {"what": NAME, "load": False})]


def test_get_waits_until_the_shard_is_loaded(node: Node, capsys: Capture) -> None:
    path = f"/s/{NAME}"
    node.play(
        wanted(), changed("transfer", 8 * MIB), finished(),
        ev.ShardLoading(at=8.0, shard_id=1, progress=0.5, path=path),
    )

    def load() -> None:
        node.emit(sample.loaded(9.0, shard_id=1))

    loading = threading.Timer(0.3, load)
    loading.start()
    assert cli.run(["torrent", "get", "1"]) == 0
    loading.join()
    said = capsys.readouterr()
    assert "complete and verified  loading" in said.err
    assert "✓ shard-1.gguf is complete and verified" in said.out
    assert node.asked == [("get", {"what": "1"})]


def test_without_a_terminal_progress_is_a_few_lines(node: Node, capsys: Capture) -> None:
    node.play(wanted())

    def work() -> None:
        for number in range(161):
            node.emit(changed("transfer", number * SIZE // 160, rate_down=5 * MIB))
        node.emit(finished())

    worker = threading.Timer(0.1, work)
    worker.start()
    assert cli.run(["torrent", "get", HASH[:8], "--no-load"]) == 0
    worker.join()
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 13
    assert all("\r" not in line and "\x1b" not in line for line in lines)


def test_get_of_what_is_here_already_ends_at_once(node: Node, capsys: Capture) -> None:
    node.answer = {"info_hash": HASH, "filename": NAME, "status": "here"}
    assert cli.run(["torrent", "get", NAME]) == 0
    assert capsys.readouterr().out == f"✓ {NAME} is here already.\n"


def test_get_says_why_it_failed_and_what_to_do(node: Node, capsys: Capture) -> None:
    node.play(wanted(), changed("transfer", 4 * MIB), failed())
    assert cli.run(["torrent", "get", NAME]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-2:] == ["✗ The disk is full.", "  Make room."]
    assert said.out == ""


def test_get_of_two_contents_lists_the_command_lines(node: Node, capsys: Capture) -> None:
    node.answer = PlainError("Two contents.", "Choose.")
    node.play(
        wanted(key=""),
        ev.TransferFailed(
            at=7.0, info_hash="", filename=NAME, shard_id=1, sentence="Two contents.",
            next_step="Choose.", offers=OFFERS,
        ),
    )
    assert cli.run(["torrent", "get", NAME]) == 1
    assert capsys.readouterr().err.splitlines()[-4:] == [
        "✗ Two contents.",
        "  Choose.",
        *(f"  swarmtui torrent get {NAME}@{root}  # size {SIZE}, 1 seeder(s)" for root in ROOTS),
    ]
    node.answer = {"info_hash": HASH, "filename": NAME, "status": "downloading"}
    node.play(wanted(), changed("transfer", 4 * MIB), finished())
    assert cli.run(["torrent", "get", f"{NAME}@{ROOTS[0].upper()}", "--no-load"]) == 0
    assert node.asked[-1] == ("get", {"what": NAME, "root": ROOTS[0], "load": False})


def test_while_the_node_looks_for_it_the_line_says_so(node: Node, capsys: Capture) -> None:
    node.answer = None
    node.play(
        wanted(key=""),
        ev.TransferChanged(
            at=6.0, info_hash="", filename=NAME, size=0, root="", phase="waiting",
            reason="No peer offers it.", shard_id=1,
        ),
    )

    def find() -> None:
        node.emit(wanted(), changed("transfer", 4 * MIB), finished())
        future = node.waiting.get()
        future.set_result({"info_hash": HASH, "filename": NAME, "status": "downloading"})

    worker = threading.Timer(0.3, find)
    worker.start()
    assert cli.run(["torrent", "get", "1", "--no-load"]) == 0
    worker.join()
    assert "shard-1.gguf  waiting  No peer offers it." in capsys.readouterr().err


def test_an_old_failure_is_not_taken_for_the_new_one(node: Node, capsys: Capture) -> None:
    node.emit(wanted(), failed(sentence="An old failure."))
    worker = threading.Timer(0.2, lambda: node.emit(wanted(), changed("transfer"), finished()))
    worker.start()
    assert cli.run(["torrent", "get", NAME, "--no-load"]) == 0
    worker.join()
    said = capsys.readouterr()
    assert "✗" not in said.err and said.out.startswith(f"✓ {NAME}")


def test_get_of_a_file_whose_size_nobody_named_yet(node: Node, capsys: Capture) -> None:
    node.answer = {"info_hash": "", "filename": NAME, "status": "looking"}
    node.play(wanted(key=""))
    worker = threading.Timer(
        0.2, lambda: node.emit(wanted(), changed("transfer", 4 * MIB), finished())
    )
    worker.start()
    assert cli.run(["torrent", "get", NAME, "--no-load"]) == 0
    worker.join()
    assert "looking" in capsys.readouterr().err


def test_ctrl_c_leaves_the_download_running_and_says_so(
    node: Node, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object, state: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(following.Follower, "_look", interrupted)
    assert cli.run(["torrent", "get", NAME]) == 130
    assert "goes on without you" in capsys.readouterr().err
    assert [name for name, _ in node.asked] == ["get"]


def test_get_at_once(node: Node, capsys: Capture) -> None:
    assert cli.run(["torrent", "get", NAME, "--no-wait"]) == 0
    assert capsys.readouterr().out == f"{NAME}: downloading  (info hash {HASH})\n"


def test_a_node_that_ends_meanwhile_is_told_of(node: Node, capsys: Capture) -> None:
    node.play(wanted(), changed("transfer", 4 * MIB))
    stopping = threading.Timer(0.2, node.stop)
    stopping.start()
    assert cli.run(["torrent", "get", NAME]) == 1
    stopping.join()
    assert "The node is gone" in capsys.readouterr().err


def test_a_terminal_sees_one_line_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "40")
    out = Terminal()
    line = ProgressLine(out)
    line.show("x" * 100)
    line.show("second")
    line.clear()
    written = out.getvalue()
    assert "\n" not in written
    assert written.count("\r\x1b[K") == 3
    assert len(written.split("\r\x1b[K")[1]) < 40


# ---------------------------------------------------------------- pause, resume, cancel


@pytest.mark.parametrize(
    ("argv", "request_name", "params"),
    [
        (["pause", NAME], "pause", {"what": NAME}),
        (["resume", "1"], "resume", {"what": "1"}),
        (["cancel", NAME], "cancel", {"what": NAME, "keep": False}),
        (["cancel", "--keep", NAME], "cancel", {"what": NAME, "keep": True}),
    ],
)
def test_the_other_requests(
    argv: list[str], request_name: str, params: dict[str, Any], node: Node, capsys: Capture
) -> None:
    node.answer = {"info_hash": HASH, "filename": NAME, "status": "paused\x1b[31m"}
    assert cli.run(["torrent", *argv]) == 0
    assert node.asked == [(request_name, params)]
    said = capsys.readouterr().out
    assert said.startswith(f"{NAME}: paused") and "\x1b" not in said


@pytest.mark.parametrize("argv", [["pause", "x"], ["get", "x"], ["cancel", "x"], ["resume", "x"]])
def test_what_the_node_refuses_is_its_sentence_and_code_2(
    argv: list[str], node: Node, capsys: Capture
) -> None:
    node.answer = PlainError("No file is known as 'x'.", "See `swarmtui torrent list`.")
    assert cli.run(["torrent", *argv]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "swarmtui: No file is known as 'x'.", "  See `swarmtui torrent list`.",
    ]


def test_two_nodes_need_a_name(node: Node, capsys: Capture) -> None:
    second = Served(load_settings({"name": "shard-1"}).socket_path, name="shard-1")
    try:
        assert cli.run(["torrent", "list"]) == 2
        assert "--name: shard-0, shard-1" in capsys.readouterr().err
        assert cli.run(["torrent", "list", "--name", "shard-0"]) == 0
    finally:
        second.stop()


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["list"], "No node runs on this machine"),
        (["get", "shard-0.gguf"], "No node runs on this machine"),
        (["get", "shard-0.gguf@12"], "'12' is not a root"),
        (["get", f"@{ROOT}"], "No file is named"),
        (["get", " "], "No file is named"),
        (["get"], "Missing argument"),
        (["pause"], "Missing argument"),
        (["pause", "x", "--name", "y"], "No node named y"),
        (["cancel", "x", "--discard"], "No such option"),
        (["publish", "missing.gguf"], "No node runs on this machine"),
        (["publish", "no/missing.gguf"], "There is no file no/missing.gguf"),
        (["publish", "."], ". is a folder, not a file"),
        (["publish", "text.gguf", "--json"], "text.gguf is not a GGUF file"),
        (["get", "shard-0.gguf", "--json"], "No node runs on this machine"),
        (["list", "--json"], "No node runs on this machine"),
        (["verify", "."], ". is a folder, not a file"),
        (["verify", "missing.gguf", "--json"], "There is no file missing.gguf"),
        (["verify", "text.gguf", "missing.gguf", "--json"], "There is no file missing.gguf"),
        (["publish", "text.gguf"], "text.gguf is not a GGUF file"),
        (["verify", "missing.gguf"], "There is no file missing.gguf"),
        (["verify", "a\x00b.gguf"], "There is no file"),
        (["verify", "text.gguf", "--root", "zz"], "'zz' is not a root"),
        (["verify", "text.gguf", "text.gguf", "--root", ROOT], "--root is about one file"),
        (["verify", "--root", ROOT], "--root is about one file"),
        (["verify", "text.gguf", "--name", "nobody"], "No node named nobody has run here"),
        (["verify"], "There is no shard file in"),
        (["dance"], "No such command"),
    ],
)
def test_what_can_be_mended_is_one_sentence_and_code_2(
    argv: list[str], words: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.gguf").write_text("no model")
    assert cli.run(["torrent", *argv]) == 2
    answered, said = capsys.readouterr()
    assert not answered  # what reads --json never sees half a document
    assert words in said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 4


def test_every_subcommand_has_help(capsys: Capture) -> None:
    for name in ("list", "get", "pause", "resume", "cancel", "verify", "publish"):
        assert cli.run(["torrent", name, "--help"]) == 0
        assert f"Usage: swarmtui torrent {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        ("shard-0.gguf", ("shard-0.gguf", "")),
        (f"shard-0.gguf@{ROOT}", ("shard-0.gguf", ROOT)),
        (f"3@{ROOT.upper()}", ("3", ROOT)),
        ("at@home.gguf", ("at@home.gguf", "")),
        (f"at@home.gguf@{ROOT}", ("at@home.gguf", ROOT)),
    ],
)
def test_what_and_root_are_told_apart(what: str, parts: tuple[str, str]) -> None:
    assert split_root(what) == parts


