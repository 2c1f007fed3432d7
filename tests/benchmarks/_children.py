"""Processes that a benchmark gives orders to: one JSON object per line, one answer to each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

ROOT = Path(__file__).resolve().parents[2]
Answer = dict[str, Any]


class Child:
    """`python -m MODULE ARGS …`. It says hello with its first line, which is `hello`.

    Used as a context manager; on the way out its standard input ends, and the process with it.
    """

    def __init__(self, module: str, *arguments: object) -> None:
        self.name = " ".join([module.rpartition(".")[2], *map(str, arguments)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        self._usage = psutil.Process(self._process.pid)
        self.hello = self._answer()

    def ask(self, **order: Any) -> Answer:
        """Give an order and wait for the answer. RuntimeError when the process failed instead."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._process.wait(10)}")
        found: Answer = json.loads(line)
        return found

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu(self) -> float:
        """CPU seconds so far, user and system, of all its threads and the children that ended."""
        return float(sum(self._usage.cpu_times()[:4]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._process.communicate("", timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def say(**answer: Any) -> None:
    """In the child: answer."""
    print(json.dumps(answer), flush=True)


def orders(obey: Callable[[Answer], Answer]) -> None:
    """In the child: obey every order that comes, until there are no more."""
    for line in sys.stdin:
        say(**obey(json.loads(line)))


def forget_peak() -> int:
    """Start measuring the peak of this process's resident memory anew; what it is now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def peak() -> int:
    """The largest resident memory since `forget_peak`, in bytes; 0 where nobody says."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def make_durable(path: Path) -> None:
    """Wait until the bytes of a file are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(handle)
    finally:
        os.close(handle)
