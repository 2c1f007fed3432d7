"""A swarm of many peers over memory, drawn from a seed: slow, stalling, corrupting, coming, going.

Every peer downloads and serves what it has so far, as nodes do. Runs on a mock clock.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from pathlib import Path

import trio
from beside_evil import wrong
from transfer_kit import KIB, MIB, MemoryStream, Published, inline, memory_streams

from node.torrent.folder import RealFolder
from node.torrent.hashing import hash_file
from node.torrent.transfer.blame import Bans, Verdict
from node.torrent.transfer.download import Download
from node.torrent.transfer.server import Limits, serve
from node.torrent.transfer.shared import ArrivingFile, OpenFile, SharedFile
from node.torrent.transfer.streams import Stream, StreamEndedError
from node.torrent.transfer.upload import Uploads

JOIN_WITHIN_S = 20.0
KNOWS = 6
"""How many others a peer knows at first; the rest it is told of one by one."""


@dataclass
class Peer:
    """What one peer is like, and what became of it."""

    name: str
    rate: float
    joins: float = 0.0
    stays_s: float | None = None
    back_after: float | None = None
    stalls: tuple[float, float] | None = None
    corrupts: bool = False
    seeds: bool = False
    file: SharedFile | None = None
    download: Download | None = None
    done: bool = False
    online: bool = False
    left: bool = False
    nursery: trio.Nursery | None = None
    bans: Bans = field(default_factory=lambda: Bans(trio.current_time))
    blamed: list[Verdict] = field(default_factory=list)
    uploads: Uploads = field(default_factory=Uploads)
    lives: int = 0
    folder: Path = Path()
    corrupt: list[str] = field(default_factory=list)

    def find(self, info_hash: bytes, root: bytes) -> SharedFile | None:
        """The library of `serve`."""
        return self.file if self.file is not None and self.file.root == root else None


class RoughStream:
    """The server's end of a stream: it writes at its peer's rate and not while that stalls."""

    def __init__(self, inner: MemoryStream, peer: Peer) -> None:
        self._inner = inner
        self._peer = peer
        inner.rate = peer.rate

    async def read(self, n: int) -> bytes:
        return await self._inner.read(n)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        for start in range(0, len(view), 64 * KIB):
            await self._stall()
            await self._inner.write(view[start : start + 64 * KIB])

    async def _stall(self) -> None:
        if self._peer.stalls is not None:
            begin, end = self._peer.stalls
            if begin <= trio.current_time() < end:
                await trio.sleep_until(end)

    async def close(self) -> None:
        await self._inner.close()

    async def reset(self) -> None:
        await self._inner.reset()


def draw(seed: int, count: int) -> list[Peer]:
    """`count` peers: two honest seeds that stay, two corrupting ones, the others as it comes."""
    rng = random.Random(seed)
    peers = [Peer(f"seed{i}", rng.uniform(0.3, 1) * MIB, seeds=True) for i in range(2)]
    peers += [
        Peer(f"bad{i}", rng.uniform(0.3, 1) * MIB, seeds=True, corrupts=True) for i in range(2)
    ]
    now = trio.current_time()
    for number in range(count - len(peers)):
        slow = rng.random() < 0.25
        rate = rng.uniform(10, 60) * KIB if slow else rng.uniform(0.2, 1) * MIB
        peer = Peer(f"peer{number}", rate, joins=rng.uniform(0, JOIN_WITHIN_S))
        if rng.random() < 0.3:
            start = now + rng.uniform(0, 30)
            peer.stalls = (start, start + rng.uniform(2, 60))
        if rng.random() < 0.4:
            peer.stays_s = rng.uniform(0.5, 12)
            peer.back_after = rng.choice([None, rng.uniform(0.1, 30)])
        peers.append(peer)
    return peers


class RandomSwarm:
    """All peers of one seed in one nursery."""

    def __init__(self, published: Published, place: Path, seed: int, count: int = 20) -> None:
        self.published = published
        self.place = place
        self.rng = random.Random(seed + 1)
        self.peers = draw(seed, count)

    async def run(self) -> None:
        """Until every peer that stays has the file."""
        async with trio.open_nursery() as nursery:
            for peer in self.peers:
                if peer.seeds:
                    peer.online = True
                    hit = self.rng.sample(range(self.published.plan.layout.leaves), 20)
                    peer.file = (
                        wrong(self.published, hit) if peer.corrupts else self.published.open()
                    )
                    peer.nursery = nursery
                else:
                    peer.folder = self.place / peer.name
                    peer.folder.mkdir(parents=True)
                    nursery.start_soon(self._live, peer)
            while not all(peer.done or peer.seeds or self._gone(peer) for peer in self.peers):
                await trio.sleep(0.5)
            nursery.cancel_scope.cancel()

    def _gone(self, peer: Peer) -> bool:
        return peer.stays_s is not None and peer.back_after is None and peer.left

    async def _live(self, peer: Peer) -> None:
        await trio.sleep(peer.joins)
        with trio.move_on_after(math.inf if peer.stays_s is None else peer.stays_s):
            await self._online(peer)
        peer.online, peer.left = False, True
        if peer.back_after is not None:
            await trio.sleep(peer.back_after)
            await self._online(peer)

    async def _online(self, peer: Peer) -> None:
        peer.lives += 1
        peer.online = True
        async with trio.open_nursery() as nursery:
            peer.nursery = nursery
            nursery.start_soon(self._download, peer)
            await trio.sleep_forever()

    async def _download(self, peer: Peer) -> None:
        if peer.done:
            return
        arriving: list[ArrivingFile] = []

        def wrote(pieces: list[int]) -> None:
            if not arriving and download.part is not None:
                arriving.append(ArrivingFile(download.part))
                peer.file = arriving[0]
            for file in arriving:
                file.wrote(pieces)

        peer.file = None
        download = peer.download = Download(
            self.published.plan,
            RealFolder(peer.folder),
            bans=peer.bans,
            blamed=peer.blamed.append,
            wrote=wrote,
            uploads=peer.uploads,
            rng=random.Random(self.rng.random()),
            run_sync=inline,
        )
        others = [other for other in self.peers if other is not peer]
        self.rng.shuffle(others)
        for other in others[:KNOWS]:
            self._knows(peer, other)

        async def more() -> None:
            for other in others[KNOWS:]:
                await trio.sleep(1)
                self._knows(peer, other)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(more)
            await download.run()
            nursery.cancel_scope.cancel()
        peer.done = True
        path = peer.folder / self.published.plan.filename
        peer.file = OpenFile(path, hash_file(path, self.published.plan.piece_length), checked=True)

    def _knows(self, peer: Peer, other: Peer) -> None:
        async def open_stream() -> Stream:
            await trio.sleep(0.01)
            if not other.online or other.nursery is None:
                raise StreamEndedError("nobody answers")
            ours, theirs = memory_streams(256 * KIB)
            other.nursery.start_soon(self._serve, other, peer, RoughStream(theirs, other))
            return ours

        assert peer.download is not None
        peer.download.add_source(other.name, open_stream)

    async def _serve(self, peer: Peer, to: Peer, stream: RoughStream) -> None:
        await serve(
            stream,
            peer,
            Limits(),
            peer.uploads,
            peer_id=to.name,
            on_corrupt=lambda file, why: peer.corrupt.append(why),
            run_sync=inline,
        )

    def check(self) -> None:
        """Everybody who stayed has the file, and only who sent wrong bytes is held to account."""
        bad = {peer.name for peer in self.peers if peer.corrupts}
        root = self.published.plan.root
        for peer in self.peers:
            assert {item.peer_id for item in peer.blamed} <= bad
            for other in self.peers:
                if not other.corrupts:
                    assert not peer.bans.banned(other.name, root), other.name
                    assert not peer.bans.strikes(other.name, root), other.name
            if peer.seeds:
                continue
            names = [item.name for item in peer.folder.iterdir()]
            if peer.done:
                assert names == [self.published.plan.filename]
                assert (peer.folder / names[0]).read_bytes() == self.published.content
            else:
                assert peer.stays_s is not None and self.published.plan.filename not in names
