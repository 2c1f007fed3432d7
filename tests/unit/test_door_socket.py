"""The door over a Unix socket: the same states, answers, limits and manners as in-process."""

from __future__ import annotations

import json
import os
import queue
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import sample_events as sample
import trio

from node import door_server, events as ev
from node.door import NodeDoor
from node.door_client import SocketDoor, find_socket, running_nodes
from node.door_server import claim_socket, serve_door
from node.errors import PlainError
from node.settings import load_settings

WAIT_S = 10.0


class Served:
    """A NodeDoor fed by hand, served at a socket from a trio loop in a thread."""

    def __init__(self, path: Path, name: str = "shard-0") -> None:
        self.path = path
        self.door = NodeDoor()
        self.door.serve(self._answer)
        self.kept: queue.SimpleQueue[Future[dict[str, Any]]] = queue.SimpleQueue()
        self._name = name
        self._up = threading.Event()
        self._scope = trio.CancelScope()
        self._thread = threading.Thread(target=lambda: trio.run(self._main))
        self._thread.start()
        assert self._up.wait(WAIT_S)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_door, self.door, self.path, self._name)
                while not self.path.exists():
                    await trio.lowlevel.checkpoint()
                self._up.set()

    def _answer(self, name: str, params: dict[str, Any], future: Future[dict[str, Any]]) -> None:
        if name == "status":
            future.set_result({"echo": params})
        elif name == "load":
            future.set_exception(PlainError("No file.", "Bring one."))
        elif name == "unload":
            raise KeyError("a fault of the node")
        else:
            self.kept.put(future)

    def emit(self, *events: ev.Event) -> None:
        """Emit in the node's thread, and wait until it is done."""
        for event in events:
            trio.from_thread.run_sync(self.door.emit, event, trio_token=self._token)

    def stop(self) -> None:
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path / "run" / "door.sock")
    yield found
    found.stop()


