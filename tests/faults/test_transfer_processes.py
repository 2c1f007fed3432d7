"""Whole transfers between processes over TCP: killed, stopped, started twice, on slow disks."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from test_torrent_processes import inject
from transfer_child import CHECKPOINT, PIECE, connect, plan_of
from transfer_kit import MIB

from node.torrent import picker
from node.torrent.folder import RealFolder
from node.torrent.limits import MAX_WINDOW_BYTES
from node.torrent.transfer import standing
from node.torrent.transfer.download import Download
from node.torrent.transfer.progress import SourceProgress, State

CHILD = Path(__file__).with_name("transfer_child.py")
ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
SIZE = 12 * MIB + 333


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that everybody wants."""
    path = tmp_path_factory.mktemp("source") / "shard-0.gguf"
    path.write_bytes(random.Random(5).randbytes(SIZE))
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.mkdir()
    return path


class Sender:
    """A process that serves the file."""

    def __init__(self, path: Path, rate: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(CHILD), "serve", str(path), str(rate)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)


@contextmanager
def senders(path: Path, *rates: float) -> Iterator[list[Sender]]:
    made: list[Sender] = []
    try:
        for rate in rates:
            made.append(Sender(path, rate))
        yield made
    finally:
        for sender in made:
            sender.process.kill()
            sender.process.wait()
            assert sender.process.stdout is not None
            sender.process.stdout.close()


def get(target: Path, source: Path, *ports: int, prefix: list[str] | None = None) -> Any:
    """Start a receiver."""
    return subprocess.Popen(
        [
            *(prefix or []),
            sys.executable,
            str(CHILD),
            "get",
            str(target),
            str(source),
            *map(str, ports),
        ],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )


def lines(process: Any) -> list[dict[str, Any]]:
    """What a receiver still says until its end."""
    with process:
        return [json.loads(line) for line in process.stdout]


def check(target: Path, source: Path) -> None:
    assert os.listdir(target) == [source.name]
    assert (target / source.name).read_bytes() == source.read_bytes()


# ---------------------------------------------------------------- the receiver


def test_a_receiver_killed_again_and_again_ends_whole(source: Path, target: Path) -> None:
    """SIGKILL at random moments; each start goes on where the last checkpoint was."""
    rng = random.Random(2)
    most_lost = 0
    reached = 0
    with senders(source, 6 * MIB) as [sender]:
        for _ in range(4):
            process = get(target, source, sender.port)
            first: int | None = None
            until = reached + rng.randrange(PIECE, 2 * MIB)
            with process:
                for line in process.stdout:
                    found = json.loads(line)
                    if found["state"] in ("transfer", "endgame") and first is None:
                        first = found["done"]
                        most_lost = max(most_lost, reached - first)
                    if found.get("done", 0) >= until:
                        break
                process.kill()
            reached = found["done"]
        assert 2 * MIB < reached < SIZE
        process = get(target, source, sender.port)
        found = lines(process)
        assert process.returncode == 0
    check(target, source)
    # What is fetched again: a checkpoint's worth and what was in memory, in units of the test.
    assert most_lost <= CHECKPOINT + MAX_WINDOW_BYTES // 4
    last = found[-2]
    assert last["state"] == "done" and last["fetched"] <= SIZE - reached + most_lost + 4 * MIB


