"""Invented identities against the book of a node that lives: whom it met still gets in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hosts import hosts
from record_kit import announcement, signed
from test_faults_flood import honest_status, join, living

from node.network.identity import Identity
from node.swarm import announcements

pytestmark = pytest.mark.swarm


async def test_invented_holders_and_shards_do_not_fill_the_book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood of identities nobody can reach: whom the node met still gets in, and stays."""
    monkeypatch.setattr(announcements, "MAX_ENTRIES", 40)
    async with hosts(1) as [here], living(tmp_path, monkeypatch) as live:
        book = live.discovery.book

        def take(identity: Identity, shard: int) -> None:
            raw = signed(announcement(identity, shard_id=shard, total_shards=1000), identity)
            live.discovery.take_from_exchange(raw, here.peer_id)

        for shard in range(8, 60):
            take(Identity.create(), shard)
        assert len(book) == 0
        strangers = [Identity.create() for _ in range(20)]
        for identity in strangers:
            for shard in range(8):
                take(identity, shard)
        assert len(book) == 40
        await join(here, live)
        for shard in range(8):
            take(here.identity, shard)
        assert len(book.of_peer(here.peer_id)) == 8
        for identity in [*strangers, *(Identity.create() for _ in range(50))]:
            for shard in range(8):
                take(identity, shard)
        assert len(book.of_peer(here.peer_id)) == 8 and len(book) == 40
        holders = [peer for shard in live.node.door.state.shards.values() for peer in shard.holders]
        # What had to go is not shown any more either.
        assert len(holders) == 40 and holders.count(here.peer_id) == 8
        await honest_status(here, live)
