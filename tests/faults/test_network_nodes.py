"""Real nodes behind bad lines: a shard is fetched over a line that is far, silent or cut."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from network_lines import Beside, Quality, running_line
from swarm_processes import Member, Swarm, free_port

from node import events as ev
from node.torrent.files import info_hash
from node.torrent.limits import MAX_WINDOW_BYTES

pytestmark = pytest.mark.swarm

MIB = 1 << 20
NODE = Path(__file__).with_name("lined_node.py")
NAME = "shard-1.gguf"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of about 30 MB."""
    from node.shards.split import split_model
    from node.shards.synth import synth_model

    folder = tmp_path_factory.mktemp("model")
    synth_model(folder / "whole.gguf", layers=8, embd=384, vocab=1024, seed=5, quant="f32")
    shards = folder / "shards"
    shards.mkdir()
    split_model(folder / "whole.gguf", 2, shards)
    (folder / "whole.gguf").unlink()
    return shards


class Pair:
    """A seeder and an empty node; whoever dials whom, it is over a line."""

    def __init__(self, swarm: Swarm, model: Path, stack: ExitStack, quality: Quality) -> None:
        self.swarm = swarm
        self.model = model
        self.empty = swarm.folder / "empty"
        self.key = info_hash(NAME, (model / NAME).stat().st_size)
        self.size = (model / NAME).stat().st_size
        self.lines: list[Beside] = []
        self._stack = stack
        self._quality = quality
        self.seeder = self._node("seeder", model, 0)
        swarm.open(self.seeder)
        swarm.until(lambda: bool(self.seeder.addresses), "the seeder does not listen")
        self.receiver = self._node("receiver", self.empty, 1, via=self.seeder)
        swarm.open(self.receiver)

    def _node(self, name: str, shards: Path, shard: int, via: Member | None = None) -> Member:
        port = free_port()
        line = self._stack.enter_context(running_line(port, self._quality))
        self.lines.append(line)
        return self.swarm.node(
            name,
            shard,
            via=via,
            flags=("--shards-dir", str(shards), "--transport", "tcp", "--port", str(port)),
            env={"LINED_PORTS": f"{port}:{line.line.port}"},
            python=(str(NODE),),
        )

    def do(self, what: str) -> list[Any]:
        """Silence, cut or mend both lines."""
        return [line.do(what) for line in self.lines]

    @property
    def done(self) -> int:
        item = self.receiver.state.torrents.get(self.key)
        return item.done if item is not None else 0

    def reaches(self, done: int, timeout: float = 30.0) -> float:
        """Wait until so much is verified; the seconds it took."""
        return self.swarm.until(
            lambda: self.done >= min(done, self.size), "the download does not go on", timeout
        )

    def check(self, again: int) -> None:
        """Both nodes see both shards; the file is the same; nobody is blamed."""
        self.swarm.until_status((self.seeder, "LO"), (self.receiver, "OL"))
        assert os.listdir(self.empty) == [NAME]
        with (self.empty / NAME).open("rb") as one, (self.model / NAME).open("rb") as other:
            assert (
                hashlib.file_digest(one, "md5").digest()
                == hashlib.file_digest(other, "md5").digest()
            )
        assert not self.receiver.events(ev.TransferSourceBlamed)
        fetched = self.receiver.state.torrents[self.key].fetched
        assert fetched - self.size <= again, f"{fetched - self.size} bytes again"
        assert sum(line.line.passed for line in self.lines) > self.size


@pytest.fixture
def pair(tmp_path: Path, model: Path) -> Iterator[Any]:
    with ExitStack() as stack:

        @contextmanager
        def make(quality: Quality) -> Iterator[Pair]:
            with Swarm(tmp_path, model, 2) as swarm:
                yield Pair(swarm, model, stack, quality)

        yield make


def test_nodes_far_apart_on_an_unsteady_line(pair: Any) -> None:
    with pair(Quality(delay=0.025, jitter=0.01, loss=0.005)) as way:
        way.check(again=0)
        [finished] = way.receiver.events(ev.TransferFinished)
        assert finished.seconds < 15


def test_a_line_that_falls_silent_for_longer_than_peers_are_waited_for(pair: Any) -> None:
    with pair(Quality(delay=0.005, rate=6 * MIB)) as way:
        way.reaches(way.size // 3)
        way.do("silence")
        way.swarm.until(
            lambda: way.receiver.state.peers[way.seeder.peer_id].silent,
            "the seeder does not count as silent",
            40,
        )
        before = way.done
        assert way.receiver.status()[0] == "OFFLINE"
        way.do("speak")
        assert way.reaches(before + 2 * MIB, 20) < 10
        way.check(again=2 * MAX_WINDOW_BYTES)


def test_connections_between_nodes_that_are_reset_again_and_again(pair: Any) -> None:
    with pair(Quality(delay=0.005, rate=6 * MIB)) as way:
        for number in range(3):
            way.reaches(way.size * (number + 1) // 5)
            before = way.done
            assert sum(way.do("cut")) >= 1
            assert way.reaches(before + MIB, 20) < 10
        way.check(again=3 * MAX_WINDOW_BYTES)
