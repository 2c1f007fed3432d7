"""What every test gets: folders of its own, no settings of the machine, and a time limit."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

TIME_LIMIT_S = 60
LONG_TIME_LIMIT_S = 300
FOREIGN = ("LLAMA_", "SWARMTUI_", "NODE_GPU_", "XDG_")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every folder of a node below the test's own, and none of the machine's settings."""
    for variable in list(os.environ):
        if variable.startswith(FOREIGN) or variable == "BOOTSTRAP":
            monkeypatch.delenv(variable)
    home = tmp_path / "home"
    monkeypatch.setenv("SWARMTUI_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def time_limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that hangs instead of hanging with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    long = any(request.node.get_closest_marker(name) for name in ("slow", "swarm", "benchmark"))
    limit = LONG_TIME_LIMIT_S if long else TIME_LIMIT_S

    def expire(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the test took longer than {limit} s")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.alarm(limit)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)
