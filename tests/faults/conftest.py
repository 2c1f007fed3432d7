"""What the fault tests share with the tests of the network and of swarms."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
for folder in ("network", "swarm", "unit"):
    if str(TESTS / folder) not in sys.path:
        sys.path.append(str(TESTS / folder))

from swarm_processes import Swarm, make_model  # noqa: E402


@pytest.fixture(scope="session")
def two_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the shard files of a small model cut into two."""
    return make_model(tmp_path_factory.mktemp("two"), 2)


@pytest.fixture(scope="session")
def four_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the shard files of a small model cut into four."""
    return make_model(tmp_path_factory.mktemp("four"), 4)


@pytest.fixture
def swarm(tmp_path: Path, four_shards: Path) -> Iterator[Callable[[], Swarm]]:
    """Makes swarms of processes; every one ends with the test."""
    made: list[Swarm] = []

    def make() -> Swarm:
        made.append(Swarm(tmp_path, four_shards, 4))
        return made[-1]

    yield make
    for item in made:
        item.stop_all()
