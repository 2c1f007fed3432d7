"""What goes out is told while it goes, and that it has ended."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from transfer_kit import KIB, Published, Shelf, inline, memory_streams

from node import events as ev
from node.swarm import sharing
from node.swarm.sharing import Sharing
from node.torrent import frames, messages
from node.torrent.sizes import Block
from node.torrent.transfer.link import DataHead, Link, own_hello
from node.torrent.transfer.server import serve
from node.torrent.transfer.streams import Stream
from node.torrent.transfer.upload import Uploads


class Library(Shelf):
    """One file, as the node's library has it."""

    def by_root(self, root: bytes) -> Any:
        return SimpleNamespace(file=SimpleNamespace(info_hash="aa" * 32))


async def fetch(stream: Stream, published: Published, blocks: tuple[Block, ...]) -> None:
    """Ask for blocks, take them and say goodbye."""
    link, plan = Link(stream), published.plan
    log2 = plan.piece_length.bit_length() - 1
    for message in (
        own_hello(),
        messages.Open(plan.info_hash, plan.root, plan.size, log2),
        messages.Request(blocks),
    ):
        await link.write(frames.encode(message, 1))
    left = len(blocks)
    while left:
        _, answer = await link.next()
        if isinstance(answer, DataHead):
            await link.body(memoryview(bytearray(answer.block.length)))
            left -= 1
    await link.write(frames.encode(messages.Bye(), 1))


async def test_the_rate_is_told_down_to_nothing(
    tmp_path: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def served(*args: Any, **more: Any) -> str:
        return await serve(*args, **more, run_sync=inline)

    monkeypatch.setattr(sharing, "serve", served)
    published = Published(tmp_path / "source", 512 * KIB)
    told: list[ev.SeedingChanged] = []

    def emit(event: ev.Event) -> None:
        if isinstance(event, ev.SeedingChanged):
            told.append(event)

    one = Sharing(Library(published.open()), Uploads(), lambda file, why: None, emit)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        for count in (1, 2):
            ours, theirs = memory_streams()
            theirs.rate = 100 * KIB
            nursery.start_soon(one._serve, theirs, "peer")
            await fetch(ours, published, (Block(0, 0, 256 * KIB), Block(1, 0, 256 * KIB)))
            await trio.sleep(60)
            assert max(event.rate_up for event in told) > 50 * KIB
            # A console that shows the last one says that nothing goes out.
            assert (told[-1].rate_up, told[-1].peers) == (0.0, ())
            assert told[-1].uploaded == count * 512 * KIB
            quiet = len(told)
            await trio.sleep(600)
            assert len(told) == quiet
        nursery.cancel_scope.cancel()
