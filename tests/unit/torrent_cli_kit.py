"""A door that answers requests of torrents from a script, and the events of a transfer."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import sample_events as sample
from test_door_socket import Served

from node import events as ev
from node.errors import PlainError
from node.settings import load_settings
from node.torrent.files import info_hash
from node.torrent.hashing import hash_file
from swarmtui import following

MIB = 2**20
SIZE = 64 * MIB
NAME = "shard-1.gguf"
HASH = info_hash(NAME, SIZE)
ROOT = "5f" * 32
ROOTS = ("0a" * 32, "b1" * 32)
OFFERS = tuple(f"{root} size {SIZE}, 1 seeder(s)" for root in ROOTS)

Capture = pytest.CaptureFixture[str]


class Node:
    """A served door that answers requests of torrents from a script."""

    def __init__(self) -> None:
        self.served = Served(load_settings({"name": "shard-0"}).socket_path)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.waiting: queue.SimpleQueue[Future[dict[str, Any]]] = queue.SimpleQueue()
        self.answer: dict[str, Any] | PlainError | None = {
            "info_hash": HASH, "filename": NAME, "status": "downloading",
        }
        self.then: Callable[[], None] = lambda: None
        self._stopped = False
        self.served.door.serve(self._handle)
        self.emit(sample.started())

    def emit(self, *events: ev.Event) -> None:
        self.served.emit(*events)

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self.served.stop()

    def _handle(self, name: str, params: dict[str, Any], future: Future[dict[str, Any]]) -> None:
        self.asked.append((name, params))
        # The node is at work already when it answers.
        self.then()
        if self.answer is None:
            self.waiting.put(future)
        elif isinstance(self.answer, PlainError):
            future.set_exception(self.answer)
        else:
            future.set_result(self.answer)

    def play(self, *events: ev.Event) -> None:
        """Emit these in the node's thread when the next request comes."""
        def emit() -> None:
            for event in events:
                self.served.door.emit(event)

        self.then = emit


@pytest.fixture
def node() -> Iterator[Node]:
    found = Node()
    yield found
    found.stop()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PERIOD_S", 0.0)


def wanted(by: str = "operator", key: str = HASH) -> ev.TransferWanted:
    return ev.TransferWanted(at=5.0, filename=NAME, shard_id=1, wanted_by=by, info_hash=key)


def changed(phase: str, done: int = 0, **more: Any) -> ev.TransferChanged:
    values: dict[str, Any] = {"root": ROOT, "pieces": 16, "piece_length": 4 * MIB, **more}
    return ev.TransferChanged(
        at=6.0, info_hash=HASH, filename=NAME, size=SIZE, phase=phase, shard_id=1, done=done,  # type: ignore[arg-type]
        pieces_done=done // (4 * MIB), **values,
    )


def finished() -> ev.TransferFinished:
    return ev.TransferFinished(
        at=7.0, info_hash=HASH, filename=NAME, size=SIZE, root=ROOT, shard_id=1,
        path=f"/s/{NAME}", fetched=SIZE, seconds=2.0, sources=2, mb_per_s=33.5,
    )


def failed(**more: Any) -> ev.TransferFailed:
    values = {"sentence": "The disk is full.", "next_step": "Make room.", **more}
    return ev.TransferFailed(at=7.0, info_hash=HASH, filename=NAME, shard_id=1, **values)


def listed(name: str = NAME, size: int = SIZE, peer: str = sample.PEER) -> ev.TorrentListed:
    return ev.TorrentListed(
        at=3.0, info_hash=info_hash(name, size), filename=name, size=size, peer_id=peer
    )


def write(path: Path, content: bytes) -> str:
    """Write a file; its root."""
    path.write_bytes(content)
    return hash_file(path).root.hex()


