"""More invented sources than a download takes: the one that has the file is still found."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio
from test_fetching import NAME, ONE, SIZE, running
from transfer_kit import Published, Shelf

from node.network.identity import Identity
from node.swarm import transferring
from node.torrent.limits import MAX_PEERS
from node.torrent.manifest import make_manifest, write_manifest

BOGUS = 3 * MAX_PEERS


async def test_invented_sources_do_not_keep_the_honest_one_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come first, and with every look again."""
    monkeypatch.setattr(transferring, "LOOK_AGAIN_S", 0.2)
    bogus = [Identity.create().peer_id for _ in range(BOGUS)]
    async with running(tmp_path) as bench:
        published = Published(tmp_path / NAME, SIZE, seed=1)
        manifest = make_manifest(
            filename=NAME,
            size=SIZE,
            root=published.hashes.root,
            piece_length=published.hashes.layout.piece_length,
            publisher=ONE.peer_id,
            seq=1,
            now=time.time(),
        )
        bench.sources.catalogue.take(write_manifest(manifest, ONE.sign), bogus[:1])
        bench.streams.served[ONE.peer_id] = Shelf(published.open())
        looks = 0
        tried: set[str] = set()

        async def seeders(key: str, root: str) -> list[str]:
            nonlocal looks
            looks += 1
            assert job.download is not None
            sources = job.download.snapshot.sources
            assert len(sources) <= MAX_PEERS
            tried.update(item.peer_id for item in sources)
            await trio.lowlevel.checkpoint()
            return bogus if looks == 1 else [*bogus, ONE.peer_id]

        bench.sources.seeders = seeders  # type: ignore[assignment,method-assign]
        job = bench.fetching.want(NAME, wanted_by="plan", patient=True)
        await bench.end(job)
        assert job.error is None
        assert (bench.folder / NAME).read_bytes() == published.path.read_bytes()
        assert looks >= 2 and len(tried) >= MAX_PEERS