def until(door: SocketDoor, condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, looking at it again on every wake of the door."""
    woken = threading.Event()
    forget = door.subscribe(woken.set)
    while not condition():
        assert woken.wait(WAIT_S), "nothing came"
        woken.clear()
    forget()


def raw(path: Path) -> socket.socket:
    plain = socket.socket(socket.AF_UNIX)
    plain.settimeout(WAIT_S)
    plain.connect(os.fspath(path))
    return plain


def answer_to(plain: socket.socket, line: bytes) -> dict[str, Any]:
    """The first answer (a line with an id) after sending `line`."""
    plain.sendall(line)
    with plain.makefile("rb") as lines:
        for item in lines:
            found: dict[str, Any] = json.loads(item)
            if "id" in found:
                return found
    raise AssertionError("the connection ended without an answer")


def test_snapshot_then_events(served: Served) -> None:
    events = sample.joining()
    served.emit(*events[:3])
    door = SocketDoor(served.path)
    assert door.snapshot().version == 3
    assert door.snapshot().state == sample.state_after(events[:3])
    served.emit(*events[3:])
    until(door, lambda: door.snapshot().version == len(events))
    assert door.snapshot().state == served.door.snapshot().state
    found, last = door.events(0)
    assert found == events  # those before the snapshot too: a log wants them
    assert last == len(events)
    assert door.events(last) == ([], last)
    assert door.events(len(events) - 2, limit=1) == ([events[-2]], len(events) - 1)
    door.close()


def test_the_past_is_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_server, "PAST_EVENTS", 3)
    events = sample.joining()
    served.emit(*events)
    door = SocketDoor(served.path)
    assert door.events(0) == (events[-3:], len(events))
    assert door.snapshot().state == sample.state_after(events)
    door.close()


def test_many_events_keep_their_order(served: Served) -> None:
    door = SocketDoor(served.path)
    served.emit(sample.started(), *(sample.heard(at=200.0 + i) for i in range(2000)))
    until(door, lambda: door.snapshot().version == 2001)
    found, _ = door.events(0, limit=5000)
    assert [event.at for event in found[1:]] == [200.0 + i for i in range(2000)]
    assert door.snapshot().state == served.door.snapshot().state
    door.close()


def test_requests_and_their_errors(served: Served) -> None:
    door = SocketDoor(served.path)
    assert door.request("status", {"a": [1, "ä"]}).result(WAIT_S) == {"echo": {"a": [1, "ä"]}}
    with pytest.raises(PlainError) as plain:
        door.request("load", {"shard_id": 1}).result(WAIT_S)
    assert (plain.value.sentence, plain.value.next_step) == ("No file.", "Bring one.")
    with pytest.raises(PlainError, match="could not answer unload"):
        door.request("unload", {}).result(WAIT_S)
    with pytest.raises(PlainError, match="There is no request 'dance'"):
        door.request("dance", {}).result(WAIT_S)
    assert door.request("status", {}).result(WAIT_S) == {"echo": {}}
    door.close()


def test_a_late_answer_and_a_lost_connection(tmp_path: Path) -> None:
    served = Served(tmp_path / "door.sock")
    lost: list[str] = []
    door = SocketDoor(served.path, on_lost=lost.append)
    waiting = door.request("send", {})
    served.kept.get(timeout=WAIT_S).set_result({"late": True})
    assert waiting.result(WAIT_S) == {"late": True}
    never = door.request("send", {})
    served.emit(sample.started())
    until(door, lambda: door.snapshot().version == 1)
    served.stop()
    with pytest.raises(PlainError, match="lost"):
        never.result(WAIT_S)
    until(door, lambda: bool(door.lost))
    assert lost == [door.lost]
    assert door.snapshot().state.node is not None
    with pytest.raises(PlainError, match="lost"):
        door.request("status", {}).result(WAIT_S)
    door.close()


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        b"[]\n",
        b'{"id": "x", "request": "status"}\n',
        b'{"id": 1}\n',
        b'{"id": 1, "request": "status", "params": []}\n',
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
    ],
)
def test_nonsense_gets_an_error_and_the_connection_lives(served: Served, line: bytes) -> None:
    with raw(served.path) as plain:
        found = answer_to(plain, line)
        assert found["id"] is None
        assert found["error"]["sentence"].startswith("The request cannot be read")
        found = answer_to(plain, b'{"id": 7, "request": "status"}\n')
        assert found == {"id": 7, "result": {"echo": {}}}


def test_a_line_without_end_is_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_server, "MAX_LINE", 10_000)
    with raw(served.path) as plain:
        found = answer_to(plain, b"x" * 20_000)
        assert "longer than 10000 bytes" in found["error"]["sentence"]
        assert plain.recv(1) == b""


def test_too_many_open_requests_are_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_server, "MAX_OPEN_REQUESTS", 3)
    with raw(served.path) as plain:
        lines = b"".join(b'{"id": %d, "request": "send"}\n' % i for i in range(4))
        found = answer_to(plain, lines)
        assert found["id"] == 3
        assert "wait already" in found["error"]["sentence"]


def test_too_many_clients_are_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_server, "MAX_CLIENTS", 2)
    served = Served(tmp_path / "door.sock")
    doors = [SocketDoor(served.path), SocketDoor(served.path)]
    with pytest.raises(PlainError, match="does not answer"):
        SocketDoor(served.path)
    for door in doors:
        door.close()
    served.stop()


def test_a_reader_that_takes_nothing_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_server, "SEND_TIMEOUT_S", 0.3)
    served = Served(tmp_path / "door.sock")
    with raw(served.path) as slow:
        # More than the socket's buffers hold.
        text = "x" * 4000
        served.emit(
            sample.started(),
            *(ev.MessageReceived(at=1.0 + i, peer_id="p", text=text) for i in range(1000)),
        )
        taken = 0
        threading.Event().wait(0.6)  # the reader is slow: this is what is tested
        while data := slow.recv(65536):
            taken += len(data)
    assert taken < 4_000_000
    served.emit(sample.loaded())
    quick = SocketDoor(served.path)
    assert quick.snapshot().version == served.door.snapshot().version
    quick.close()
    served.stop()


def test_a_reader_that_fell_behind_gets_a_new_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(tmp_path / "door.sock")
    monkeypatch.setattr(served.door, "_recent", type(served.door._recent)(maxlen=5))
    door = SocketDoor(served.path)
    events = [sample.started(), *(sample.heard(at=200.0 + i) for i in range(50))]

    def burst() -> None:
        for event in events:
            served.door.emit(event)

    # All in one turn of the node's loop: the sender cannot keep up.
    trio.from_thread.run_sync(burst, trio_token=served._token)
    until(door, lambda: door.snapshot().version == len(events))
    assert door.snapshot().state == served.door.snapshot().state
    door.close()
    served.stop()


# ------------------------------------------------------------ the socket itself


def test_only_the_owner_may_enter(served: Served) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(served.path.parent.stat().st_mode) == 0o700


def test_a_second_node_of_the_name_is_refused(served: Served) -> None:
    with pytest.raises(PlainError) as caught:
        claim_socket(served.path, "shard-0")
    assert "shard-0" in caught.value.sentence
    assert "--name" in caught.value.next_step
    door = SocketDoor(served.path)  # the first one is untouched
    door.close()


def test_what_a_killed_node_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    (tmp_path / "door.sock.lock").touch()
    claimed = claim_socket(path, "n")
    claimed.close()
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_folder_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlainError, match="cannot be used"):
        claim_socket(tmp_path / "file" / "door.sock", "n")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(PlainError, match="cannot be used"):
        claim_socket(tmp_path / "link" / "door.sock", "n")


# ------------------------------------------------------------ finding a node


def test_finding_nodes(own_home: Path) -> None:
    settings = load_settings({"name": "a"})
    with pytest.raises(PlainError, match="No node runs on this machine"):
        find_socket(settings, None)
    first = Served(settings.socket_path_of("a"), "a")
    assert find_socket(settings, None) == first.path
    second = Served(settings.socket_path_of("b"), "b")
    assert running_nodes(settings) == ["a", "b"]
    with pytest.raises(PlainError, match="2 nodes run") as caught:
        find_socket(settings, None)
    assert "a, b" in caught.value.next_step
    assert find_socket(settings, "b") == second.path
    with pytest.raises(PlainError, match="No node named c"):
        find_socket(settings, "c")
    first.stop()
    second.stop()
    assert running_nodes(settings) == []


def test_a_node_with_a_long_path_is_found_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARMTUI_HOME", str(tmp_path / ("h" * 120)))
    settings = load_settings({"name": "far"})
    settings.node_data_dir.mkdir(parents=True)
    served = Served(settings.socket_path, "far")
    assert running_nodes(settings) == ["far"]
    served.stop()
