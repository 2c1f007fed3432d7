"""Upload slots: who gets one, who loses one, and how soon."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio

from node.torrent.transfer.upload import IDLE_S, STALLED_S, TURN_S, Upload, Uploads


class Streams:
    """Uploads of peers that always have something to fetch, with what they were told."""

    def __init__(self, slots: int) -> None:
        self.uploads = Uploads(slots)
        self.told: list[Upload] = []

    def open(self, peer: str, *, busy: bool = True) -> Upload:
        upload = self.uploads.open(peer, b"r", lambda: self.told.append(upload))
        upload.busy = busy
        self.uploads.ask(upload)
        return upload

    def send(self, upload: Upload) -> None:
        """A block goes out."""
        upload.writing = None
        self.uploads.count(upload, 1)

    async def until(self, upload: Upload, most: float) -> float:
        """How long it takes until `upload` has a slot, reviewing as streams do; at most `most`."""
        began = trio.current_time()
        while not upload.granted:
            await trio.sleep(0.5)
            self.uploads.review()
            assert trio.current_time() - began <= most
        return trio.current_time() - began


async def test_turns_go_round(autojump_clock: object) -> None:
    streams = Streams(2)
    items = [streams.open(name) for name in "abcd"]
    assert [item.granted for item in items] == [True, True, False, False]
    await trio.sleep(TURN_S + 1)
    streams.send(items[0])
    streams.uploads.review()
    assert [item.granted for item in items] == [False, False, True, True]
    assert streams.told == [items[0], items[2], items[1], items[3]]
    streams.uploads.close(items[2])
    assert [item.granted for item in items] == [True, False, False, True]
    assert streams.uploads.sent[b"r"] == 1


async def test_one_waiting_pushes_out_one_at_a_time(autojump_clock: object) -> None:
    streams = Streams(8)
    items = [streams.open(f"peer {number}") for number in range(9)]
    await trio.sleep(TURN_S + 1)
    streams.uploads.review()
    assert items[8].granted
    assert sum(item.granted for item in items) == 8
    # The eight whose turn is over as well are not pushed out one by another in the same moment.
    assert len(streams.told) == 2


async def test_turns_are_shared_evenly(autojump_clock: object) -> None:
    streams = Streams(2)
    items = [streams.open(name) for name in "abc"]
    held: Counter[str] = Counter()
    for _ in range(1200):
        await trio.sleep(0.5)
        streams.uploads.review()
        held.update(item.peer_id for item in items if item.granted)
    assert sum(held.values()) == 2400
    assert max(held.values()) - min(held.values()) <= 60


async def test_many_streams_of_one_peer_give_way_at_once(autojump_clock: object) -> None:
    streams = Streams(8)
    greedy = [streams.open("greedy") for _ in range(8)]
    assert all(item.granted for item in greedy)
    others = [streams.open(f"peer {number}") for number in range(7)]
    # No time has passed: each took one of the slots of the peer that had more.
    assert all(item.granted for item in others)
    assert sum(item.granted for item in greedy) == 1
    # And nobody takes the last one of anybody.
    last = streams.open("one too many")
    assert not last.granted and sum(item.granted for item in greedy) == 1
    assert await streams.until(last, TURN_S + 1.5) >= TURN_S - 0.5


async def test_waiting_streams_of_one_peer_are_one_place_in_the_queue(
    autojump_clock: object,
) -> None:
    streams = Streams(1)
    holder = streams.open("holder")
    greedy = [streams.open("greedy") for _ in range(7)]
    honest = streams.open("honest")
    streams.uploads.close(holder)
    assert greedy[0].granted
    await streams.until(honest, TURN_S + 1.5)


async def test_alone_a_peer_may_use_every_slot_for_ever(autojump_clock: object) -> None:
    streams = Streams(4)
    items = [streams.open("alone") for _ in range(4)]
    await trio.sleep(10 * TURN_S)
    streams.uploads.review()
    assert all(item.granted for item in items) and not streams.told


async def test_two_peers_with_many_streams_have_half_each(autojump_clock: object) -> None:
    streams = Streams(8)
    first = [streams.open("first") for _ in range(8)]
    second = [streams.open("second") for _ in range(8)]
    for _ in range(100):
        assert sum(item.granted for item in first) == 4
        assert sum(item.granted for item in second) == 4
        await trio.sleep(1)
        streams.uploads.review()
    # Within each half the turns went round.
    assert {id(item) for item in streams.told} == {id(item) for item in (*first, *second)}


async def test_who_does_not_take_its_data_loses_its_slot(autojump_clock: object) -> None:
    streams = Streams(2)
    stalling, good = streams.open("stalling"), streams.open("good")
    stalling.writing = trio.current_time()
    await trio.sleep(5)
    streams.uploads.review()
    assert stalling.granted  # nobody waits
    stalling.writing = good.writing = trio.current_time()
    waiting = streams.open("waiting")
    for _ in range(5):
        await trio.sleep(0.5)
        streams.send(good)
        good.writing = trio.current_time()
        streams.uploads.review()
    assert not waiting.granted
    assert await streams.until(waiting, STALLED_S) <= 1.0
    assert good.granted and not stalling.granted
    # It comes back when it has taken what it was sent, not before.
    streams.uploads.close(good)
    await trio.sleep(1)
    streams.uploads.review()
    assert not stalling.granted
    streams.send(stalling)
    await streams.until(stalling, 1.0)


async def test_an_idle_slot_goes_to_whoever_waits(autojump_clock: object) -> None:
    streams = Streams(1)
    idle = streams.open("idle", busy=False)
    waiting = streams.open("waiting")
    assert await streams.until(waiting, IDLE_S + 0.5) >= IDLE_S - 0.5
    assert not idle.granted
    # It has nothing to fetch: it is not in the queue until it asks again.
    streams.uploads.close(waiting)
    assert not idle.granted
    assert streams.uploads.ask(idle)


@pytest.mark.parametrize("seed", range(20))
async def test_slots_are_never_lost_or_given_twice(autojump_clock: object, seed: int) -> None:
    rng = random.Random(seed)
    streams = Streams(rng.randint(1, 8))
    items: list[Upload] = []
    for _ in range(400):
        what = rng.random()
        if what < 0.3 and len(items) < 40:
            items.append(streams.open(f"peer {rng.randrange(6)}", busy=rng.random() < 0.8))
        elif what < 0.45 and items:
            streams.uploads.close(items.pop(rng.randrange(len(items))))
        elif what < 0.6 and items:
            item = rng.choice(items)
            item.busy = item.granted and rng.random() < 0.7
            item.writing = trio.current_time() if item.busy and rng.random() < 0.5 else None
        elif what < 0.8 and items:
            item = rng.choice(items)
            item.busy = True
            assert streams.uploads.ask(item) == item.granted
        else:
            await trio.sleep(rng.uniform(0, 4))
            streams.uploads.review()
        granted = [item for item in items if item.granted]
        assert len(granted) <= streams.uploads.slots
        assert set(streams.uploads.active) == set(items)
    for item in items:
        streams.uploads.close(item)
        assert not item.granted
    assert streams.open("after it all").granted
