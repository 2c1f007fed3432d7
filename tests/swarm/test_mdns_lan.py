"""Two nodes on one LAN find each other by mDNS alone, in network namespaces of the test's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.swarm
DEADLINE_S = 30.0


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def lan() -> Iterator[list[str]]:
    """Two namespaces joined by a veth pair; their names."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the ip command")
    names = [f"sw{os.getpid() % 100000}{end}" for end in "ab"]
    try:
        try:
            for name in names:
                _ip("netns", "add", name)
            _ip("link", "add", f"{names[0]}v", "type", "veth", "peer", "name", f"{names[1]}v")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        for number, name in enumerate(names, start=1):
            _ip("link", "set", f"{name}v", "netns", name)
            for device in ("lo", f"{name}v"):
                _ip("-n", name, "link", "set", device, "up")
            _ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", f"{name}v")
            _ip("-n", name, "route", "add", "224.0.0.0/4", "dev", f"{name}v")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _lines(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def test_nodes_find_each_other_by_mdns(lan: list[str], tmp_path: Path) -> None:
    running = []
    logs = [tmp_path / f"{name}.log" for name in lan]
    try:
        for number, name in enumerate(lan):
            home = tmp_path / name
            home.mkdir()
            with logs[number].open("wb") as log:
                running.append(
                    subprocess.Popen(
                        [
                            *("ip", "netns", "exec", name, sys.executable, "-m", "swarmtui"),
                            *("--shard", str(number), "--no-ui"),
                        ],
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        cwd=Path(__file__).parents[2],
                        env={**os.environ, "SWARMTUI_HOME": str(home)},
                    )
                )
        deadline = time.monotonic() + DEADLINE_S
        met = "CONNECTED TO PEER"
        while not all(met in _lines(log) for log in logs):
            assert time.monotonic() < deadline, "\n".join(_lines(log) for log in logs)
            for process in running:
                assert process.poll() is None, "\n".join(_lines(log) for log in logs)
            # A log file cannot be waited for; the process that writes it can.
            try:
                running[0].wait(0.2)
            except subprocess.TimeoutExpired:
                continue
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    assert "10.77.0." in _lines(logs[0])
