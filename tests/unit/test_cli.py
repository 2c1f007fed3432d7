"""The command line: exit codes, plain sentences, and that it stays lean."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sample_events as sample
from test_door_socket import Served

from node.settings import load_settings
from swarmtui import cli, lab
from swarmtui.commands.options import settings_table

ROOT = Path(__file__).resolve().parent.parent.parent


def python(code: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )


def test_help_needs_no_heavy_library() -> None:
    done = python(
        "import sys\n"
        "from swarmtui.cli import run\n"
        "assert run(['--help']) == 0\n"
        "heavy = {'trio', 'libp2p', 'textual', 'rich', 'numpy', 'llama_cpp', 'gguf'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    assert done.returncode == 0, done.stderr
    assert "heavy: []" in done.stdout
    assert "rendezvous" in done.stdout and "--total-shards" in done.stdout


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in cli.COMMANDS:
        assert cli.run([name, "--help"]) == 0
    assert "Usage: swarmtui lab" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--port", "99999"], "setting port cannot be '99999' (from flag --port)"),
        (["--shard", "9"], "There is no shard 9"),
        (["--bogus"], "No such option"),
        (["dance"], "No such command"),
        (["--shard", "0", "status"], "options of the node go after the command"),
        (["status"], "No node runs on this machine"),
        (["status", "--name", "x"], "No node named x"),
        (["send", "GET_STATUS", "--to", "all"], "No node runs on this machine"),
        (["attach"], "No node runs on this machine"),
        (["bundle"], "No node runs on this machine"),
        (["send", "GET_STATUS"], "Missing option '--to'"),
        (["split", "/nowhere.gguf", "--shards", "2", "--out", "/nowhere"], "nowhere"),
        (["lab", "--shards", "9", "--layers", "4", "--no-ui"], "cannot be cut into 9 shards"),
        (["model", "synth", "--quant", "q9", "x.gguf"], "q9"),
    ],
)
def test_what_can_be_mended_is_one_sentence_and_code_2(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(argv) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 4


def test_the_unexpected_is_a_crash_note(
    own_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(settings: object) -> int:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("swarmtui.commands.run.run_node", burst)
    assert cli.run(["--no-ui"]) == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said and "secret detail" not in said
    notes = list((own_home / "state" / "crashes").iterdir())
    assert len(notes) == 1
    assert "secret detail" in notes[0].read_text()
    assert str(notes[0]) in said


def test_split_and_synth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tmp_path / "m.gguf", tmp_path / "out"
    out.mkdir()
    assert cli.run(["model", "synth", "--layers", "4", "--vocab", "300", str(model)]) == 0
    assert cli.run(["split", str(model), "--shards", "2", "--out", str(out)]) == 0
    assert {"shard-0.gguf", "shard-1.gguf"} <= {item.name for item in out.iterdir()}
    assert "layers 2-4" in capsys.readouterr().out
    assert cli.run(["model", "synth", str(model)]) == 2


def test_status_of_a_running_node(capsys: pytest.CaptureFixture[str]) -> None:
    served = Served(load_settings({"name": "shard-0"}).socket_path)
    served.emit(*sample.joining())
    assert cli.run(["status"]) == 0
    assert "★ LOCAL" in capsys.readouterr().out
    assert cli.run(["status", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ready"] is True
    assert report["shards"]["1"]["holders"] == [sample.PEER]
    served.stop()


def test_send_says_what_is_missing_and_shows_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(load_settings({"name": "shard-0"}).socket_path)
    asked: list[dict[str, object]] = []

    def answer(name: str, params: dict[str, object], future: object) -> None:
        asked.append(params)
        row = {"peer_id": sample.PEER, "status": "success", "duration_ms": 3.2}
        future.set_result({"answers": [{**row, "result": {"ready\x1b[31m": "\x1b[2Jyes"}}]})  # type: ignore[attr-defined]

    served.door.serve(answer)  # type: ignore[arg-type]
    served.emit(sample.started())
    assert cli.run(["send", "LOAD_SHARD", "--to", "all"]) == 2
    assert "--shard N" in capsys.readouterr().err
    assert cli.run(["send", "load_shard", "--shard", "1", "--to", "all"]) == 0
    said = capsys.readouterr().out
    assert "success after 3 ms" in said and "\x1b" not in said
    assert asked[0]["command"] == "LOAD_SHARD" and asked[0]["params"] == {"shard_id": 1}
    assert cli.run(["send", "SYNC_TORRENTS", "--to", "all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"][0]["status"] == "success"
    assert asked[1]["params"] == {"total_shards": 2}
    served.stop()


def test_the_readmes_table_is_the_settings() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    head, tail = "<!-- settings: ", "<!-- /settings -->"
    between = readme.split(head)[1].split("-->", 1)[1].split(tail)[0].strip()
    assert between == settings_table()


@pytest.mark.parametrize(
    ("nodes", "shards", "held"),
    [
        (4, 4, [[0], [1], [2], [3]]),
        (4, 2, [[0], [1], [0], [1]]),
        (2, 5, [[0, 2, 4], [1, 3]]),
        (1, 1, [[0]]),
    ],
)
def test_lab_deals_every_shard(nodes: int, shards: int, held: list[list[int]]) -> None:
    plan = lab.Plan(
        nodes=nodes, shards=shards, layers=8, embd=64, vocab=300, timeout_s=1.0
    )
    assert [plan.held_by(node) for node in range(nodes)] == held
