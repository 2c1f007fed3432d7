"""The log writer: what goes where, and that a reader who leaves harms nobody."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sample_events as sample

from node.door import NodeDoor
from node.log_writer import LogWriter
from node.settings import load_settings


def written(capsys: pytest.CaptureFixture[str], **flags: str) -> tuple[str, str]:
    """Standard output and the log file after a small swarm's events."""
    settings = load_settings({"name": "n", **flags})
    writer = LogWriter(settings, stdout=True)
    door = NodeDoor()
    door.tap(writer.tap)
    for event in sample.joining():
        door.emit(event)
    writer.close()
    return capsys.readouterr().out, settings.log_path.read_text(encoding="utf-8")


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    out, file = written(capsys)
    assert out == file
    assert "[DHT] ✓ Discovered shard 1 from peer: " in out
    assert "[P2P] Peer" not in out  # a ping is a detail
    detailed, _ = written(capsys, log_level="debug")
    assert "[P2P] Peer" in detailed


def test_json_is_one_object_per_event(capsys: pytest.CaptureFixture[str]) -> None:
    out, file = written(capsys, log_format="json", log_level="debug")
    records = [json.loads(line) for line in out.splitlines()]
    kinds = [record["event"]["type"] for record in records]
    assert kinds == [type(event).__name__ for event in sample.joining()]
    assert all(set(record) == {"at", "level", "tag", "text", "event"} for record in records)
    assert "[DHT] ✓ Discovered" in file


def test_level(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = written(capsys, log_level="error")
    assert out == ""


def test_the_log_file_is_private_and_an_unwritable_one_no_disaster(own_home: Path) -> None:
    settings = load_settings({"name": "n"})
    LogWriter(settings, stdout=False).close()
    assert settings.log_path.stat().st_mode & 0o777 == 0o600
    (own_home / "state" / "blocked").write_text("")
    writer = LogWriter(load_settings({"name": "blocked"}), stdout=False)
    writer.tap(sample.started(), NodeDoor().state, NodeDoor().state)
    writer.close()
    assert writer.problem


def test_following_a_door_tells_what_was_before_too() -> None:
    settings = load_settings({"name": "n"})
    door, events = NodeDoor(), sample.joining()
    for event in events[:4]:
        door.emit(event)
    writer = LogWriter(settings, stdout=False)
    writer.follow(door)
    for event in events[4:]:
        door.emit(event)
    writer.close()
    text = settings.log_path.read_text(encoding="utf-8")
    assert text.count("[SERVER] Node shard-0") == 1
    assert text.count("[STATUS] Discovered Shards: 0 → 1") == 1
    assert text.count("Swarm Ready: ✗ NO → ✓ YES") == 1


class Waited(io.StringIO):
    """Tells when the periodic report was written."""

    def __init__(self) -> None:
        super().__init__()
        self.reported = threading.Event()

    def write(self, text: str) -> int:
        if "Peers: " in text:
            self.reported.set()
        return super().write(text)


def test_the_periodic_report(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Waited()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("SWARMTUI_REPORT_S", "1")
    writer = LogWriter(load_settings({"name": "n"}), stdout=True)
    door = NodeDoor()
    door.tap(writer.tap)
    for event in sample.joining():
        door.emit(event)
    assert stream.reported.wait(10)
    writer.close()
    assert "[STATUS]   Shard 0: ★ LOCAL (loaded)" in stream.getvalue()


def test_a_closed_pipe_costs_nothing() -> None:
    code = (
        "import sample_events as sample\n"
        "from node.door import NodeDoor\n"
        "from node.log_writer import LogWriter\n"
        "from node.settings import load_settings\n"
        "settings = load_settings({'name': 'n'})\n"
        "writer = LogWriter(settings, stdout=True)\n"
        "door = NodeDoor()\n"
        "door.tap(writer.tap)\n"
        "for event in sample.joining(): door.emit(event)\n"
        "writer.close()\n"
        "assert 'Swarm Ready' in settings.log_path.read_text()\n"
    )
    reader, end = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=end,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(end)
    assert (done.returncode, done.stderr) == (0, b"")
