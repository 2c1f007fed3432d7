"""The journal replays to the same state, whatever was cut off, and survives a full disk."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
import sample_events as sample

from node import events as ev, rotating
from node.door import NodeDoor
from node.errors import PlainError
from node.journal import Journal, read, replay
from node.rotating import RotatingFile
from node.state import State


def recorded(folder: Path, events: list[ev.Event], **limits: int) -> tuple[Journal, State]:
    door = NodeDoor()
    with Journal(folder, door.emit, **limits) as journal:
        door.tap(journal.record)
        for event in events:
            door.emit(event)
    return journal, door.state


def test_replay_gives_the_same_state(tmp_path: Path) -> None:
    journal, state = recorded(tmp_path, sample.joining())
    assert replay(journal.path) == state
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600


def test_a_broken_last_line_is_left_out(tmp_path: Path) -> None:
    journal, _ = recorded(tmp_path, sample.joining())
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-20])
    assert replay(journal.path) == sample.state_after(sample.joining()[:-1])


def test_rotated_files_replay_on_their_own(tmp_path: Path) -> None:
    events = [*sample.joining(), *(sample.heard(at=200.0 + i) for i in range(300))]
    journal, state = recorded(tmp_path, events, max_bytes=16_384)
    previous = journal.path.with_name(journal.path.name + ".1")
    assert journal.path.stat().st_size <= 16_384
    assert previous.stat().st_size <= 16_384
    assert sorted(tmp_path.iterdir()) == [journal.path, previous]
    assert replay(journal.path) == state
    first, _ = read(journal.path)
    assert replay(previous) == first


def test_each_run_begins_a_file(tmp_path: Path) -> None:
    recorded(tmp_path, sample.joining())
    journal, state = recorded(tmp_path, [sample.started(at=500.0)])
    assert replay(journal.path) == state
    assert len(read(journal.path)[1]) == 1


class FullDisk:
    """Makes every write fail while `full`, and tells when one did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.failed = threading.Event()
        real = rotating.os.write

        def write(fd: int, data: bytes) -> int:
            if self.full:
                self.failed.set()
                raise OSError(28, "No space left on device")
            return real(fd, data)

        monkeypatch.setattr(rotating.os, "write", write)


def test_a_full_disk_is_one_problem_and_no_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    door = NodeDoor()
    with Journal(tmp_path, door.emit) as journal:
        door.tap(journal.record)
        door.emit(sample.started())
        disk.full = True
        door.emit(sample.loaded())
        assert disk.failed.wait(5)
        journal.close()
        for number in range(50):
            door.emit(sample.heard(at=300.0 + number))
    problems = [item for item in door.state.problems if item.tag == "JOURNAL"]
    assert len(problems) == 1
    assert "No space left on device" in problems[0].sentence


def test_an_unwritable_folder_is_one_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    door = NodeDoor()
    with Journal(tmp_path / "file" / "journal", door.emit) as journal:
        door.tap(journal.record)
        door.emit(sample.started())
        journal.close()
        door.emit(sample.loaded())
    assert [item.tag for item in door.state.problems] == ["JOURNAL"]


def test_what_is_no_journal_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(PlainError, match="cannot be read"):
        replay(tmp_path / "none.jsonl")
    (tmp_path / "x.jsonl").write_text("hello\n")
    with pytest.raises(PlainError, match="no journal"):
        replay(tmp_path / "x.jsonl")


def test_a_failed_write_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RotatingFile(tmp_path / "f", 1000)
    file.write(b"first\n")
    real = rotating.os.write
    calls = iter([True, False])

    def half(fd: int, data: bytes) -> int:
        if next(calls):
            return real(fd, bytes(data)[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rotating.os, "write", half)
    with pytest.raises(OSError, match="No space"):
        file.write(b"second\n")
    monkeypatch.setattr(rotating.os, "write", real)
    file.write(b"third\n")
    file.close()
    assert (tmp_path / "f").read_bytes() == b"first\nthird\n"
