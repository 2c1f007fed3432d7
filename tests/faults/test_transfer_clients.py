"""What a malicious or broken downloader can do to a server, and what a rotten file does."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from transfer_kit import (
    KIB,
    MIB,
    MemoryStream,
    Published,
    Shelf,
    Swarm,
    inline,
    memory_streams,
)

from node.torrent import frames, messages
from node.torrent.messages import ErrorCode, Why
from node.torrent.sizes import Block
from node.torrent.transfer.link import DataHead, Link, own_hello
from node.torrent.transfer.server import Limits, serve
from node.torrent.transfer.shared import SharedFile
from node.torrent.transfer.streams import StreamEndedError
from node.torrent.transfer.upload import Uploads


class Client:
    """A downloader written out by hand."""

    def __init__(self, stream: MemoryStream, published: Published) -> None:
        self.stream = stream
        self.link = Link(stream)
        self.published = published

    async def send(self, message: messages.Message, req_id: int = 1) -> None:
        await self.link.write(frames.encode(message, req_id))

    async def next(self) -> messages.Message | tuple[Block, bytes]:
        _, message = await self.link.next()
        if isinstance(message, DataHead):
            data = bytearray(message.block.length)
            await self.link.body(memoryview(data))
            return message.block, bytes(data)
        return message

    async def greet(self, **change: object) -> messages.Message | tuple[Block, bytes]:
        await self.send(own_hello())
        assert isinstance(await self.next(), messages.Hello)
        plan = self.published.plan
        wanted = {
            "info_hash": plan.info_hash,
            "root": plan.root,
            "size": plan.size,
            "piece_log2": plan.piece_length.bit_length() - 1,
        }
        await self.send(messages.Open(**{**wanted, **change}))  # type: ignore[arg-type]
        return await self.next()


async def against(
    published: Published,
    script: Callable[[Client], Awaitable[None]],
    *,
    file: SharedFile | None = None,
    uploads: Uploads | None = None,
    room: int = 1 * MIB,
    peer_id: str = "client",
    limits: Limits | None = None,
) -> str:
    """Run a server against `script`; why the server ended."""
    ours, theirs = memory_streams(room)
    reasons: list[str] = []

    async def run() -> None:
        reasons.append(
            await serve(
                theirs,
                Shelf(file or published.open()),
                limits or Limits(),
                uploads or Uploads(),
                peer_id=peer_id,
                run_sync=inline,
            )
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await script(Client(ours, published))
    return reasons[0]


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return Published(tmp_path / "source", 4 * MIB + 5, piece_length=256 * KIB)


async def drained(client: Client) -> list[object]:
    """Everything until the stream ends."""
    found: list[object] = []
    with pytest.raises(StreamEndedError):
        while True:
            found.append(await client.next())
    return found


REQUESTS = {
    "outside": (Block(17, 0, 16 * KIB),),
    "past the end of the file": (Block(16, 0, 16 * KIB),),
    "across two pieces": (Block(0, 128 * KIB, 256 * KIB),),
    "more than may be in flight": tuple(Block(i % 16, 0, 256 * KIB) for i in range(64)) * 2,
}


@pytest.mark.parametrize("what", REQUESTS)
async def test_an_absurd_request_ends_the_stream(
    published: Published, autojump_clock: object, what: str
) -> None:
    async def script(client: Client) -> None:
        await client.greet()
        blocks = REQUESTS[what]
        for start in range(0, len(blocks), 64):
            await client.send(messages.Request(blocks[start : start + 64]))
        found = await drained(client)
        errors = [item for item in found if isinstance(item, messages.Failure)]
        assert errors and errors[0].code in (ErrorCode.PROTOCOL, ErrorCode.LIMIT)

    # A little room, so that the server cannot answer faster than it is asked.
    await against(published, script, room=64 * KIB)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("nothing", "no HELLO within 10 s"),
        ("hello only", "no OPEN within 10 s"),
        ("half a frame", "a frame took longer than 15 s"),
        ("no reading", "the peer has not read for 30 s"),
        ("idle", "nothing was asked for 300 s"),
    ],
)
async def test_a_slow_client_is_closed(
    published: Published, autojump_clock: object, what: str, reason: str
) -> None:
    async def script(client: Client) -> None:
        if what == "nothing":
            pass
        elif what == "hello only":
            await client.send(own_hello())
        else:
            await client.greet()
        if what == "half a frame":
            for byte in frames.encode(messages.Request((Block(0, 0, 16 * KIB),)))[:20]:
                with contextlib.suppress(StreamEndedError):
                    await client.link.write(bytes([byte]))
                await trio.sleep(1)
        if what == "no reading":
            await client.send(messages.Request(tuple(Block(i, 0, 256 * KIB) for i in range(16))))
            await trio.sleep(60)
            # What waits for it stays small whatever it asked for.
            assert client.stream._in.size <= 1 * MIB

    assert await against(published, script) == reason


async def test_floods_and_frames_for_the_other_side(
    published: Published, autojump_clock: object
) -> None:
    async def floods(client: Client) -> None:
        await client.greet()
        with pytest.raises(Exception):  # noqa: B017 (whatever the stream raises once reset)
            while True:
                await client.send(messages.Ping(bytes(8)))

    assert await against(published, floods) == "too many control frames"

    async def cancels(client: Client) -> None:
        await client.greet()
        with pytest.raises(Exception):  # noqa: B017
            while True:
                await client.send(messages.Cancel((Block(0, 0, 256 * KIB),)))

    assert await against(published, cancels) == "too many control frames"

    async def asks_and_cancels(client: Client) -> None:
        await client.greet()
        with pytest.raises(Exception):  # noqa: B017
            while True:
                await client.send(messages.Request((Block(1, 0, 256 * KIB),)))
                await client.send(messages.Cancel((Block(1, 0, 256 * KIB),)))

    assert await against(published, asks_and_cancels, room=64 * KIB) == "too many requests"

    async def data(client: Client) -> None:
        await client.greet()
        await client.send(messages.Data(0, 0, bytes(16 * KIB)))
        await drained(client)

    assert "not for a server" in await against(published, data)

    async def hashes(client: Client) -> None:
        await client.greet()
        await client.send(messages.HashRequest(3, 0, 2, 0))
        await drained(client)

    assert "a request for no hashes" in await against(published, hashes)


async def test_a_few_bytes_do_not_buy_a_busy_disk(
    published: Published, autojump_clock: object
) -> None:
    """Leaves are hashed anew for each piece asked about: in turn, two pieces cost a second each."""
    took = 0.0

    async def script(client: Client) -> None:
        nonlocal took
        await client.greet()
        began = trio.current_time()
        for number in range(10):
            await client.send(messages.HashRequest(0, 16 * (number % 2), 16, 0))
            assert isinstance(await client.next(), messages.Hashes)
        took = trio.current_time() - began
        again = trio.current_time()
        for _ in range(10):
            await client.send(messages.HashRequest(0, 16, 16, 0))
            assert isinstance(await client.next(), messages.Hashes)
        assert trio.current_time() - again < 1, "what was just hashed costs nothing"
        await client.send(messages.Bye())

    await against(published, script, limits=Limits(leaf_bytes_per_s=256 * KIB))
    assert 8 <= took <= 11


@pytest.mark.parametrize("reads_after", [0.5, 5.0])
async def test_the_last_word_never_lands_inside_a_block(
    published: Published, autojump_clock: object, reads_after: float
) -> None:
    """A rule is broken while a block is half written: what follows would be taken for its rest."""
    found: list[object] = []

    async def script(client: Client) -> None:
        await client.greet()
        await client.send(messages.Request((Block(1, 0, 256 * KIB),)))
        await trio.sleep(0.1)
        await client.send(messages.Unchoke(1))
        await trio.sleep(reads_after)
        with pytest.raises(
            StreamEndedError, match="inside a block" if reads_after > 1 else "between"
        ):
            while True:
                found.append(await client.next())

    assert "not for a server" in await against(published, script, room=100_000)
    if reads_after < 1:
        data, error = found
        assert data == (Block(1, 0, 256 * KIB), published.piece(1))
        assert isinstance(error, messages.Failure) and error.code == ErrorCode.PROTOCOL
    else:
        # Nobody waits longer than a second for it.
        assert not found


async def test_an_unknown_root_or_shape_is_refused(
    published: Published, autojump_clock: object
) -> None:
    for change in ({"root": bytes(32)}, {"size": 4 * MIB}, {"piece_log2": 19}):

        async def script(client: Client, change: dict[str, object] = change) -> None:
            answer = await client.greet(**change)
            assert isinstance(answer, messages.Failure)
            assert answer.code == ErrorCode.UNKNOWN_FILE

        await against(published, script)


async def test_cancelled_and_choked_requests_are_answered(
    published: Published, autojump_clock: object
) -> None:
    uploads = Uploads(slots=1)
    blocks = tuple(Block(piece, 0, 256 * KIB) for piece in range(8))

    async def first(client: Client) -> None:
        await client.greet()
        await client.send(messages.Request(blocks))
        await client.send(messages.Cancel(blocks))
        answered: set[Block] = set()
        while len(answered) < len(blocks):
            found = await client.next()
            if isinstance(found, messages.Reject):
                assert all(why == Why.CANCELLED for _, why in found.blocks)
                answered |= {block for block, _ in found.blocks}
            else:
                assert isinstance(found, tuple)
                answered.add(found[0])
        assert answered == set(blocks)
        # Its slot is idle now: the other one has to wait until it is over.

        async def second(other: Client) -> None:
            await other.greet()
            await other.send(messages.Request(blocks[:2]))
            assert isinstance(await other.next(), messages.Choke)
            rejected = await other.next()
            assert isinstance(rejected, messages.Reject)
            assert {why for _, why in rejected.blocks} == {Why.CHOKED}
            # Without asking again: it is told once the slot was idle for long enough.
            with trio.fail_after(4):
                assert isinstance(await other.next(), messages.Unchoke)
            await other.send(messages.Request(blocks[:2]))
            found = await other.next()
            assert isinstance(found, tuple) and found[1] == published.piece(found[0].piece)
            await other.send(messages.Bye())

        await against(published, second, uploads=uploads, peer_id="other")
        assert isinstance(await client.next(), messages.Choke)
        await client.send(messages.Bye())

    assert await against(published, first, uploads=uploads) == "the peer said goodbye"
    assert uploads.active == ()


async def test_a_peer_may_open_only_so_many_streams(
    published: Published, autojump_clock: object
) -> None:
    uploads = Uploads()
    for _ in range(8):
        uploads.connect("client")

    async def script(client: Client) -> None:
        answer = await client.next()
        assert isinstance(answer, messages.Failure) and answer.code == ErrorCode.BUSY

    assert "8 transfer streams" in await against(published, script, uploads=uploads)


@pytest.mark.parametrize("what", ["flipped", "truncated", "replaced"])
async def test_a_rotten_file_is_withdrawn_and_nobody_blamed(
    published: Published, tmp_path: Path, autojump_clock: object, what: str
) -> None:
    file = published.open(checked=False)
    found = published.path.stat()
    if what == "flipped":
        # As rot does: neither size nor time of the file change.
        with published.path.open("r+b") as handle:
            handle.seek(2 * MIB)
            byte = handle.read(1)[0]
            handle.seek(2 * MIB)
            handle.write(bytes([byte ^ 1]))
        os.utime(published.path, ns=(found.st_atime_ns, found.st_mtime_ns))
    elif what == "truncated":
        os.truncate(published.path, 1 * MIB)
    else:
        with published.path.open("r+b") as handle:
            handle.write(b"other")
    good = Published(tmp_path / "good", 4 * MIB + 5, piece_length=256 * KIB)
    blamed: list[object] = []
    async with trio.open_nursery() as nursery:
        swarm = Swarm(good, tmp_path / "target", nursery)
        download = swarm.download(blamed=blamed.append)
        swarm.honest(download, "rotten", file=file)
        swarm.honest(download, "good", rate=1 * MIB)
        await download.run()
    swarm.check()
    assert swarm.corrupt
    assert "shard-0.gguf" in swarm.corrupt[0]
    assert not blamed
    rotten = next(item for item in swarm.seen[-1].sources if item.peer_id == "rotten")
    assert rotten.state == "backoff" and rotten.reason == "the file changed on disk"