@pytest.mark.parametrize(
    ("call", "at"),
    [
        ("pwrite64", 20),
        ("fdatasync", 3),
        ("link", 1),
        # Each call of each kind is in test_torrent_processes; these are the same with a network.
        *(
            pytest.param(call, at, marks=pytest.mark.slow)
            for call, at in (("pwrite64", 4), ("rename", 1), ("unlink", 1), ("fallocate", 1))
        ),
    ],
)
def test_a_receiver_killed_at_a_system_call(
    source: Path, target: Path, tmp_path: Path, call: str, at: int
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    with senders(source, 0) as [sender]:
        first = get(target, source, sender.port, prefix=inject(call, f"signal=SIGKILL:when={at}"))
        lines(first)
        assert first.returncode in (-9, 137)
        second = get(target, source, sender.port)
        found = lines(second)
        assert second.returncode == 0, found
    assert not (target / source.name).is_symlink()
    check(target, source)
    assert [item.read_bytes() for item in outside.iterdir()] == [b"precious"]


def test_a_slow_disk_does_not_hold_the_loop(source: Path, target: Path) -> None:
    """Every fdatasync takes a second and a half."""
    with senders(source, 8 * MIB) as [sender]:
        process = get(
            target, source, sender.port, prefix=inject("fdatasync", "delay_enter=1500000:when=1+4")
        )
        found = lines(process)
        assert process.returncode == 0
    check(target, source)
    assert found[-1]["lag"] < 1.0


def test_the_same_file_started_twice_is_refused_plainly(source: Path, target: Path) -> None:
    with senders(source, 2 * MIB, 0) as [slow, fast]:
        first = get(target, source, slow.port)
        with first:
            for line in first.stdout:
                if json.loads(line)["state"] == "transfer":
                    break
            second = get(target, source, fast.port)
            told = lines(second)[-1]
            assert second.returncode == 2
            assert "already being downloaded into this folder by another process" in told["error"]
            assert told["next"]
            first.kill()
        # Its lock went with it.
        third = get(target, source, fast.port)
        lines(third)
        assert third.returncode == 0
    check(target, source)


# ---------------------------------------------------------------- the senders


def source_of(download: Download, sender: Sender) -> SourceProgress:
    name = f"sender{sender.port}"
    return next(item for item in download.snapshot.sources if item.peer_id == name)


async def until(condition: Callable[[], bool], limit: float) -> float:
    """Seconds until `condition`, looked at often; fails after `limit`."""
    begin = trio.current_time()
    with trio.fail_after(limit):
        while not condition():
            await trio.sleep(0.02)
    return trio.current_time() - begin


@pytest.mark.parametrize("stall_s", [1.0, pytest.param(picker.STALL_S, marks=pytest.mark.slow)])
async def test_a_stopped_sender_is_replaced_and_used_again(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, stall_s: float
) -> None:
    """SIGSTOP: the connection stands, nothing comes. The other one takes over its pieces."""
    monkeypatch.setattr(picker, "STALL_S", stall_s)
    monkeypatch.setattr(standing, "STALL_S", stall_s)
    rate = SIZE / 6 / stall_s
    with senders(source, rate, rate) as [stopped, other]:
        download = Download(plan_of(source), RealFolder(target))
        for sender in (stopped, other):
            download.add_source(f"sender{sender.port}", connect(sender.port))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(download.run)
            await until(lambda: source_of(download, stopped).received > 2 * PIECE, 10)
            stopped.signal(signal.SIGSTOP)
            try:
                await until(lambda: source_of(download, stopped).state == "stalled", stall_s + 2)
                left = source_of(download, stopped)
                assert left.in_flight <= PIECE
                before = source_of(download, other).received
                took = await until(
                    lambda: source_of(download, other).received >= before + 4 * PIECE,
                    stall_s + 2,
                )
                assert took < stall_s
                assert download.snapshot.state in (State.TRANSFER, State.ENDGAME)
            finally:
                stopped.signal(signal.SIGCONT)
            await until(
                lambda: source_of(download, stopped).received >= left.received + 4 * PIECE, 10
            )
            await until(lambda: download.snapshot.state == State.DONE, 30)
    check(target, source)
    assert {item.strikes for item in download.snapshot.sources} == {0}


async def test_a_killed_sender_is_replaced_at_once(source: Path, target: Path) -> None:
    with senders(source, 4 * MIB, 4 * MIB) as [killed, other]:
        download = Download(plan_of(source), RealFolder(target))
        for sender in (killed, other):
            download.add_source(f"sender{sender.port}", connect(sender.port))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(download.run)
            await until(lambda: source_of(download, killed).received > 2 * PIECE, 10)
            killed.signal(signal.SIGKILL)
            await until(lambda: source_of(download, killed).state == "backoff", 2)
            before = source_of(download, other).received
            await until(lambda: source_of(download, other).received >= before + 4 * PIECE, 3)
            await until(lambda: download.snapshot.state == State.DONE, 30)
    check(target, source)


async def test_the_only_sender_is_killed_and_comes_back(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fetched stays; a source that is added when it is back goes on from there."""
    with senders(source, 4 * MIB) as [killed]:
        download = Download(plan_of(source), RealFolder(target))
        download.add_source("one", connect(killed.port))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(download.run)
            await until(lambda: download.snapshot.done > 2 * MIB, 10)
            killed.signal(signal.SIGKILL)
            await until(lambda: download.snapshot.state == State.STALLED, 8)
            assert "No source is connected" in download.snapshot.reason
            done = download.snapshot.done
            with senders(source, 0) as [again]:
                download.add_source("again", connect(again.port))
                await until(lambda: download.snapshot.state == State.DONE, 20)
    check(target, source)
    assert download.snapshot.fetched <= SIZE + 4 * MIB and done >= 2 * MIB
