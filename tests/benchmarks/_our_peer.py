"""A node's transfer over libp2p (TCP, our Noise and Yamux) in a process of its own.

`serve FILE` serves it and takes orders on how well: {"rate": bytes per second, "stall_after": bytes
after which all streams fall silent in the middle of a block, "corrupt": 100 for a wrong byte in
every hundredth block}; what is left out is not limited. `fetch` fetches what is ordered.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path

import psutil
import trio
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from node.network.bulk import EXPECTED_BYTES, BulkStream
from node.network.dialer import Dialer
from node.network.host import build_host, running_host, set_handler
from node.network.identity import Identity
from node.network.streams import live_connections, open_stream
from node.torrent.folder import RealFolder
from node.torrent.hashing import FileHashes, hash_file
from node.torrent.names import part_name
from node.torrent.transfer.blame import Verdict
from node.torrent.transfer.download import Download, Plan
from node.torrent.transfer.progress import State, TransferProgress
from node.torrent.transfer.server import Limits, serve
from node.torrent.transfer.shared import OpenFile
from node.torrent.transfer.streams import Buffer
from node.torrent.transfer.upload import Uploads
from tests.benchmarks._children import Answer, forget_peak, peak, say
from tests.benchmarks._raw_tcp import OneFile

PROTOCOL = "/llama-torrent/2.0"
DEADLINE_S = 300.0


class UsedFolder(RealFolder):
    """A folder in which a new part file begins as a file that is there already, cache and all."""

    def __init__(self, path: Path, used: str) -> None:
        super().__init__(path)
        self._used = used

    def create(self, name: str) -> int:
        if not name.endswith(part_name("")):
            return super().create(name)
        self.link(self._used, name)
        self.unlink(self._used)
        return self.open(name)


class Stalling:
    """Counts what all streams sent, and silences them after `after` bytes."""

    def __init__(self) -> None:
        self.after: int | None = None
        self.sent = 0


class StallingStream(BulkStream):
    """A stream that may fall silent in the middle of a block."""

    def __init__(self, stream: INetStream, stalling: Stalling) -> None:
        super().__init__(stream)
        self._stalling = stalling

    async def write(self, data: Buffer) -> None:
        stalling = self._stalling
        stalling.sent += len(data)
        if stalling.after is not None and stalling.sent > stalling.after:
            await super().write(memoryview(data)[: len(data) // 2])
            await trio.sleep_forever()
        await super().write(data)


class SpoiledFile(OpenFile):
    """A file of whose blocks every `every`th is served with a wrong byte (0: none)."""

    def __init__(self, path: Path, hashes: FileHashes) -> None:
        super().__init__(path, hashes, checked=True)
        self.every = 0
        self._served = 0

    def spoil_every(self, blocks: int) -> None:
        """Begin to count anew; the first wrong one comes in the middle."""
        self.every, self._served = blocks, blocks // 2

    def _spoil(self, view: memoryview) -> None:
        self._served += 1
        if self.every and self._served % self.every == 0:
            view[len(view) // 2] ^= 1

    def read_cached(self, view: memoryview, offset: int) -> bool:
        found = super().read_cached(view, offset)
        if found:
            self._spoil(view)
        return found

    def read(self, view: memoryview, offset: int) -> None:
        super().read(view, offset)
        self._spoil(view)


async def next_order() -> Answer | None:
    """The next line of standard input; None at its end."""
    line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    return json.loads(line) if line else None


async def serve_file(path: Path) -> None:
    """Serve one file until standard input ends."""
    hashes = await trio.to_thread.run_sync(hash_file, path)
    file = SpoiledFile(path, hashes)
    library = OneFile(file)
    uploads, stalling = Uploads(), Stalling()
    host = build_host(Identity.create(), "tcp")

    async def one(stream: INetStream) -> None:
        peer_id = str(stream.muxed_conn.peer_id)
        mine = StallingStream(stream, stalling)
        await serve(mine, library, Limits(), uploads, peer_id=peer_id)

    async with running_host(host, "127.0.0.1", 0, "tcp") as addresses:
        set_handler(host, PROTOCOL, one)
        say(peer_id=str(host.get_id()), address=str(addresses[0]))
        while (order := await next_order()) is not None:
            stalling.sent, stalling.after = 0, order.get("stall_after")
            uploads.bucket.set_rate(order.get("rate"))
            file.spoil_every(order.get("corrupt", 0))
            say()


async def fetch_one(host: BasicHost, order: Answer) -> Answer:
    """Fetch a file from all its sources; what it took, from before the first connection on."""
    folder = Path(order["folder"])
    size = order["size"]
    plan = Plan(
        bytes.fromhex(order["info_hash"]),
        bytes.fromhex(order["root"]),
        size,
        order["piece_length"],
        order["name"],
    )
    marks: list[tuple[float, int]] = []
    written = 0

    blamed: list[str] = []
    helpers = 0

    def wrote(pieces: list[int]) -> None:
        nonlocal written, helpers
        written += sum(plan.layout.piece_size(piece) for piece in pieces)
        marks.append((time.perf_counter(), written))
        if not helpers and written > size // 2:
            # What its helper has for itself; the memory they share is counted here.
            own = psutil.Process().children()
            helpers = sum(child.memory_full_info().uss for child in own)

    def blame(verdict: Verdict) -> None:
        blamed.append(verdict.peer_id)

    def look(progress: TransferProgress) -> None:
        if progress.state == State.FAILED:
            raise RuntimeError(progress.reason)

    used = order.get("used")
    target = UsedFolder(folder, used) if used else RealFolder(folder)
    before = forget_peak()
    begin = time.perf_counter()
    download = Download(plan, target, emit_progress=look, wrote=wrote, blamed=blame)
    for source in order["sources"]:
        peer = ID.from_base58(source["peer_id"])
        await Dialer(host).dial(peer, Multiaddr(source["address"]))

        async def connect(peer: ID = peer) -> BulkStream:
            stream = BulkStream((await open_stream(host, peer, PROTOCOL))[0])
            stream.expect(EXPECTED_BYTES)
            return stream

        download.add_source(source["peer_id"], connect)
    connected = time.perf_counter()
    with trio.fail_after(DEADLINE_S):
        await download.run()
    end = time.perf_counter()
    grew = peak() - before + helpers
    target.close_folder()
    for source in order["sources"]:
        for connection in live_connections(host, ID.from_base58(source["peer_id"])):
            await connection.close()
    times = [connected, *(at for at, _ in marks)]
    last = next(at for at, done in marks if done >= size - size // 100)
    return {
        "seconds": end - begin,
        "connect_s": connected - begin,
        "longest_gap_s": max(b - a for a, b in itertools.pairwise(times)),
        "first_s": marks[0][0] - connected,
        "tail": (marks[-1][0] - last) / (end - begin),
        "sync_tail": (end - marks[-1][0]) / (end - begin),
        "wasted": download.snapshot.wasted,
        "blamed": blamed,
        "grew": grew,
    }


async def fetch() -> None:
    """Obey orders until standard input ends."""
    host = build_host(Identity.create(), "tcp")
    async with running_host(host, "127.0.0.1", 0, "tcp"):
        say(pid=os.getpid())
        while (order := await next_order()) is not None:
            say(**await fetch_one(host, order))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        trio.run(serve_file, Path(sys.argv[2]))
    else:
        trio.run(fetch)
