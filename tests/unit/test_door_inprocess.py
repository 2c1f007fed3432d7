"""The in-process door: snapshots, numbered events, wakes, requests, readers in any thread."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given, strategies as st

from node import door as door_module, events as ev
from node.door import NodeDoor
from node.errors import PlainError
from node.state import State


def problem(number: int) -> ev.Problem:
    return ev.Problem(at=float(number), level="info", tag="T", sentence=str(number))


def filled(count: int) -> NodeDoor:
    door = NodeDoor()
    for number in range(1, count + 1):
        door.emit(problem(number))
    return door


def names(events: list[ev.Event]) -> list[int]:
    return [int(event.at) for event in events]


def test_a_new_door_has_nothing_to_tell() -> None:
    door = NodeDoor()
    assert door.snapshot().version == 0
    assert door.events(0) == ([], 0)
    assert door.state == State()


def test_the_snapshot_is_the_fold_of_the_events() -> None:
    door = filled(3)
    state = State()
    for number in (1, 2, 3):
        state = state.apply(problem(number))
    assert door.snapshot().state == state
    assert door.snapshot().version == 3


def test_events_are_read_in_pieces_without_gap_or_repetition() -> None:
    door = filled(25)
    seen: list[int] = []
    after = 0
    while True:
        events, after = door.events(after, limit=10)
        if not events:
            break
        seen += names(events)
    assert seen == list(range(1, 26))
    assert after == 25
    assert door.events(25) == ([], 25)
    # A reader that is ahead (it came from another door) is not sent back.
    assert door.events(99) == ([], 99)


def test_a_slow_reader_skips_what_the_ring_forgot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "RECENT_EVENTS", 10)
    door = filled(35)
    events, after = door.events(0)
    assert names(events) == list(range(26, 36))
    assert after == 35
    events, after = door.events(3, limit=4)
    assert names(events) == [26, 27, 28, 29]
    assert after == 29
    events, after = door.events(30, limit=100)
    assert names(events) == [31, 32, 33, 34, 35]


@given(st.integers(0, 40), st.integers(0, 60), st.integers(1, 60))
def test_any_reader_gets_the_next_events(count: int, after: int, limit: int) -> None:
    events, asked_next = filled(count).events(after, limit)
    expected = list(range(after + 1, count + 1))[:limit]
    assert names(events) == expected
    assert asked_next == (expected[-1] if expected else max(after, count))


def test_taps_see_before_and_after_in_order() -> None:
    door = NodeDoor()
    seen: list[tuple[int, int, int]] = []
    door.tap(lambda e, old, new: seen.append((int(e.at), len(old.problems), len(new.problems))))
    door.emit(problem(1))
    door.emit(problem(2))
    assert seen == [(1, 0, 1), (2, 1, 2)]


def test_wakes_until_unsubscribed() -> None:
    door = NodeDoor()
    woken: list[str] = []
    forget = door.subscribe(lambda: woken.append("a"))
    door.subscribe(lambda: woken.append("b"))
    door.emit(problem(1))
    forget()
    forget()
    door.emit(problem(2))
    door.close()
    door.emit(problem(3))
    assert woken == ["a", "b", "b"]


def test_a_wake_may_read_and_unsubscribe() -> None:
    door = NodeDoor()
    seen: list[int] = []

    def wake() -> None:
        seen.append(door.snapshot().version)
        door.events(0)
        forget()

    forget = door.subscribe(wake)
    door.emit(problem(1))
    door.emit(problem(2))
    assert seen == [1]


def test_readers_in_threads_see_every_event_once_and_states_that_fit() -> None:
    door = NodeDoor()
    total, readers = 3000, 4
    collected: list[list[int]] = [[] for _ in range(readers)]
    wrong: list[str] = []

    def read(number: int) -> None:
        wake = threading.Event()
        forget = door.subscribe(wake.set)
        after = 0
        while len(collected[number]) < total:
            wake.clear()
            events, after = door.events(after, limit=97)
            collected[number] += names(events)
            snapshot = door.snapshot()
            if int(snapshot.state.updated_at) != snapshot.version:
                wrong.append(f"state {snapshot.state.updated_at} at version {snapshot.version}")
            if not events and not wake.wait(20):
                wrong.append("never woken")
                return
        forget()

    threads = [threading.Thread(target=read, args=(i,)) for i in range(readers)]
    for thread in threads:
        thread.start()
    for number in range(1, total + 1):
        door.emit(problem(number))
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert collected == [list(range(1, total + 1))] * readers


def test_a_request_to_a_node_that_does_not_run() -> None:
    with pytest.raises(PlainError) as refused:
        NodeDoor().request("status", {}).result(0)
    assert refused.value.next_step


def test_a_request_is_handed_over_and_answered_from_another_thread() -> None:
    door = NodeDoor()

    def serve(name: str, params: dict[str, Any], future: Future[dict[str, Any]]) -> None:
        threading.Thread(target=lambda: future.set_result({"name": name, **params})).start()

    door.serve(serve)
    assert door.request("load", {"shard_id": 1}).result(5) == {"name": "load", "shard_id": 1}
    door.serve(None)
    with pytest.raises(PlainError):
        door.request("load", {}).result(0)
