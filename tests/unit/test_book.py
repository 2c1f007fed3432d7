"""The book of announcements: newest word wins, nothing grows without bound."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter

import pytest
from hypothesis import given, strategies as st
from record_kit import AUTHOR, CLUSTER, STRANGER, announcement, fields_of, signed, signed_fields

from node.network.identity import Identity, verify
from node.swarm import announcements
from node.swarm.announcements import Book
from node.swarm.records import MAX_AGE_S, MAX_RECORD_BYTES, RecordRefusedError


def book(clock: float | None = None) -> Book:
    return Book(CLUSTER, verify, (lambda: clock) if clock is not None else time.time)


def trusting_book() -> Book:
    """Signatures cost a tenth of a millisecond each; limits need thousands."""
    return Book(CLUSTER, lambda peer_id, data, signature: True)


def test_the_newer_word_wins_and_a_replay_is_no_news() -> None:
    kept = book()
    old, new = signed(announcement(sequence=1)), signed(announcement(sequence=2))
    assert kept.add(old) is not None
    assert kept.add(new) is not None
    assert kept.add(new) is None
    assert kept.add(old) is None
    entry = kept.get(1, AUTHOR.peer_id)
    assert entry is not None
    assert entry.raw == new
    assert len(kept) == 1


@given(st.permutations(range(6)))
def test_any_order_ends_with_the_newest(order: list[int]) -> None:
    kept = trusting_book()
    for sequence in order:
        kept.add(signed(announcement(sequence=sequence)))
    entry = kept.get(1, AUTHOR.peer_id)
    assert entry is not None
    assert entry.record.sequence == 5


def test_replicas_stand_side_by_side() -> None:
    kept = book()
    kept.add(signed(announcement()))
    kept.add(signed(announcement(STRANGER), STRANGER))
    kept.add(signed(announcement(shard_id=2)))
    assert {item.record.peer_id for item in kept.of_shard(1)} == {
        AUTHOR.peer_id,
        STRANGER.peer_id,
    }
    assert {item.record.shard_id for item in kept.of_peer(AUTHOR.peer_id)} == {1, 2}


def test_forged_foreign_and_stale_announcements_stay_out() -> None:
    kept = book()
    bad = {
        "sig": signed(announcement(), STRANGER),
        "cluster": signed(announcement(cluster="other")),
        "timestamp": signed(announcement(timestamp=time.time() - MAX_AGE_S - 5)),
        "size": b" " * (MAX_RECORD_BYTES + 1),
        "shard_id": signed_fields(fields_of(announcement()) | {"shard_id": "1"}),
        "peer_id": signed_fields(fields_of(announcement()) | {"peer_id": 5}),
        "record": b"[]",
        "key": signed_fields(fields_of(announcement()) | {"shard_id": -1}),
    }
    for field, raw in bad.items():
        with pytest.raises(RecordRefusedError) as refused:
            kept.add(raw)
        assert refused.value.field == field
    assert len(kept) == 0


def test_deep_nesting_beside_good_fields_is_refused() -> None:
    """It came as a RecursionError once, out of gossip's validator, and ended the node."""
    claim = json.dumps({"shard_id": 1, "peer_id": AUTHOR.peer_id})[:-1].encode()
    deep = claim + b',"z":' + b"[" * (MAX_RECORD_BYTES - len(claim) - 5)
    with pytest.raises(RecordRefusedError) as refused:
        book().read(deep)
    assert (refused.value.field, refused.value.reason) == ("record", "nested too deeply")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(RecordRefusedError):
        book().add(raw)


def test_one_peer_cannot_fill_the_book() -> None:
    kept = trusting_book()
    for shard in range(announcements.MAX_PER_PEER):
        kept.add(signed(announcement(shard_id=shard, total_shards=1000)))
    with pytest.raises(RecordRefusedError) as refused:
        kept.add(signed(announcement(shard_id=900, total_shards=1000)))
    assert refused.value.field == "record"
    assert len(kept) == announcements.MAX_PER_PEER
    # What it holds may still be renewed, and others still get in.
    assert kept.add(signed(announcement(shard_id=0, total_shards=1000, sequence=6))) is not None
    assert kept.add(signed(announcement(STRANGER), STRANGER)) is not None


def test_the_whole_book_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcements, "MAX_ENTRIES", 20)
    kept = trusting_book()
    refusals = 0
    for _ in range(30):
        identity = Identity.create()
        try:
            kept.add(signed(announcement(identity), identity))
        except RecordRefusedError:
            refusals += 1
    assert (len(kept), refusals) == (20, 10)


