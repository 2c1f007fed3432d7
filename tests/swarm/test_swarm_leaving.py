"""How nodes and whole labs end: politely, at once, and with nothing left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from swarm_processes import Swarm, clean_environment, processes_in

from node import events as ev

pytestmark = pytest.mark.swarm

NewSwarm = Callable[[int], Swarm]
LEAVE_S = 3.0
NOTICE_S = 2.0
LAB_S = 90.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_leaves_politely_and_everybody_knows_at_once(
    swarm: NewSwarm, number: signal.Signals
) -> None:
    group = swarm(2)
    stays = group.node("stays", 0)
    group.open(stays)
    group.until(lambda: bool(stays.addresses), "the first node does not listen")
    leaves = group.node("leaves", 1, via=stays)
    watches = group.node("watches", via=stays)
    group.open(leaves, watches)
    group.until_status((stays, "LO"), (leaves, "OL"), (watches, "OO"))
    gone = leaves.peer_id
    assert leaves.settings.socket_path.exists() and leaves.board_path.exists()

    at = time.time()
    took = group.stop(leaves, number)
    assert leaves.process.returncode == 0, group.describe()
    assert took <= LEAVE_S, f"it took {took:.1f} s to leave"
    group.until_status((stays, "L-"), (watches, "O-"))
    for member in (stays, watches):
        said = [e for e in member.events(ev.ShardForgotten) if e.peer_id == gone]
        assert [(e.shard_id, e.reason) for e in said] == [(1, "goodbye")]
        assert said[0].at - at <= NOTICE_S, f"{member.name} noticed after {said[0].at - at:.1f} s"
        assert not member.state.shards[1].holders
        assert member.state.why(1, time.time()) in ("no holder", "file only")
    assert not leaves.settings.socket_path.exists()
    assert not leaves.board_path.exists()
    assert leaves.errors.read_text("utf-8") == ""
    assert json.loads(leaves.log().splitlines()[-1])["event"]["type"] == "NodeStopped"


def test_a_node_that_cannot_be_heard_still_ends_in_time(swarm: NewSwarm) -> None:
    group = swarm(2)
    frozen = group.node("frozen", 0)
    group.open(frozen)
    group.until(lambda: bool(frozen.addresses), "the first node does not listen")
    leaves = group.node("leaves", 1, via=frozen)
    group.open(leaves)
    group.until_status((leaves, "OL"))
    frozen.process.send_signal(signal.SIGSTOP)
    try:
        took = group.stop(leaves)
    finally:
        frozen.process.send_signal(signal.SIGCONT)
    assert leaves.process.returncode == 0
    assert took <= LEAVE_S, f"it took {took:.1f} s to leave"


class LabProcess:
    """`swarmtui lab` in a folder of its own, with the temporary folder inside it."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.home = folder / "home"
        self.home.mkdir()
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "swarmtui", "lab", "--no-ui", *args],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.home,
                env=clean_environment(self.home, TMPDIR=str(self.temporary)),
                start_new_session=True,
            )

    def left(self) -> list[str]:
        """What is still in the temporary folder."""
        return sorted(item.name for item in self.temporary.iterdir())

    def until(self, condition: Callable[[], bool], failure: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"{failure}\n{self.err.read_text()}"
            try:
                self.process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            assert condition(), f"the lab ended and {failure}\n{self.err.read_text()}"

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for process in processes_in(self.temporary):
            process.kill()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Callable[..., LabProcess]]:
    made: list[LabProcess] = []

    def make(*args: str) -> LabProcess:
        made.append(LabProcess(tmp_path, *args))
        return made[-1]

    yield make
    for item in made:
        item.close()


def test_the_lab_ends_with_its_report_and_leaves_nothing(
    lab: Callable[..., LabProcess],
) -> None:
    run = lab("--nodes", "4", "--json")
    assert run.process.wait(LAB_S) == 0, run.err.read_text()
    report = json.loads(run.out.read_text().splitlines()[-1])
    assert set(report) == {"ready", "seconds_to_ready", "shards", "nodes"}
    assert report["ready"] is True
    assert 0 < report["seconds_to_ready"] < 60
    assert set(report["shards"]) == {"0", "1", "2", "3"}
    nodes = [item["peer_id"] for item in report["nodes"]]
    assert len(set(nodes)) == 4
    for number, shard in report["shards"].items():
        assert set(shard) == {"status", "holders"}
        assert shard["status"] == ("LOCAL" if number == "0" else "ONLINE")
        assert shard["holders"] == [nodes[int(number)]]
    assert [item["discovered"] for item in report["nodes"]] == [3, 3, 3, 3]
    assert all(set(item) == {"peer_id", "discovered"} for item in report["nodes"])
    assert run.left() == []
    assert processes_in(run.temporary) == []
    assert list(run.home.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_lab_ended_in_the_middle_leaves_no_process(
    lab: Callable[..., LabProcess], number: signal.Signals
) -> None:
    run = lab("--nodes", "3", "--json")
    # The model's making and the rendezvous node come first: then nodes are starting.
    run.until(lambda: len(processes_in(run.temporary)) >= 3, "no node was started", LAB_S)
    assert run.process.poll() is None
    run.process.send_signal(number)
    run.process.wait(15)
    if number == signal.SIGKILL:
        # It can clean nothing up, but its nodes hold a lifeline from it.
        psutil.wait_procs(processes_in(run.temporary), timeout=15)
        assert processes_in(run.temporary) == []
        return
    assert run.process.returncode == 128 + number
    assert processes_in(run.temporary) == []
    assert run.left() == []
    assert "Traceback" not in run.err.read_text()


def test_a_lab_that_cannot_become_ready_says_so_and_leaves_nothing(
    lab: Callable[..., LabProcess],
) -> None:
    run = lab("--nodes", "2", "--json", "--timeout", "1")
    assert run.process.wait(LAB_S) == 1
    report = json.loads(run.out.read_text().splitlines()[-1])
    assert report["ready"] is False and report["seconds_to_ready"] is None
    assert "within 1 s" in run.err.read_text() or "after 1 s" in run.err.read_text()
    assert "Traceback" not in run.err.read_text()
    assert processes_in(run.temporary) == []
    assert run.left() == []
