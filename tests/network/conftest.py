"""Real hosts on 127.0.0.1 in this process, and one in a process that can be stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "unit"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from hosts import Other  # noqa: E402


@pytest.fixture
def other() -> Iterator[Callable[[str], Other]]:
    """Starts hosts in processes of their own; every one ends with the test."""
    made: list[Other] = []

    def start(transport: str = "tcp") -> Other:
        made.append(Other(transport))
        return made[-1]

    yield start
    for item in made:
        item.kill()
