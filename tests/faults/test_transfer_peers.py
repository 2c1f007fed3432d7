"""Malicious and broken peers of each kind, alone and beside an honest one: what they achieve.

Nothing wrong reaches the disk, the transfer completes from the honest peer, and what is held
against the other one names it, and it alone.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from transfer_kit import KIB, MIB, MemoryStream, Published, Swarm, inline

from node.torrent import frames, messages
from node.torrent.merkle import Tree
from node.torrent.messages import Why
from node.torrent.sizes import Block
from node.torrent.transfer.blame import Bans, Verdict
from node.torrent.transfer.download import Download
from node.torrent.transfer.link import DataHead, Link, own_hello
from node.torrent.transfer.progress import SourceProgress, State
from node.torrent.transfer.shared import OpenFile
from node.torrent.transfer.streams import StreamEndedError

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


# ---------------------------------------------------------------- wrong bytes and hashes


async def test_a_bad_piece_bans_its_only_sender(tmp_path: Path, autojump_clock: object) -> None:
    def add(swarm: Swarm, download: Download) -> None:
        swarm.honest(download, "evil", file=wrong(swarm.published, range(0, 10_000)))

    result = await beside(tmp_path, add)
    assert [(item.peer_id, item.leaves) for item in result.blamed] == [("evil", ())]
    assert "evil sent piece" in result.banned("evil")
    assert result.source("evil").state == "banned"
    assert "wrong bytes" in result.source("evil").reason
    assert result.swarm.opened["evil"] == 1


async def test_one_bad_block_in_a_hundred_is_found(tmp_path: Path, autojump_clock: object) -> None:
    def add(swarm: Swarm, download: Download) -> None:
        # One leaf of block 5 of 48.
        swarm.honest(download, "evil", file=wrong(swarm.published, [5 * 16 + 3]))

    result = await beside(tmp_path, add)
    assert {item.peer_id for item in result.blamed} == {"evil"}
    assert {item.piece for item in result.blamed} == {1}


async def test_a_shared_piece_is_blamed_to_the_leaf(tmp_path: Path, autojump_clock: object) -> None:
    """Two senders in every piece: the wrong leaf decides, and only its block is fetched again."""
    published = Published(tmp_path / "source", 4 * MIB, piece_length=4 * MIB)
    blamed: list[Verdict] = []
    bans = Bans(trio.current_time)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download(bans=bans, blamed=blamed.append)
        swarm.honest(download, "evil", file=wrong(published, range(0, 10_000)), rate=300 * KIB)
        swarm.honest(download, "honest", rate=600 * KIB)
        await download.run()
    swarm.check()
    assert {item.peer_id for item in blamed} == {"evil"}
    assert blamed[0].leaves
    assert "wrong bytes in piece 0: leaf" in bans.banned("evil", published.plan.root)
    assert not bans.banned("honest", published.plan.root)
    # The honest blocks of the bad piece were kept.
    assert swarm.seen[-1].fetched < 2 * 4 * MIB


async def test_a_bad_layer_bans_that_peer_only(tmp_path: Path, autojump_clock: object) -> None:
    def add(swarm: Swarm, download: Download) -> None:
        published = swarm.published
        swarm.honest(download, "evil", file=WrongHashes(published.path, published.hashes))

    result = await beside(tmp_path, add)
    assert "do not lead to the file's root" in result.banned("evil")
    assert result.source("evil").state == "banned"


async def test_wrong_leaf_hashes_blame_nobody_else(tmp_path: Path, autojump_clock: object) -> None:
    published = Published(tmp_path / "source", 4 * MIB, piece_length=4 * MIB)
    bans = Bans(trio.current_time)
    blamed: list[Verdict] = []
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download(bans=bans, blamed=blamed.append)
        swarm.honest(download, "evil", file=wrong(published, range(0, 10_000)), rate=300 * KIB)
        swarm.honest(download, "honest", rate=600 * KIB)
        # Idle, because slow to answer; but asked first for the leaves: it sent no block.
        liar = WrongHashes(published.path, published.hashes, checked=True)
        await trio.sleep(0)
        scripted(swarm, download, "liar", lambda peer: peer.only_wrong_leaves(liar))
        await download.run()
        nursery.cancel_scope.cancel()
    swarm.check()
    assert {item.peer_id for item in blamed} == {"evil"}
    assert not bans.banned("honest", published.plan.root)


# ---------------------------------------------------------------- scripted peers


class Scripted:
    """A peer that speaks the protocol and then does one wrong thing."""

    def __init__(self, stream: MemoryStream, published: Published) -> None:
        self.stream = stream
        self.published = published
        self.link = Link(stream)
        self.asked: list[Block] = []

    def send(self, message: messages.Message, req_id: int = 0) -> Awaitable[None]:
        return self.link.write(frames.encode(message, req_id))

    async def greet(self) -> None:
        """HELLO, OPEN_OK, and the piece layer where it is asked for, up to the first REQUEST."""
        await self.link.next()
        await self.send(own_hello())
        req_id, _ = await self.link.next()
        await self.send(messages.OpenOk(True), req_id)

    async def request(self) -> tuple[int, tuple[Block, ...]]:
        """The next REQUEST; hash requests before it are answered honestly."""
        while True:
            req_id, message = await self.link.next()
            assert not isinstance(message, DataHead)
            if isinstance(message, messages.Request):
                return req_id, message.blocks
            if isinstance(message, messages.HashRequest):
                await self.hashes(req_id, message, self.published.open())

    async def hashes(self, req_id: int, request: messages.HashRequest, file: OpenFile) -> None:
        if request.layer:
            tree = file.upper()
            nodes, uncles = tree.answer(request.layer, request.index, request.count, request.proof)
        else:
            piece = request.index >> file.layout.piece_layer
            nodes = file.leaves(piece).hashes(0, 0, request.count)
            uncles = b""
        await self.send(messages.Hashes(request, nodes, uncles), req_id)

    async def data(self, block: Block, req_id: int = 0) -> None:
        start = block.piece * self.published.plan.piece_length + block.offset
        content = self.published.content[start : start + block.length]
        await self.send(messages.Data(block.piece, block.offset, content), req_id)

    async def drain(self) -> None:
        """Read on and answer nothing."""
        while True:
            await self.link.next()

    # -- what they do wrong

    async def only_wrong_leaves(self, file: OpenFile) -> None:
        await self.greet()
        while True:
            req_id, message = await self.link.next()
            if isinstance(message, messages.HashRequest):
                await self.hashes(req_id, message, self.published.open() if message.layer else file)

    async def unasked_data(self) -> None:
        await self.greet()
        await self.request()
        await self.data(Block(0, 0, 16 * KIB))
        await self.drain()

    async def twice(self) -> None:
        await self.greet()
        req_id, blocks = await self.request()
        await self.data(blocks[0], req_id)
        await self.data(blocks[0], req_id)
        await self.drain()

    async def before_open(self) -> None:
        await self.link.next()
        await self.send(messages.Have((1,)))
        await self.drain()

    async def no_hello(self) -> None:
        await self.drain()

    async def no_open_ok(self) -> None:
        await self.link.next()
        await self.send(own_hello())
        await self.drain()

    async def slow_loris(self) -> None:
        await self.greet()
        req_id, blocks = await self.request()
        raw = frames.data_head(*blocks[0], req_id) + bytes(blocks[0].length)
        for at in range(len(raw)):
            await self.link.write(raw[at : at + 1])
            await trio.sleep(1)

    async def falls_silent(self) -> None:
        await self.greet()
        await self.drain()

    async def ignores_requests(self) -> None:
        await self.greet()
        while True:
            await self.request()

    async def chokes_for_ever(self) -> None:
        await self.greet()
        while True:
            _, blocks = await self.request()
            await self.send(messages.Choke(100))
            for start in range(0, len(blocks), 64):
                part = blocks[start : start + 64]
                await self.send(messages.Reject(tuple((block, Why.CHOKED) for block in part)))

    async def refuses_all(self) -> None:
        await self.greet()
        while True:
            _, blocks = await self.request()
            await self.send(messages.Reject(tuple((block, Why.NOT_HERE) for block in blocks)))

    async def huge_frame(self) -> None:
        await self.greet()
        await self.link.write(frames.HEADER.pack(0xFFFFFFFF, messages.FrameType.DATA, 0, 0, 1))
        await self.drain()

    async def unknown_type(self) -> None:
        await self.greet()
        await self.link.write(frames.HEADER.pack(0, 0xEE, 0, 0, 1))
        await self.drain()

    async def have_of_nothing(self) -> None:
        await self.greet()
        await self.send(messages.Have((30_000,)))
        await self.drain()

    async def spare_bits(self) -> None:
        await self.link.next()
        await self.send(own_hello())
        req_id, _ = await self.link.next()
        await self.send(messages.OpenOk(False, b"\xff" * 7), req_id)
        await self.drain()

    async def unasked_hashes(self) -> None:
        await self.greet()
        request = messages.HashRequest(0, 0, 2, 0)
        await self.send(messages.Hashes(request, bytes(64), b""), 99)
        await self.drain()

    async def unasked_reject(self) -> None:
        await self.greet()
        await self.send(messages.Reject(((Block(0, 0, 16 * KIB), 1),)))
        await self.drain()

    async def floods(self) -> None:
        await self.greet()
        while True:
            await self.send(messages.Ping(bytes(8)))

    async def hangs_up(self) -> None:
        await self.greet()
        req_id, blocks = await self.request()
        raw = frames.data_head(*blocks[0], req_id) + bytes(blocks[0].length // 2)
        await self.link.write(raw)
        await self.stream.close()

    async def nonsense(self) -> None:
        await self.link.write(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
        await self.drain()


def scripted(
    swarm: Swarm, download: Download, name: str, script: Callable[[Scripted], Awaitable[None]]
) -> None:
    async def run(stream: MemoryStream) -> None:
        try:
            await script(Scripted(stream, swarm.published))
        except (StreamEndedError, messages.WireError):
            return

    swarm.peer(download, name, run)


STRIKES = [
    "unasked_data",
    "twice",
    "before_open",
    "huge_frame",
    "unknown_type",
    "have_of_nothing",
    "spare_bits",
    "unasked_hashes",
    "unasked_reject",
    "floods",
    "nonsense",
]


@pytest.mark.parametrize("what", STRIKES)
async def test_a_broken_rule_is_a_strike_and_three_a_ban(
    tmp_path: Path, autojump_clock: object, what: str
) -> None:
    def add(swarm: Swarm, download: Download) -> None:
        scripted(swarm, download, "evil", lambda peer: getattr(peer, what)())

    result = await beside(tmp_path, add, head_start=30)
    assert result.source("evil").strikes == 3
    assert "broke the protocol 3 times" in result.banned("evil")
    assert result.swarm.opened["evil"] == 3
    assert not result.blamed


@pytest.mark.parametrize(
    ("what", "closed_within", "reason"),
    [
        ("no_hello", 11, "no HELLO within 10 s"),
        ("no_open_ok", 11, "no answer to OPEN within 10 s"),
        ("slow_loris", 17, "a frame took longer than 15 s"),
        ("falls_silent", 12, "no hashes within 10 s"),
        ("ignores_requests", 32, "sent nothing for 30 s"),
        ("hangs_up", 1, "the stream ended inside a block"),
    ],
)
async def test_silence_is_closed_in_time_and_no_strike(
    tmp_path: Path, autojump_clock: object, what: str, closed_within: float, reason: str
) -> None:
    def add(swarm: Swarm, download: Download) -> None:
        scripted(swarm, download, "evil", lambda peer: getattr(peer, what)())

    result = await beside(tmp_path, add, head_start=closed_within)
    assert result.took < closed_within + 12
    assert not result.banned("evil")
    closed = [
        source.reason
        for item in result.swarm.seen
        for source in item.sources
        if source.peer_id == "evil" and source.state == "backoff"
    ]
    assert closed
    assert reason in closed[0]


@pytest.mark.parametrize("what", ["chokes_for_ever", "refuses_all"])
async def test_refusing_everything_only_costs_the_peer_itself(
    tmp_path: Path, autojump_clock: object, what: str
) -> None:
    def add(swarm: Swarm, download: Download) -> None:
        scripted(swarm, download, "evil", lambda peer: getattr(peer, what)())

    result = await beside(tmp_path, add, head_start=20)
    assert result.took < 20 + 10
    stalled = [item.reason for item in result.swarm.seen if item.state == State.STALLED]
    assert stalled
    expected = "asks us to wait" if what == "chokes_for_ever" else "no connected peer has"
    assert any(expected in reason for reason in stalled)


async def test_two_bad_files_ban_for_a_day(autojump_clock: object) -> None:
    bans = Bans(trio.current_time)
    verdict = Verdict("evil", 3, (), "evil sent piece 3 with wrong bytes.")
    bans.wrong_piece(verdict, b"a" * 32)
    assert bans.banned("evil", b"a" * 32)
    assert not bans.banned("evil", b"b" * 32)
    bans.wrong_piece(verdict, b"b" * 32)
    assert "24 hours" in bans.banned("evil", b"c" * 32)
    await trio.sleep(86_401)
    assert not bans.banned("evil", b"c" * 32)


async def test_goal_of_four_sources(tmp_path: Path, autojump_clock: object) -> None:
    """Slow, stalling and corrupting beside two good ones: hardly slower than the two alone."""
    published = Published(tmp_path / "source", 24 * MIB, piece_length=512 * KIB)

    async def run(bad: bool) -> tuple[float, list[Verdict]]:
        blamed: list[Verdict] = []
        async with trio.open_nursery() as nursery:
            swarm = Swarm(published, tmp_path / f"target-{bad}", nursery)
            download = swarm.download(blamed=blamed.append, run_sync=inline)
            for name in ("good", "better"):
                swarm.honest(download, name, rate=2 * MIB)
            if bad:
                swarm.honest(download, "slow", rate=200 * KIB)
                hit = [leaf for leaf in range(1536) if leaf % 100 == 7]
                swarm.honest(download, "corrupts", file=wrong(published, hit), rate=2 * MIB)
                scripted(swarm, download, "stalls", lambda peer: peer.falls_silent())
            begin = trio.current_time()
            await download.run()
            took = trio.current_time() - begin
            nursery.cancel_scope.cancel()
        swarm.check()
        return took, blamed

    alone, _ = await run(False)
    took, blamed = await run(True)
    assert took <= 1.2 * alone
    assert {item.peer_id for item in blamed} == {"corrupts"}
