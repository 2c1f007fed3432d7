"""Providers: under keys of any length, many at once, and those whose records lie here."""

from __future__ import annotations

from hosts import hosts

from node import events as ev
from node.swarm import keys

KEY = keys.torrent_key("test", "ab" * 32)
ROOT = keys.root_key("a-cluster-with-a-name-as-long-as-names-may-be", "cd" * 32)


async def test_a_key_longer_than_servers_take_is_provided_and_found() -> None:
    assert len(KEY) > 80 and len(ROOT) > 80
    async with hosts(3) as [a, b, c]:
        await a.connect(b)
        await c.connect(b)
        for key in (KEY, ROOT):
            assert await a.dht.provide(key) >= 1
            assert await c.dht.find_providers(key) == [a.peer_id]
            assert await c.dht.find_providers(key + "0") == []


async def test_a_node_with_many_files_provides_them_all() -> None:
    async with hosts(2) as [a, b]:
        await a.connect(b)
        for number in range(40):
            assert await a.dht.provide(keys.torrent_key("test", f"{number:064x}")) == 1
        refused = [
            item
            for query in a.events(ev.DhtQueryFinished)
            for item in query.asked
            if item.result != "stored"
        ]
        assert refused == []


async def test_records_of_providers_that_lie_here_are_found_here() -> None:
    async with hosts(2) as [a, b]:
        await a.connect(b)
        assert await a.dht.provide(KEY) == 1
        assert await b.dht.find_providers(KEY) == [a.peer_id]
