"""A file that travels from one host to another over a line of the test's choosing."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from hosts import Here, hosts
from multiaddr import Multiaddr
from network_lines import Quality, TcpLine, UdpLine, line

from node.network.bulk import BulkStream, BulkStreams
from node.torrent.files import info_hash
from node.torrent.folder import RealFolder
from node.torrent.hashing import hash_file
from node.torrent.messages import PROTOCOL
from node.torrent.sizes import piece_length_for
from node.torrent.transfer.download import Download, Plan
from node.torrent.transfer.progress import State
from node.torrent.transfer.server import Limits, serve
from node.torrent.transfer.shared import OpenFile
from node.torrent.transfer.upload import Uploads

KIB = 1024
MIB = 1024 * KIB
LOOK_S = 0.02


def published(folder: Path, size: int) -> Path:
    """A file of random bytes."""
    path = folder / "shard-0.gguf"
    rng = random.Random(size)
    with path.open("wb") as file:
        for begin in range(0, size, MIB):
            file.write(rng.randbytes(min(MIB, size - begin)))
    return path


class Shelf:
    """A library of one file."""

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size
        self.hashes = hash_file(path, piece_length_for(size))
        self.file = OpenFile(path, self.hashes, checked=True)
        digest = bytes.fromhex(info_hash(path.name, size))
        self.plan = Plan(digest, self.hashes.root, size, piece_length_for(size), path.name)

    def find(self, info_hash: bytes, root: bytes) -> OpenFile | None:
        return self.file if root == self.file.root else None


class Seeder:
    """A host that serves the file, behind a line."""

    def __init__(self, here: Here, shelf: Shelf, line: Any, *, max_up: float | None = None) -> None:
        self.here = here
        self.line = line
        self.uploads = Uploads(max_up=max_up)
        self.ended: list[str] = []

        async def handle(stream: BulkStream, peer_id: str) -> None:
            self.ended.append(await serve(stream, shelf, Limits(), self.uploads, peer_id=peer_id))

        BulkStreams(here.host, here.peers, PROTOCOL).serve(handle)

    @property
    def address(self) -> Multiaddr:
        """Where the line begins."""
        kind = "tcp/{}" if isinstance(self.line, TcpLine) else "udp/{}/quic-v1"
        return Multiaddr(f"/ip4/127.0.0.1/{kind.format(self.line.port)}")


class Lined:
    """A receiver, its download, and the seeders with their lines."""

    def __init__(self, me: Here, seeders: list[Seeder], shelf: Shelf, target: Path) -> None:
        self.me = me
        self.seeders = seeders
        self.path = shelf.file.path
        self.target = target
        self.size = shelf.plan.size
        streams = BulkStreams(me.host, me.peers, PROTOCOL)
        self.blamed: list[Any] = []
        self.states: list[tuple[State, str]] = []
        self.download = Download(
            shelf.plan,
            RealFolder(target),
            emit_progress=lambda found: self.states.append((found.state, found.reason)),
            blamed=self.blamed.append,
        )
        # A node does the same: see Transferring.reconnected.
        me.peers.on_connected(lambda peer_id, outbound: self.download.retry(peer_id))

        def opener(peer_id: str) -> Callable[[], Any]:
            async def open_stream() -> BulkStream:
                return await streams.open(peer_id)

            return open_stream

        for seeder in seeders:
            me.knows(seeder.here.peer_id, [seeder.address])
            self.download.add_source(seeder.here.peer_id, opener(seeder.here.peer_id))
        self.seconds = 0.0

    @property
    def done(self) -> int:
        return self.download.snapshot.done

    async def run(self) -> float:
        """Fetch all of it; the seconds from the start to the verified file."""
        began = trio.current_time()
        await self.download.run()
        self.seconds = trio.current_time() - began
        return self.seconds

    async def until(self, condition: Callable[[], bool], limit: float) -> float:
        """Seconds until `condition`; trio.TooSlowError after `limit`."""
        began = trio.current_time()
        with trio.fail_after(limit):
            while not condition():
                await trio.sleep(LOOK_S)
        return trio.current_time() - began

    def check(self, again: int = 0) -> None:
        """Byte-identical, nothing else in the folder, all over the lines, nobody blamed, and at
        most `again` bytes fetched more than once."""
        assert os.listdir(self.target) == [self.path.name]
        assert (self.target / self.path.name).read_bytes() == self.path.read_bytes()
        assert self.blamed == []
        found = self.download.snapshot
        assert found.state == State.DONE
        assert {item.strikes for item in found.sources} == {0}
        assert found.fetched - self.size <= again, f"{found.fetched - self.size} bytes again"
        lines = [item.line for item in self.seeders]
        if isinstance(lines[0], TcpLine):
            assert sum(item.passed for item in lines) > self.size


@asynccontextmanager
async def lined(
    path: Path,
    target: Path,
    *qualities: Quality,
    transport: str = "tcp",
    max_up: float | None = None,
) -> AsyncIterator[Lined]:
    """One receiver and as many seeders as there are qualities, each behind its own line."""
    target.mkdir(exist_ok=True)
    shelf = Shelf(path)
    kind = TcpLine if transport == "tcp" else UdpLine
    async with (
        hosts(1 + len(qualities), transport) as [me, *others],
        trio.open_nursery() as nursery,
    ):
        seeders = []
        for other, quality in zip(others, qualities, strict=True):
            port = int(str(other.addresses[0]).split("/")[4])
            made = kind(port, quality)
            await nursery.start(made.run)
            seeders.append(Seeder(other, shelf, made, max_up=max_up))
        yield Lined(me, seeders, shelf, target)
        nursery.cancel_scope.cancel()


__all__ = ["Lined", "Quality", "line", "lined", "published"]
