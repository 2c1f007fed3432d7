"""Peers that hog upload slots, and honest ones that wait meanwhile; frames that are counted."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from test_transfer_clients import Client, against
from transfer_kit import (
    KIB,
    MIB,
    MemoryStream,
    Published,
    ResetError,
    Shelf,
    Swarm,
    inline,
    memory_streams,
)

from node.torrent import messages
from node.torrent.sizes import Block
from node.torrent.transfer.server import Limits, serve
from node.torrent.transfer.serving import Serving
from node.torrent.transfer.streams import StreamEndedError
from node.torrent.transfer.upload import Uploads

PIECES = 64


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return Published(tmp_path / "source", PIECES * 256 * KIB)


class Seeder:
    """One node that serves, as everybody here sees it."""

    def __init__(self, published: Published, nursery: trio.Nursery, slots: int = 8) -> None:
        self.published = published
        self.uploads = Uploads(slots)
        self.reasons: dict[str, list[str]] = {}
        self._nursery = nursery

    async def serve(self, peer_id: str, stream: MemoryStream) -> None:
        reason = await serve(
            stream,
            Shelf(self.published.open()),
            Limits(),
            self.uploads,
            peer_id=peer_id,
            run_sync=inline,
        )
        self.reasons.setdefault(peer_id, []).append(reason)

    async def client(self, peer_id: str, room: int = 64 * KIB) -> Client:
        ours, theirs = memory_streams(room)
        theirs.rate = 8 * MIB
        self._nursery.start_soon(self.serve, peer_id, theirs)
        client = Client(ours, self.published)
        assert isinstance(await client.greet(), messages.OpenOk)
        return client

    def held(self) -> Counter[str]:
        """Slots by peer."""
        return Counter(item.peer_id for item in self.uploads.active if item.granted)


Script = Callable[[Client], Awaitable[None]]


def blocks(count: int, length: int = 256 * KIB) -> tuple[Block, ...]:
    return tuple(Block(piece, 0, length) for piece in range(count))


async def never_reads(client: Client) -> None:
    await client.send(messages.Request(blocks(16)))
    await trio.sleep_forever()


async def reads_a_trickle(client: Client) -> None:
    """No window to speak of: 4 KiB a second."""
    await client.send(messages.Request(blocks(16)))
    while True:
        await client.stream.read(4 * KIB)
        await trio.sleep(1)


async def sips(client: Client) -> None:
    """As little as keeps a slot from being idle."""
    while True:
        await client.send(messages.Request(blocks(1, 16 * KIB)))
        for _ in range(2):
            with trio.move_on_after(1):
                await client.next()


async def takes_all_it_can(client: Client) -> None:
    await client.send(messages.Request(blocks(16)))
    while True:
        found = await client.next()
        if isinstance(found, tuple):
            await client.send(messages.Request((found[0],)))
        elif isinstance(found, messages.Unchoke):
            await client.send(messages.Request(blocks(16)))


async def hold(client: Client, script: Script) -> None:
    """Run `script` until the server has had enough of it."""
    with contextlib.suppress(StreamEndedError, ResetError):
        await script(client)


async def take(client: Client, count: int) -> float:
    """Fetch `count` blocks as a downloader that only goes by CHOKE and UNCHOKE does; how long
    the first one took."""
    began = trio.current_time()
    first = 0.0
    wanted = list(blocks(count))
    await client.send(messages.Request(tuple(wanted)))
    while wanted:
        found = await client.next()
        if isinstance(found, tuple):
            assert found[1] == client.published.piece(found[0].piece)
            first = first or trio.current_time() - began
            wanted.remove(found[0])
        elif isinstance(found, messages.Unchoke):
            await client.send(messages.Request(tuple(wanted)))
    return first


@pytest.mark.parametrize("script", [never_reads, reads_a_trickle, sips, takes_all_it_can])
@pytest.mark.parametrize("honest", [1, 4])
async def test_eight_streams_of_one_peer_do_not_keep_others_out(
    published: Published, autojump_clock: object, script: Script, honest: int
) -> None:
    waited: list[float] = []

    async with trio.open_nursery() as nursery:
        seeder = Seeder(published, nursery)
        for _ in range(8):
            client = await seeder.client("greedy")
            nursery.start_soon(hold, client, script)
        await trio.sleep(1)
        assert seeder.held() == {"greedy": 8}

        async def one(name: str) -> None:
            client = await seeder.client(name, 1 * MIB)
            waited.append(await take(client, 20))
            await client.send(messages.Bye())

        with trio.fail_after(30):
            async with trio.open_nursery() as others:
                for number in range(honest):
                    others.start_soon(one, f"honest {number}")
        nursery.cancel_scope.cancel()
    assert len(waited) == honest and max(waited) <= 0.5


@pytest.mark.parametrize("script", [never_reads, reads_a_trickle, takes_all_it_can])
async def test_eight_peers_that_do_not_read_lose_their_slots(
    published: Published, autojump_clock: object, script: Script
) -> None:
    """Eight names, one slot each, as many as there are: no name holds more than another."""
    async with trio.open_nursery() as nursery:
        seeder = Seeder(published, nursery)
        for number in range(8):
            client = await seeder.client(f"evil {number}")
            nursery.start_soon(hold, client, script)
        await trio.sleep(0.5)
        assert len(seeder.held()) == 8
        client = await seeder.client("honest", 1 * MIB)
        # Who takes its data keeps its turn; who does not is out after three seconds.
        most = 12.0 if script is takes_all_it_can else 5.0
        with trio.fail_after(60):
            assert await take(client, 20) <= most
        nursery.cancel_scope.cancel()


async def test_an_honest_download_beside_a_hog_is_quick(
    published: Published, tmp_path: Path, autojump_clock: object
) -> None:
    """The real downloader against the real server whose slots one peer has all taken."""
    async with trio.open_nursery() as nursery:
        seeder = Seeder(published, nursery)
        for _ in range(8):
            client = await seeder.client("greedy")
            nursery.start_soon(hold, client, never_reads)
        await trio.sleep(1)
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download()
        swarm.peer(download, "seeder", lambda stream: seeder.serve("honest", stream))
        began = trio.current_time()
        await download.run()
        assert trio.current_time() - began <= 3.0
        swarm.check()
        nursery.cancel_scope.cancel()


async def test_twelve_honest_peers_all_finish(
    published: Published, tmp_path: Path, autojump_clock: object
) -> None:
    """More peers than slots, one of them slow: turns go round, nobody is left out."""
    took: list[float] = []
    async with trio.open_nursery() as nursery:
        seeder = Seeder(published, nursery)

        async def one(number: int) -> None:
            swarm = Swarm(published, tmp_path / str(number), nursery)
            download = swarm.download()

            async def run(stream: MemoryStream) -> None:
                stream.rate = 200 * KIB if number == 0 else 1 * MIB
                await seeder.serve(f"peer {number}", stream)

            swarm.peer(download, "seeder", run)
            began = trio.current_time()
            await download.run()
            took.append(trio.current_time() - began)
            swarm.check()

        with trio.fail_after(600):
            async with trio.open_nursery() as all_of_them:
                for number in range(12):
                    all_of_them.start_soon(one, number)
    # 16 MiB at 1 MiB/s with two thirds of the time a slot, and the slow one.
    assert sorted(took)[-2] <= 60 and max(took) <= 200


# ---------------------------------------------------------------- frames that are counted


async def test_every_block_asked_for_may_be_cancelled_one_by_one(
    published: Published, autojump_clock: object
) -> None:
    async def script(client: Client) -> None:
        await client.greet()
        for _ in range(5):
            await client.send(messages.Request(blocks(PIECES)))
            for block in blocks(PIECES):
                await client.send(messages.Cancel((block,)))
            answered = 0
            while answered < PIECES:
                found = await client.next()
                answered += len(found.blocks) if isinstance(found, messages.Reject) else 1
        await client.send(messages.Bye())

    assert await against(published, script, room=64 * KIB) == "the peer said goodbye"


@pytest.mark.parametrize("seed", range(5))
async def test_an_honest_endgame_stays_far_below_the_limits(
    tmp_path: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Quick and slow sources, so that pieces are taken over and copies cancelled all the time."""
    published = Published(tmp_path / "source", 64 * MIB + 5, piece_length=1 * MIB, seed=seed)
    cancels: dict[int, list[float]] = {}
    requests: dict[int, list[float]] = {}
    count_cancel, requested = Serving._count_cancel, Serving._requested

    def cancel(self: Serving, blocks: int) -> None:
        cancels.setdefault(id(self), []).append(trio.current_time())
        before = self._control_frames._left
        count_cancel(self, blocks)
        assert self._control_frames._left == before, "a cancel that was not paid for"

    def request(self: Serving, req_id: int, asked: tuple[Block, ...]) -> None:
        requests.setdefault(id(self), []).append(trio.current_time())
        requested(self, req_id, asked)

    monkeypatch.setattr(Serving, "_count_cancel", cancel)
    monkeypatch.setattr(Serving, "_requested", request)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download()
        for number, rate in enumerate((100 * MIB, 60 * MIB, 3 * MIB, 500 * KIB, 100 * KIB)):
            swarm.honest(download, f"peer {number}", rate=rate)
        await download.run()
        swarm.check()
    assert sum(len(times) for times in cancels.values()) > 0
    most = max(_most_in_a_second(times) for times in requests.values())
    assert most <= Limits().asks_per_s / 2


def _most_in_a_second(times: list[float]) -> int:
    return max(sum(1 for other in times if at <= other < at + 1) for at in times)
