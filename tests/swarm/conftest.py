"""A shared synthetic model, and a swarm of processes for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swarm_processes import Swarm, make_model


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The folder with the shard files of a small model cut into as many shards as asked."""
    made: dict[int, Path] = {}

    def make(shards: int) -> Path:
        if shards not in made:
            made[shards] = make_model(tmp_path_factory.mktemp(f"model{shards}"), shards)
        return made[shards]

    return make


@pytest.fixture
def swarm(tmp_path: Path, model_of: Callable[[int], Path]) -> Iterator[Callable[[int], Swarm]]:
    """Makes swarms for a model of so many shards; every process ends with the test."""
    made: list[Swarm] = []

    def make(total: int) -> Swarm:
        folder = tmp_path / f"swarm{len(made)}"
        folder.mkdir()
        made.append(Swarm(folder, model_of(total), total))
        return made[-1]

    yield make
    for item in made:
        item.stop_all()
