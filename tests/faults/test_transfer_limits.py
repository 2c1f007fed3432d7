"""What absurd frames and idle readers may cost: memory stays flat, others are served on."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from test_transfer_clients import Client
from transfer_kit import KIB, MIB, MemoryStream, Published, Shelf, inline, memory_streams

from node.torrent import messages
from node.torrent.folder import RealFolder
from node.torrent.sizes import Block
from node.torrent.transfer import link, serving
from node.torrent.transfer.download import Download
from node.torrent.transfer.link import own_hello
from node.torrent.transfer.server import Limits, serve
from node.torrent.transfer.upload import Uploads


@pytest.mark.parametrize("side", ["download", "server"])
async def test_absurd_lengths_are_refused_before_anything_is_allocated(
    tmp_path: Path, autojump_clock: object, side: str
) -> None:
    """2^32-1 bytes, a size of 2^63, a million keys: memory stays flat on both sides."""
    published = Published(tmp_path / "source", 64 * KIB)
    header = link.HEADER.pack
    kinds = messages.FrameType
    hello = header(0xFFFFFFFF, kinds.HELLO, 0, 0, 0)
    greeting = link.frames.encode(own_hello())
    opened = header(73, kinds.OPEN, 0, 0, 1) + bytes(64) + (1 << 63).to_bytes(8, "big") + b"\x12"
    floods = [
        hello + b"{" * 100_000,
        header(0x7FFFFFFF, kinds.DATA, 0, 0, 0) + bytes(100_000),
        greeting + opened + bytes(100_000),
        greeting + header(0xFFFF, kinds.HAVE, 0, 0, 0) + bytes(0xFFFF),
        greeting + header(0x10000, kinds.OPEN_OK, 0, 0, 0) + bytes(100_000),
    ]

    async def against(flood: bytes) -> None:
        ours, theirs = memory_streams(256 * KIB)
        async with trio.open_nursery() as nursery:
            if side == "server":
                nursery.start_soon(one_server, theirs)
            else:
                nursery.start_soon(one_download, theirs)
            await ours.write(flood)
            assert await ended(ours) < 64 * KIB

    async def ended(stream: MemoryStream) -> int:
        """Bytes until the other side is done, which takes no more than a minute."""
        count = 0
        with trio.fail_after(60):
            while True:
                try:
                    data = await stream.read(64 * KIB)
                except Exception:
                    return count
                if not data:
                    return count
                count += len(data)

    async def one_server(stream: MemoryStream) -> None:
        class Nothing:
            def find(self, info_hash: bytes, root: bytes) -> None:
                return None

        await serve(stream, Nothing(), Limits(), Uploads(), run_sync=inline)

    async def one_download(stream: MemoryStream) -> None:
        folder = tmp_path / "target"
        folder.mkdir(exist_ok=True)
        download = Download(published.plan, RealFolder(folder), run_sync=inline)

        async def open_stream() -> MemoryStream:
            await trio.lowlevel.checkpoint()
            return stream

        download.add_source("evil", open_stream)
        with trio.move_on_after(30):
            await download.run()

    for flood in floods:
        await against(flood)
    tracemalloc.start()
    try:
        for _ in range(3):
            for flood in floods:
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
                await against(flood)
                _, peak = tracemalloc.get_traced_memory()
                # The pipe of the test copies the flood twice; one buffer of 64 KiB is ours.
                assert peak - before < 3 * len(flood) + 512 * KIB
    finally:
        tracemalloc.stop()


async def test_a_client_that_reads_nothing_does_not_end_the_streams_of_others(
    tmp_path: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turn ends while its queue is full: that is told to it by another stream's task."""
    published = Published(tmp_path / "source", 4 * MIB)
    uploads = Uploads(slots=1)
    ends: dict[str, str] = {}
    ready = trio.Event()

    async def run(name: str, stream: MemoryStream) -> None:
        ends[name] = await serve(
            stream,
            Shelf(published.open()),
            Limits(),
            uploads,
            peer_id=name,
            run_sync=inline,
        )

    async with trio.open_nursery() as nursery:
        ours, theirs = memory_streams(8 * KIB)
        nursery.start_soon(run, "evil", theirs)
        evil = Client(ours, published)
        await evil.greet()
        await evil.send(messages.Request(tuple(Block(piece, 0, 256 * KIB) for piece in range(4))))
        await trio.sleep(serving.WATCH_S)
        monkeypatch.setattr(link, "OUTBOX_BYTES", 100)
        for _ in range(4):
            await evil.send(messages.Ping(bytes(8)))
        await trio.sleep(3)
        assert uploads.active and "evil" not in ends

        ours, theirs = memory_streams()
        monkeypatch.setattr(link, "OUTBOX_BYTES", 200)
        nursery.start_soon(run, "good", theirs)
        good = Client(ours, published)
        await good.greet()
        monkeypatch.setattr(link, "OUTBOX_BYTES", 100)
        block = Block(2, 0, 256 * KIB)
        with trio.fail_after(60):
            await good.send(messages.Request((block,)))
            while True:
                found = await good.next()
                if isinstance(found, tuple):
                    break
                await trio.sleep(2)
                await good.send(messages.Request((block,)))
        assert found[1] == published.piece(2)
        await good.send(messages.Bye())
        ready.set()
    assert ends["good"] == "the peer said goodbye"
    assert ends["evil"] in (
        "the peer does not read what it asks for",
        "the peer has not read for 30 s",
    )
    assert uploads.active == ()