def strangers_fill(kept: Book, shards: int) -> None:
    """The whole book, by invented identities with `shards` entries each."""
    while len(kept) < announcements.MAX_ENTRIES:
        identity = Identity.create()
        for shard in range(min(shards, announcements.MAX_ENTRIES - len(kept))):
            kept.add(signed(announcement(identity, shard_id=shard, total_shards=1000), identity))


def entries_by_author(kept: Book) -> Counter[str]:
    return Counter(item.record.peer_id for item in kept)


def test_a_flood_of_strangers_does_not_lock_out_a_newcomer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 identities times 64 shards filled the book for five minutes once."""
    monkeypatch.setattr(announcements, "MAX_ENTRIES", 640)
    kept = trusting_book()
    gone: list[announcements.Entry] = []
    kept.on_evicted = gone.append
    strangers_fill(kept, 64)
    assert len(entries_by_author(kept)) == 10
    # Even another stranger gets its fair share of them: 640 entries of 11 authors.
    for shard in range(50):
        assert kept.add(signed(announcement(shard_id=shard, total_shards=1000))) is not None
    for shard in range(50, 64):
        with contextlib.suppress(RecordRefusedError):
            kept.add(signed(announcement(shard_id=shard, total_shards=1000)))
    counts = entries_by_author(kept)
    assert len(kept) == 640 and 57 <= counts[AUTHOR.peer_id] <= 59
    assert max(counts.values()) - min(counts.values()) <= 2
    assert len(gone) == counts[AUTHOR.peer_id]
    assert AUTHOR.peer_id not in {item.record.peer_id for item in gone}


def test_a_flood_can_neither_push_out_nor_lock_out_who_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(announcements, "MAX_ENTRIES", 100)
    early, late, this = Identity.create(), Identity.create(), Identity.create()
    known = {early.peer_id: 1, late.peer_id: 1, this.peer_id: 2}
    kept = trusting_book()
    kept.standing = lambda peer_id: known.get(peer_id, 0)
    for shard in range(20):
        kept.add(signed(announcement(early, shard_id=shard, total_shards=1000), early))
        kept.add(signed(announcement(this, shard_id=shard, total_shards=1000), this))
    strangers_fill(kept, 1)
    for _ in range(50):
        stranger = Identity.create()
        with pytest.raises(RecordRefusedError, match="full"):
            kept.add(signed(announcement(stranger), stranger))
    for shard in range(30):
        raw = signed(announcement(late, shard_id=shard, total_shards=1000), late)
        assert kept.add(raw) is not None
    counts = entries_by_author(kept)
    assert (counts[early.peer_id], counts[late.peer_id], counts[this.peer_id]) == (20, 30, 20)
    assert len(kept) == 100
    # Those who are known cannot crowd each other out either, and nobody this node itself.
    for shard in range(64):
        with contextlib.suppress(RecordRefusedError):
            kept.add(signed(announcement(late, shard_id=shard, total_shards=1000), late))
    counts = entries_by_author(kept)
    assert (counts[early.peer_id], counts[late.peer_id], counts[this.peer_id]) == (20, 60, 20)
    assert len(counts) == 3


def test_what_left_is_counted_no_more() -> None:
    kept = trusting_book()
    for shard in range(announcements.MAX_PER_PEER):
        kept.add(signed(announcement(shard_id=shard, total_shards=1000)))
    kept.drop(5, AUTHOR.peer_id)
    kept.drop(5, AUTHOR.peer_id)
    assert kept.add(signed(announcement(shard_id=70, total_shards=1000))) is not None
    with pytest.raises(RecordRefusedError, match="too many"):
        kept.add(signed(announcement(shard_id=71, total_shards=1000)))


def test_the_digest_brings_exactly_what_is_missing() -> None:
    mine, theirs = book(), book()
    raws = [signed(announcement(shard_id=i)) for i in range(4)]
    newer = signed(announcement(shard_id=2, sequence=9))
    for raw in (*raws, newer):
        mine.add(raw)
    for raw in raws[:3]:
        theirs.add(raw)
    fresh = mine.newer_than(theirs.sequences(), 100)
    assert sorted(fresh) == sorted([raws[3], newer])
    for raw in fresh:
        theirs.add(raw)
    assert mine.newer_than(theirs.sequences(), 100) == []
    assert len(mine.newer_than({}, 2)) == 2


def test_what_has_expired_is_listed_and_no_longer_passed_on() -> None:
    now = time.time()
    kept = book(now)
    kept.add(signed(announcement(timestamp=now)))
    kept._clock = lambda: now + MAX_AGE_S + 1
    assert [item.record.shard_id for item in kept.expired()] == [1]
    assert kept.newer_than({}, 10) == []
    assert kept.drop(1, AUTHOR.peer_id) is not None
    assert kept.drop(1, AUTHOR.peer_id) is None
    assert len(kept) == 0
