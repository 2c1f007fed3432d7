"""The parts of the transfer one by one: rate limit, slots, memory, layer, blame, served files."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from transfer_kit import KIB, MIB, Published, Shelf, Swarm

from node.torrent import merkle
from node.torrent.hash_helper import Room
from node.torrent.limits import BLOCK_BYTES
from node.torrent.messages import Hashes
from node.torrent.sizes import Block, Layout
from node.torrent.transfer.blame import verdicts
from node.torrent.transfer.buffers import BoundedPicker, Pieces
from node.torrent.transfer.download import Download
from node.torrent.transfer.layer_fetch import LayerFetch
from node.torrent.transfer.shared import ArrivingFile
from node.torrent.transfer.upload import TokenBucket, TooManyError, Uploads


async def test_bucket_holds_its_rate_and_gives_turns(autojump_clock: object) -> None:
    bucket = TokenBucket(1 * MIB)
    sent = {"one": 0, "two": 0, "three": 0}

    async def take(name: str) -> None:
        while True:
            await bucket.take(BLOCK_BYTES)
            sent[name] += BLOCK_BYTES

    with trio.move_on_after(30):
        async with trio.open_nursery() as nursery:
            for name in sent:
                nursery.start_soon(take, name)
    assert sum(sent.values()) == pytest.approx(30 * MIB, rel=0.05)
    assert max(sent.values()) - min(sent.values()) <= BLOCK_BYTES


async def test_bucket_obeys_a_new_rate_at_once(autojump_clock: object) -> None:
    bucket = TokenBucket(1.0)
    await bucket.take(1000)
    done = trio.Event()

    async def take() -> None:
        await bucket.take(1)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await trio.sleep(5)
        assert not done.is_set()
        bucket.set_rate(None)
        with trio.fail_after(1):
            await done.wait()
    with pytest.raises(ValueError):
        bucket.set_rate(0)


async def test_files_and_peers_are_limited(autojump_clock: object) -> None:
    uploads = Uploads()
    for number in range(4):
        uploads.open("peer", bytes([number]), lambda: None)
    uploads.open("peer", bytes([0]), lambda: None)
    with pytest.raises(TooManyError):
        uploads.open("peer", bytes([9]), lambda: None)
    for number in range(64):
        uploads.connect(f"peer{number}")
    with pytest.raises(TooManyError):
        uploads.connect("one more")
    uploads.disconnect("peer3")
    uploads.connect("one more")


def test_a_block_that_hangs_cannot_touch_a_complete_piece() -> None:
    """A peer stalls inside a block, another's copy completes the piece, the first goes on."""
    layout = Layout(512 * KIB, 512 * KIB)
    content = random.Random(1).randbytes(512 * KIB)
    pieces = Pieces(layout)
    pieces.begin(0)
    first, second = layout.blocks(0)
    slow = pieces.target(first)
    slow.view[:1000] = content[:1000]
    for block in (second, first):
        target = pieces.target(block)
        target.view[:] = content[block.offset : block.offset + block.length]
        pieces.accept(target)
    slow.view[:] = bytes(len(slow.view))
    assert bytes(pieces.whole(0).data) == content
    pieces.dropped(slow)
    pieces.end(0)
    assert len(pieces) == 0


def test_a_buffer_somebody_writes_to_is_not_given_out_again() -> None:
    layout = Layout(1 * MIB, 256 * KIB)
    pieces = Pieces(layout)
    pieces.begin(0)
    hanging = pieces.target(Block(0, 0, 256 * KIB))
    pieces.end(0)
    pieces.begin(1)
    whole = pieces.target(Block(1, 0, 256 * KIB))
    whole.view[:] = b"\x01" * 256 * KIB
    pieces.accept(whole)
    hanging.view[:] = b"\x02" * 256 * KIB
    assert bytes(pieces.whole(1).data) == b"\x01" * 256 * KIB


def test_a_piece_has_a_room_from_its_first_byte_and_the_last_room_used_is_next() -> None:
    """64 pieces are asked for; as they come one after another, one room is enough for them."""
    layout = Layout(16 * MIB, 256 * KIB)
    rooms = [Room(memoryview(bytearray(256 * KIB))) for _ in range(64)]
    pieces = Pieces(layout, rooms)
    for piece in range(64):
        pieces.begin(piece)
    used: list[Room] = []
    for piece in range(64):
        target = pieces.target(Block(piece, 0, 256 * KIB))
        pieces.accept(target)
        used.append(pieces.whole(piece).room)
        pieces.end(piece)
    assert len(pieces) == 0
    assert all(room is rooms[-1] for room in used)


