"""Streams in memory, published files and scripted peers for the transfer's tests."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from node.torrent.files import info_hash
from node.torrent.folder import RealFolder
from node.torrent.hashing import FileHashes, hash_file
from node.torrent.transfer.download import Download, Plan
from node.torrent.transfer.progress import TransferProgress
from node.torrent.transfer.server import Limits, serve
from node.torrent.transfer.shared import OpenFile, SharedFile
from node.torrent.transfer.streams import Stream
from node.torrent.transfer.upload import Uploads

KIB = 1024
MIB = 1024 * KIB


async def inline(function: Callable[..., Any], *args: Any) -> Any:
    """Instead of a thread: a mock clock would not wait for one."""
    await trio.lowlevel.checkpoint()
    return function(*args)


class ResetError(Exception):
    """The stream was reset."""


class _Pipe:
    """One direction: a bounded buffer."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.data: deque[memoryview] = deque()
        self.size = 0
        self.ended = False
        self.reset = False
        self.lot = trio.lowlevel.ParkingLot()

    async def read(self, n: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self.data:
            if self.reset:
                raise ResetError
            if self.ended:
                return b""
            await self.lot.park()
        first = self.data.popleft()
        if len(first) > n:
            self.data.appendleft(first[n:])
            first = first[:n]
        self.size -= len(first)
        self.lot.unpark_all()
        return bytes(first)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(bytes(data))
        await trio.lowlevel.checkpoint()
        while view:
            if self.reset or self.ended:
                raise ResetError
            room = self.room - self.size
            if room <= 0:
                await self.lot.park()
                continue
            self.data.append(view[:room])
            self.size += len(view[:room])
            view = view[room:]
            self.lot.unpark_all()


class MemoryStream:
    """One end of a stream; `rate` in bytes per second slows its writing down."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._in = incoming
        self._out = outgoing
        self.rate: float | None = None
        self.delay = 0.0
        self.written = 0

    async def read(self, n: int) -> bytes:
        return await self._in.read(n)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.rate is not None:
            view = memoryview(data)
            step = max(1, int(self.rate / 20))
            for start in range(0, len(view), step):
                part = view[start : start + step]
                await trio.sleep(len(part) / self.rate)
                await self._out.write(part)
        else:
            await self._out.write(data)
        self.written += len(data)

    async def close(self) -> None:
        self._out.ended = True
        self._out.lot.unpark_all()

    async def reset(self) -> None:
        for pipe in (self._in, self._out):
            pipe.reset = True
            pipe.lot.unpark_all()


def memory_streams(room: int = 1 * MIB) -> tuple[MemoryStream, MemoryStream]:
    """Two connected ends; each direction holds `room` unread bytes."""
    one, other = _Pipe(room), _Pipe(room)
    return MemoryStream(one, other), MemoryStream(other, one)


class Published:
    """A random file in a folder of its own, with its hashes and its plan."""

    def __init__(
        self, folder: Path, size: int, *, piece_length: int = 256 * KIB, seed: int = 0
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.content = random.Random(seed).randbytes(size)
        self.path = folder / "shard-0.gguf"
        self.path.write_bytes(self.content)
        self.hashes: FileHashes = hash_file(self.path, piece_length)
        self.plan = Plan(
            info_hash=bytes.fromhex(info_hash(self.path.name, size)),
            root=self.hashes.root,
            size=size,
            piece_length=piece_length,
            filename=self.path.name,
        )

    def open(self, *, checked: bool = True) -> OpenFile:
        return OpenFile(self.path, self.hashes, checked=checked)

    def piece(self, piece: int) -> bytes:
        length = self.plan.piece_length
        return self.content[piece * length : (piece + 1) * length]


class Shelf:
    """A library of one file."""

    def __init__(self, file: SharedFile | None) -> None:
        self.file = file

    def find(self, info_hash: bytes, root: bytes) -> SharedFile | None:
        return self.file if self.file is not None and self.file.root == root else None


Serve = Callable[[MemoryStream], Awaitable[None]]


class Swarm:
    """Peers that serve over memory, and a download that fetches from them."""

    def __init__(self, published: Published, target: Path, nursery: trio.Nursery) -> None:
        target.mkdir(parents=True, exist_ok=True)
        self.published = published
        self.target = target
        self.nursery = nursery
        self.seen: list[TransferProgress] = []
        self.ended: dict[str, list[str]] = {}
        self.opened: dict[str, int] = {}
        self.corrupt: list[str] = []

    def download(self, **options: Any) -> Download:
        options.setdefault("run_sync", inline)
        options.setdefault("rng", random.Random(1))
        options.setdefault("emit_progress", self.seen.append)
        return Download(self.published.plan, RealFolder(self.target), **options)

    def honest(
        self,
        download: Download,
        name: str,
        *,
        file: SharedFile | None = None,
        rate: float | None = None,
        limits: Limits | None = None,
        uploads: Uploads | None = None,
        missing: bool = False,
    ) -> None:
        """A real server under `name`."""
        shelf = Shelf(None if missing else file or self.published.open())
        shared = uploads or Uploads()

        async def run(stream: MemoryStream) -> None:
            stream.rate = rate
            reason = await serve(
                stream,
                shelf,
                limits or Limits(),
                shared,
                peer_id="downloader",
                on_corrupt=lambda file, why: self.corrupt.append(why),
                run_sync=inline,
            )
            self.ended.setdefault(name, []).append(reason)

        self.peer(download, name, run)

    def peer(self, download: Download, name: str, run: Serve) -> None:
        """A peer that does `run` with each stream the download opens to it."""

        async def open_stream() -> Stream:
            await trio.lowlevel.checkpoint()
            self.opened[name] = self.opened.get(name, 0) + 1
            ours, theirs = memory_streams()
            self.nursery.start_soon(run, theirs)
            return ours

        download.add_source(name, open_stream)

    def check(self) -> None:
        """The file arrived whole and nothing else is left in the folder."""
        assert [item.name for item in self.target.iterdir()] == [self.published.path.name]
        found = (self.target / self.published.path.name).read_bytes()
        assert found == self.published.content
