"""The DHT's stores: a flood fills its author's share, never another's."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from libp2p.kad_dht.pb.kademlia_pb2 import Record
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo

from node.network import value_store
from node.network.identity import Identity
from node.network.value_store import BoundedProviderStore, BoundedValueStore, StoreFull
from node.swarm.records import MAX_AGE_S


def record(author: str, at: float | None = None, **more: Any) -> Record:
    fields = {"peer_id": author, "timestamp": time.time() if at is None else at} | more
    return Record(key=b"k", value=json.dumps(fields).encode())


def values() -> BoundedValueStore:
    return BoundedValueStore(None, ID(b"\x00\x01x"))  # type: ignore[arg-type]


def test_a_record_is_kept_and_dropped() -> None:
    store = values()
    store.put_record(b"k", record("a"))
    kept = store.get(b"k")
    assert kept is not None
    assert b'"a"' in kept.value
    assert store.remove(b"k")
    assert not store.remove(b"k")
    assert store.get(b"k") is None
    assert not store._keys_of
    assert not store._author_of


def test_a_flood_of_one_author_leaves_the_records_of_others() -> None:
    store = values()
    store.put_record(b"honest", record("honest"))
    refused = 0
    for number in range(5000):
        try:
            store.put_record(f"flood/{number}".encode(), record("flood"))
        except StoreFull:
            refused += 1
    assert refused == 5000 - value_store.MAX_KEYS_PER_AUTHOR
    assert store.get(b"honest") is not None
    # Its own records may still be renewed, and others still come in.
    store.put_record(b"flood/0", record("flood", extra="newer"))
    store.put_record(b"honest/2", record("honest"))


def test_a_flood_of_many_authors_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_store, "MAX_KEYS", 100)
    store = values()
    store.put_record(b"honest", record("honest"))
    for number in range(99):
        store.put_record(f"k{number}".encode(), record(f"a{number}"))
    with pytest.raises(StoreFull):
        store.put_record(b"one more", record("late"))
    assert store.get(b"honest") is not None
    assert len(store.store) == 100


def test_room_is_made_from_what_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_store, "MAX_KEYS", 3)
    store = values()
    old = time.time() - MAX_AGE_S - 1
    for number in range(3):
        store.put_record(f"old{number}".encode(), record("a", old))
    store.put_record(b"new", record("b"))
    assert set(store.store) == {b"new"}
    assert set(store._keys_of) == {"b"}


def test_a_record_leaves_with_its_own_age_not_after_a_day() -> None:
    store = values()
    now = time.time()
    store.put_record(b"k", record("a", now - 100))
    store.put_record(b"future", record("a", now + 200))
    _, until = store.store[b"k"]
    assert until == pytest.approx(now - 100 + MAX_AGE_S, abs=2)
    # A clock that runs ahead does not make a record live longer.
    assert store.store[b"future"][1] == pytest.approx(now + MAX_AGE_S, abs=2)
    assert store.cleanup_expired() == 0


def test_a_key_that_changes_hands_is_counted_for_its_new_author() -> None:
    store = values()
    store.put_record(b"shard/1", record("a"))
    store.put_record(b"shard/1", record("b"))
    assert store._keys_of == {"b": {b"shard/1"}}


def test_keys_taken_over_from_others_are_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_store, "MAX_KEYS_PER_AUTHOR", 3)
    store = values()
    for number in range(8):
        store.put_record(f"shard/{number}".encode(), record(f"honest{number}"))
    for number in range(3):
        store.put_record(f"shard/{number}".encode(), record("greedy"))
    for number in range(3, 8):
        with pytest.raises(StoreFull, match="this author has 3 keys"):
            store.put_record(f"shard/{number}".encode(), record("greedy"))
        assert store._author_of[f"shard/{number}".encode()] == f"honest{number}"
    assert len(store._keys_of["greedy"]) == 3
    # What it has it may renew.
    store.put_record(b"shard/0", record("greedy", extra="newer"))


def test_what_is_no_json_is_counted_as_nobody() -> None:
    store = values()
    store.put_record(b"k", Record(key=b"k", value=b"\xff"))
    store.put_record(b"ready", Record(key=b"k", value=b'{"announcing_peer_id":"r"}'))
    assert store._author_of == {b"k": "", b"ready": "r"}


# ---------------------------------------------------------------- providers


def providers() -> BoundedProviderStore:
    peerstore = SimpleNamespace(add_addrs=lambda *_: None, addrs=lambda _: [])
    host = SimpleNamespace(get_peerstore=lambda: peerstore, get_id=lambda: somebody().peer_id)
    return BoundedProviderStore(host, None)  # type: ignore[arg-type]


def somebody() -> PeerInfo:
    return PeerInfo(Identity.create().id, [])


def count(store: BoundedProviderStore) -> int:
    return sum(len(entries) for entries in store.providers.values())


def test_the_first_providers_stay_when_a_key_is_full() -> None:
    store = providers()
    honest = somebody()
    store.add_provider(b"k", honest)
    for _ in range(200):
        store.add_provider(b"k", somebody())
    assert len(store.providers[b"k"]) == value_store.MAX_PROVIDERS_PER_KEY
    assert str(honest.peer_id) in store.providers[b"k"]
    assert honest.peer_id in [item.peer_id for item in store.get_providers(b"k")]


def test_one_peer_provides_so_many_keys_and_no_more() -> None:
    store = providers()
    flood = somebody()
    for number in range(1000):
        store.add_provider(f"k{number}".encode(), flood)
    assert count(store) == value_store.MAX_KEYS_PER_AUTHOR
    store.add_provider(b"mine", somebody())
    assert b"mine" in store.providers


def test_the_number_of_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_store, "MAX_KEYS", 10)
    store = providers()
    for number in range(50):
        store.add_provider(f"k{number}".encode(), somebody())
    assert len(store.providers) == 10
    assert b"k0" in store.providers


def test_a_provider_may_renew() -> None:
    store = providers()
    me = somebody()
    for _ in range(10):
        store.add_provider(b"k", me)
    assert count(store) == 1