def test_pieces_that_end_before_their_first_byte_leave_no_room_behind() -> None:
    layout = Layout(1 * MIB, 256 * KIB)
    pieces = Pieces(layout)
    pieces.begin(0)
    pieces.end(0)
    pieces.begin(1)
    target = pieces.target(Block(1, 0, 256 * KIB))
    target.view[:] = b"\x03" * 256 * KIB
    pieces.accept(target)
    assert bytes(pieces.whole(1).data) == b"\x03" * 256 * KIB


def test_memory_bounds_what_is_begun() -> None:
    layout = Layout(64 * MIB, 1 * MIB)
    picker = BoundedPicker(layout, frozenset(), seed=1, limit=3)
    picker.add_peer("one", None)
    picker.add_peer("two", None)
    blocks = [*picker.want("one", 0.0).requests, *picker.want("two", 0.0).requests]
    assert len({block.piece for block in blocks}) == 3
    picker.remove_peer("one", 1.0)
    picker.remove_peer("two", 1.0)
    picker.add_peer("three", None)
    assert picker.want("three", 1.0).requests


@pytest.mark.parametrize("pieces", [1, 2, 3, 511, 512, 513, 1500])
def test_a_layer_comes_in_ranges(pieces: int) -> None:
    layout = Layout(pieces * 16 * KIB - 5, 16 * KIB)
    layer = random.Random(pieces).randbytes(pieces * 32)
    tree = merkle.Tree(layer, layout.piece_layer, layout.height)
    fetch = LayerFetch(layout, tree.top)
    assert fetch.complete.is_set() is (pieces == 1)
    while (request := fetch.take("peer")) is not None:
        nodes, uncles = tree.answer(request.layer, request.index, request.count, request.proof)
        wrong = bytes([nodes[0] ^ 1]) + nodes[1:]
        assert not fetch.put(Hashes(request, wrong, uncles))
        assert fetch.put(Hashes(request, nodes, uncles))
    assert fetch.layer == layer


def test_blame_names_leaf_block_and_sender() -> None:
    layout = Layout(1 * MIB, 1 * MIB)
    content = bytearray(random.Random(2).randbytes(1 * MIB))
    leaves = merkle.leaf_hashes(content)
    blocks = layout.blocks(0)
    content[5 * 16 * KIB + 100] ^= 1
    content[40 * 16 * KIB] ^= 1
    found, bad = verdicts(0, content, leaves, {"a": blocks[:1], "b": blocks[1:2], "c": blocks[2:]})
    assert [(item.peer_id, item.leaves) for item in found] == [("a", (5,)), ("c", (40,))]
    assert bad == [blocks[0], blocks[2]]
    assert "leaf 40 (block 2)" in found[1].reason


async def test_a_chain_of_downloads(tmp_path: Path, autojump_clock: object) -> None:
    """B serves to C what it has so far, while it still fetches from A."""
    published = Published(tmp_path / "source", 8 * MIB, piece_length=256 * KIB)
    files: list[ArrivingFile] = []
    async with trio.open_nursery() as nursery:
        one = Swarm(published, tmp_path / "b", nursery)
        two = Swarm(published, tmp_path / "c", nursery)
        first = one.download(wrote=lambda pieces: files[0].wrote(pieces) if files else None)
        one.honest(first, "a", rate=1 * MIB)
        ends: dict[str, float] = {}

        async def run(name: str, download: Download) -> None:
            await download.run()
            ends[name] = trio.current_time()

        nursery.start_soon(run, "b", first)
        await trio.sleep(1.5)
        assert first.part is not None
        files.append(ArrivingFile(first.part))
        second = two.download()
        two.honest(second, "b", file=files[0])
        nursery.start_soon(run, "c", second)
        await trio.sleep(4)
        shown = second.snapshot
        assert 0 < shown.done < 8 * MIB
        assert 0 < shown.sources[0].have < 32
        # Once B is complete it serves the finished file.
        while "b" not in ends:
            await trio.sleep(0.1)
        two.honest(second, "finished")
    one.check()
    two.check()
    assert ends["c"] - ends["b"] < 3


async def test_served_pieces_are_checked_once(tmp_path: Path) -> None:
    published = Published(tmp_path / "source", 1 * MIB)
    file = published.open(checked=False)
    assert not file.ready(1)
    file.prepare(1)
    assert file.ready(1) and not file.ready(0)
    view = memoryview(bytearray(256 * KIB))
    file.read(view, 256 * KIB)
    assert bytes(view) == published.piece(1)
    assert Shelf(file).find(b"", bytes(32)) is None
