"""A download beside a peer that means harm, and files that are served wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio
from transfer_kit import KIB, MIB, Published, Swarm

from node.torrent.merkle import Tree
from node.torrent.transfer.blame import Bans, Verdict
from node.torrent.transfer.download import Download
from node.torrent.transfer.progress import SourceProgress, State
from node.torrent.transfer.shared import OpenFile

SIZE = 12 * MIB


class WrongBytes(OpenFile):
    """Flips one byte in the given leaves of the file (16 KiB each)."""

    leaves_hit: frozenset[int] = frozenset()

    def read_cached(self, view: memoryview, offset: int) -> bool:
        if not super().read_cached(view, offset):
            self.read(view, offset)
        for leaf in range(offset // (16 * KIB), (offset + len(view)) // (16 * KIB)):
            if leaf in self.leaves_hit:
                view[leaf * 16 * KIB - offset] ^= 1
        return True


class WrongHashes(OpenFile):
    """Answers hash requests with another tree."""

    def upper(self) -> Tree:
        return Tree(bytes(len(self.layer)), self.layout.piece_layer, self.layout.height)

    def leaves(self, piece: int) -> Tree:
        return Tree(bytes(32 << self.layout.piece_layer), 0, self.layout.piece_layer)


def wrong(published: Published, leaves: range | list[int]) -> WrongBytes:
    file = WrongBytes(published.path, published.hashes, checked=True)
    file.leaves_hit = frozenset(leaves)
    return file


class Result:
    """What came of a download beside a peer named `evil`."""

    def __init__(self, swarm: Swarm, blamed: list[Verdict], bans: Bans, took: float) -> None:
        self.swarm = swarm
        self.blamed = blamed
        self.bans = bans
        self.took = took

    def source(self, name: str) -> SourceProgress:
        """The last snapshot of one source."""
        return next(item for item in self.swarm.seen[-1].sources if item.peer_id == name)

    def banned(self, name: str) -> str:
        return self.bans.banned(name, self.swarm.published.plan.root)


async def beside(
    tmp_path: Path,
    add: Callable[[Swarm, Download], None],
    *,
    size: int = SIZE,
    piece_length: int = 1 * MIB,
    honest_rate: float | None = 4 * MIB,
    head_start: float = 2.0,
) -> Result:
    """Download with the evil peer alone for `head_start` s, then with an honest one too."""
    published = Published(tmp_path / "source", size, piece_length=piece_length)
    blamed: list[Verdict] = []
    bans = Bans(trio.current_time)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download(bans=bans, blamed=blamed.append)
        add(swarm, download)
        begin = trio.current_time()

        async def later() -> None:
            await trio.sleep(head_start)
            swarm.honest(download, "honest", rate=honest_rate)

        nursery.start_soon(later)
        await download.run()
        took = trio.current_time() - begin
        nursery.cancel_scope.cancel()
    swarm.check()
    assert swarm.seen[-1].state == State.DONE
    assert not bans.banned("honest", published.plan.root)
    return Result(swarm, blamed, bans, took)
