"""Generated scripts after a valid handshake, against the server and against a download.

Whatever the other side does: no exception but the documented, no frame that our own parser would
refuse, no memory above the limits, an end in time, and nobody innocent is blamed.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings, strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from scripted_peer import Scripted
from transfer_kit import KIB, MemoryStream, Published, Shelf, Swarm, inline, memory_streams
from wire_fuzz import LAYOUT, client_scripts, server_scripts

from node.torrent import frames, messages
from node.torrent.limits import SEND_QUEUE_BYTES
from node.torrent.messages import Why
from node.torrent.sizes import Block
from node.torrent.transfer.blame import Bans, Verdict
from node.torrent.transfer.link import OUTBOX_BYTES, DataHead, Link, own_hello
from node.torrent.transfer.progress import State
from node.torrent.transfer.server import Limits, serve
from node.torrent.transfer.serving import MAX_TOGETHER
from node.torrent.transfer.shared import OpenFile
from node.torrent.transfer.streams import StreamEndedError
from node.torrent.transfer.upload import Uploads

FUZZ = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MANY = settings(FUZZ, max_examples=5000)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("fuzz")
    yield Published(folder, LAYOUT.size, piece_length=LAYOUT.piece_length)
    shutil.rmtree(folder)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """With a clock that jumps, so that deadlines cost nothing."""
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# ---------------------------------------------------------------- against the server


class Some(OpenFile):
    """A file of which two pieces are here."""

    def pieces(self) -> frozenset[int] | None:
        return frozenset([0, 2])


async def fuzz_server(published: Published, script: list[Any], some: bool, slots: int) -> None:
    kind = Some if some else OpenFile
    file = kind(published.path, published.hashes, checked=False)
    uploads = Uploads(slots=slots)
    ours, theirs = memory_streams(96 * KIB)
    corrupt: list[str] = []
    reasons: list[str] = []
    link = Link(ours)

    async def server() -> None:
        reasons.append(
            await serve(
                theirs,
                Shelf(file),
                Limits(),
                uploads,
                peer_id="client",
                on_corrupt=lambda file, why: corrupt.append(why),
                run_sync=inline,
            )
        )
        # As the muxer does with a stream whose other half is not closed in time.
        await trio.sleep(10)
        await theirs.reset()

    async def read() -> None:
        try:
            while True:
                _, message = await link.next()
                if isinstance(message, DataHead):
                    data = bytearray(message.block.length)
                    await link.body(memoryview(data))
                    piece, offset, length = message.block
                    assert data == published.piece(piece)[offset : offset + length]
                    assert not some or piece in (0, 2)
        except StreamEndedError:
            return

    async def write() -> None:
        plan = published.plan
        log2 = plan.piece_length.bit_length() - 1
        try:
            await link.write(frames.encode(own_hello()))
            opened = messages.Open(plan.info_hash, plan.root, plan.size, log2)
            await link.write(frames.encode(opened, 1))
            for step in script:
                if isinstance(step, tuple):
                    await trio.sleep(step[1])
                else:
                    await link.write(step)
            await ours.close()
        except StreamEndedError:
            return

    with trio.fail_after(sum(step[1] for step in script if isinstance(step, tuple)) + 90):
        async with trio.open_nursery() as nursery:
            for task in (server, read, write):
                nursery.start_soon(task)
    assert len(reasons) == 1 and reasons[0]
    assert not corrupt
    assert uploads.active == () and not uploads._streams and not uploads._open
    file.close()


@given(script=client_scripts, some=st.booleans(), slots=st.integers(1, 2))
@FUZZ
def test_any_client_after_the_handshake(
    published: Published, script: list[Any], some: bool, slots: int
) -> None:
    run(lambda: fuzz_server(published, script, some, slots))


@pytest.mark.slow
@given(script=client_scripts, some=st.booleans(), slots=st.integers(1, 2))
@MANY
def test_many_clients_after_the_handshake(
    published: Published, script: list[Any], some: bool, slots: int
) -> None:
    run(lambda: fuzz_server(published, script, some, slots))


# ---------------------------------------------------------------- against a download

WRONG = ("wrong bytes", "one wrong leaf")


class Fuzzed(Scripted):
    """A server that takes one turn of its script at each REQUEST, and is silent after the last."""

    async def follow(self, turns: list[Any]) -> None:
        await self.greet()
        for turn in turns:
            req_id, blocks = await self.request()
            await self.take(turn, req_id, blocks)
        await self.drain()

    async def take(self, turn: Any, req_id: int, blocks: tuple[Block, ...]) -> None:
        if isinstance(turn, bytes):
            await self.link.write(turn)
            turn = "serve"
        elif isinstance(turn, tuple) and turn[0] == "sleep":
            await trio.sleep(turn[1])
            turn = "serve"
        elif isinstance(turn, tuple):
            await self.send(messages.Reject(tuple((block, turn[1]) for block in blocks)), req_id)
            return
        match turn:
            case "wrong bytes":
                for block in blocks:
                    await self.send(messages.Data(*block[:2], bytes(block.length)), req_id)
                return
            case "one wrong leaf":
                content = bytearray(self.content(*blocks[0]))
                content[-1] ^= 1
                await self.send(messages.Data(*blocks[0][:2], bytes(content)), req_id)
                blocks = blocks[1:]
            case "half a block, then close" | "half a block, then silence" | "reset":
                raw = frames.data_head(*blocks[0], req_id) + bytes(blocks[0].length // 2)
                await self.link.write(raw)
                if turn.endswith("close"):
                    await self.stream.close()
                elif turn == "reset":
                    await self.stream.reset()
                await self.drain()
            case "nothing":
                return
            case "choke" | "choke and unchoke":
                await self.send(messages.Choke(1000))
                await self.send(messages.Reject(tuple((b, Why.CHOKED) for b in blocks)), req_id)
                if turn == "choke and unchoke":
                    await self.send(messages.Unchoke(1))
                return
            case "twice":
                await self.data(blocks[0], req_id)
            case "in another order":
                blocks = blocks[::-1]
            case "have":
                await self.send(messages.Have(tuple(range(LAYOUT.pieces))))
            case "ping":
                await self.send(messages.Ping(bytes(8)))
        for block in blocks:
            await self.data(block, req_id)


async def fuzz_download(published: Published, target: Path, scripts: list[list[Any]]) -> None:
    shutil.rmtree(target, ignore_errors=True)
    bans = Bans(trio.current_time)
    blamed: list[Verdict] = []
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, target, nursery)
        most = 0

        def look(pieces: list[int]) -> None:
            nonlocal most
            exchange = download._exchange
            assert exchange is not None
            most = max(most, exchange.in_memory)

        download = swarm.download(
            bans=bans, blamed=blamed.append, wrote=look, budget=1024 * KIB, rng=random.Random(3)
        )
        for number, script in enumerate(scripts):
            add_fuzzed(swarm, download, f"fuzz{number}", script)

        async def later() -> None:
            await trio.sleep(20)
            swarm.honest(download, "honest", rate=1024 * KIB)

        nursery.start_soon(later)
        with trio.fail_after(300):
            await download.run()
        nursery.cancel_scope.cancel()
    swarm.check()
    assert swarm.seen[-1].state == State.DONE
    assert most <= 1024 * KIB
    root = published.plan.root
    assert not bans.banned("honest", root) and not bans.strikes("honest", root)
    for item in blamed:
        script = scripts[int(item.peer_id.removeprefix("fuzz"))]
        # Raw bytes may happen to be a DATA frame that was asked for.
        assert any(turn in WRONG or isinstance(turn, bytes) for turn in script)


def add_fuzzed(swarm: Swarm, download: Any, name: str, script: list[Any]) -> None:
    async def serve_once(stream: MemoryStream) -> None:
        try:
            await Fuzzed(stream, swarm.published).follow(script)
        except StreamEndedError:
            return

    swarm.peer(download, name, serve_once)


@given(scripts=st.lists(server_scripts, min_size=1, max_size=3))
@FUZZ
def test_any_servers_after_the_handshake(
    published: Published, tmp_path: Path, scripts: list[list[Any]]
) -> None:
    run(lambda: fuzz_download(published, tmp_path / "target", scripts))


@pytest.mark.slow
@given(scripts=st.lists(server_scripts, min_size=1, max_size=3))
@settings(MANY, max_examples=2000)
def test_many_servers_after_the_handshake(
    published: Published, tmp_path: Path, scripts: list[list[Any]]
) -> None:
    run(lambda: fuzz_download(published, tmp_path / "target", scripts))


def test_what_waits_for_a_peer_is_bounded() -> None:
    """What a serving stream holds: blocks that are being written, and its control frames."""
    assert OUTBOX_BYTES + MAX_TOGETHER * frames.BLOCK_BYTES <= SEND_QUEUE_BYTES
