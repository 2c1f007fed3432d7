"""Several sources at once: sharing, stealing, the end, sources that come and go."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from transfer_kit import KIB, MIB, Published, Swarm

from node.errors import PlainError
from node.torrent.transfer.download import CancelledError, Download
from node.torrent.transfer.progress import State, TransferProgress
from node.torrent.transfer.streams import Stream


def received(progress: TransferProgress) -> dict[str, int]:
    return {source.peer_id: source.received for source in progress.sources}


async def test_two_sources_share_the_work(tmp_path: Path, autojump_clock: object) -> None:
    published = Published(tmp_path / "source", 24 * MIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download()
        swarm.honest(download, "one", rate=2 * MIB)
        swarm.honest(download, "two", rate=2 * MIB)
        begin = trio.current_time()
        await download.run()
        took = trio.current_time() - begin
    swarm.check()
    shares = received(swarm.seen[-1])
    assert min(shares.values()) > 8 * MIB
    assert took < 0.65 * 24 / 2


async def test_a_slow_source_does_not_hold_the_end(tmp_path: Path, autojump_clock: object) -> None:
    published = Published(tmp_path / "source", 24 * MIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download()
        swarm.honest(download, "fast", rate=4 * MIB)
        swarm.honest(download, "slow", rate=100 * KIB)
        begin = trio.current_time()
        await download.run()
        took = trio.current_time() - begin
    swarm.check()
    assert took < 1.25 * 24 / 4
    assert swarm.seen[-1].wasted <= 3 * MIB


async def test_a_source_that_freezes_is_replaced(tmp_path: Path, autojump_clock: object) -> None:
    published = Published(tmp_path / "source", 24 * MIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download()
        swarm.honest(download, "good", rate=2 * MIB)

        async def freeze(stream: object) -> None:
            from transfer_kit import MemoryStream, Shelf, inline

            from node.torrent.transfer.server import Limits, serve
            from node.torrent.transfer.upload import Uploads

            assert isinstance(stream, MemoryStream)
            stream.rate = 2 * MIB
            with trio.move_on_after(3):
                await serve(stream, Shelf(published.open()), Limits(), Uploads(), run_sync=inline)
            # Cancelled, the server resets; this one only falls silent.

        async def silent(stream: object) -> None:
            from transfer_kit import MemoryStream

            assert isinstance(stream, MemoryStream)
            keep = stream.reset

            async def nothing() -> None:
                return

            stream.reset = nothing  # type: ignore[method-assign]
            await freeze(stream)
            await trio.sleep(120)
            await keep()

        swarm.peer(download, "freezes", silent)
        begin = trio.current_time()
        await download.run()
        took = trio.current_time() - begin
        nursery.cancel_scope.cancel()
    swarm.check()
    assert took < 12


async def test_sources_may_come_late_and_go(tmp_path: Path, autojump_clock: object) -> None:
    published = Published(tmp_path / "source", 16 * MIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download()
        done = trio.Event()

        async def run() -> None:
            await download.run()
            done.set()

        nursery.start_soon(run)
        await trio.sleep(20)
        assert swarm.seen[-1].state == State.STALLED
        assert "No source is known" in swarm.seen[-1].reason
        swarm.honest(download, "one", rate=1 * MIB)
        await trio.sleep(3)
        assert swarm.seen[-1].state in (State.TRANSFER, State.ENDGAME)
        assert swarm.seen[-1].rate_down == pytest.approx(1 * MIB, rel=0.3)
        assert swarm.seen[-1].eta_s is not None
        swarm.honest(download, "two", rate=4 * MIB)
        await trio.sleep(1)
        download.remove_source("one")
        await done.wait()
    swarm.check()
    last = swarm.seen[-1]
    assert [source.peer_id for source in last.sources] == ["two"]
    assert last.fetched >= 16 * MIB


async def test_pause_asks_for_nothing_and_resume_goes_on(
    tmp_path: Path, autojump_clock: object
) -> None:
    published = Published(tmp_path / "source", 16 * MIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download()
        swarm.honest(download, "one", rate=2 * MIB)
        done = trio.Event()

        async def run() -> None:
            await download.run()
            done.set()

        nursery.start_soon(run)
        await trio.sleep(3)
        download.pause()
        await trio.sleep(3)
        before = download.snapshot
        assert before.state == State.PAUSED
        await trio.sleep(100)
        assert download.snapshot.fetched == before.fetched
        assert not done.is_set()
        download.resume()
        await trio.sleep(1)
        assert download.snapshot.state == State.TRANSFER
        await done.wait()
    swarm.check()


@pytest.mark.parametrize("discard", [True, False])
async def test_cancel(tmp_path: Path, autojump_clock: object, discard: bool) -> None:
    published = Published(tmp_path / "source", 16 * MIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download()
        swarm.honest(download, "one", rate=2 * MIB)

        async def run() -> None:
            with pytest.raises(CancelledError):
                await download.run()

        nursery.start_soon(run)
        await trio.sleep(4)
        download.cancel(discard=discard)
    assert swarm.seen[-1].state == State.CANCELLED
    assert (list(swarm.target.iterdir()) == []) is discard
    if discard:
        return
    async with trio.open_nursery() as nursery:
        again = Swarm(published, tmp_path / "target", nursery)
        download = again.download()
        again.honest(download, "one")
        await download.run()
    again.check()
    # What was there before is not fetched again, nor is the piece layer.
    assert again.seen[-1].fetched <= 16 * MIB - 6 * MIB


async def test_shutdown_keeps_what_was_fetched(tmp_path: Path, autojump_clock: object) -> None:
    published = Published(tmp_path / "source", 8 * MIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download()
        swarm.honest(download, "one", rate=2 * MIB)
        with trio.move_on_after(3):
            await download.run()
        assert download.part is None
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        again = Swarm(published, tmp_path / "target", nursery)
        download = again.download()
        again.honest(download, "one")
        await download.run()
    again.check()
    assert again.seen[-1].fetched < 4 * MIB


async def test_memory_stays_within_the_budget(tmp_path: Path, autojump_clock: object) -> None:
    published = Published(tmp_path / "source", 24 * MIB, piece_length=1 * MIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        most = 0

        def look(pieces: list[int]) -> None:
            nonlocal most
            exchange = download._exchange
            assert exchange is not None
            most = max(most, exchange.in_memory)

        download = swarm.download(budget=4 * MIB, wrote=look)
        for name in ("one", "two", "three"):
            swarm.honest(download, name, rate=3 * MIB)
        await download.run()
    swarm.check()
    assert 0 < most <= 4 * MIB


async def test_max_down_holds(tmp_path: Path, autojump_clock: object) -> None:
    from node.torrent.transfer.upload import TokenBucket

    published = Published(tmp_path / "source", 8 * MIB)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download(down=TokenBucket(1 * MIB))
        swarm.honest(download, "one")
        begin = trio.current_time()
        await download.run()
        took = trio.current_time() - begin
    swarm.check()
    assert 6.5 < took < 10


async def test_a_bad_name_or_size_is_refused_at_once(tmp_path: Path) -> None:
    published = Published(tmp_path / "source", 1 * MIB)
    from dataclasses import replace

    from node.torrent.folder import RealFolder

    for change in (
        {"filename": "../evil.gguf"},
        {"filename": "evil.sh"},
        {"piece_length": 12345},
        {"size": 1 << 60},
        {"size": -1},
    ):
        with pytest.raises(PlainError):
            Download(replace(published.plan, **change), RealFolder(tmp_path))  # type: ignore[arg-type]


async def test_a_peer_that_is_back_is_asked_at_once(
    tmp_path: Path, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """After five failures the next try is minutes away; a new connection ends the wait."""
    published = Published(tmp_path / "source", 600_000)
    swarm = Swarm(published, tmp_path / "target", nursery)
    download = swarm.download()
    swarm.honest(download, "peer")
    source = download._sources["peer"]
    working, tries = source.open_stream, 0

    async def unreachable() -> Stream:
        nonlocal tries
        tries += 1
        raise OSError("not connected")

    source.open_stream = unreachable
    nursery.start_soon(download.run)
    while tries < 5:
        await trio.sleep(1.0)
    before = trio.current_time()
    source.open_stream = working
    download.retry("nobody")
    download.retry("peer")
    while download.snapshot.state != State.DONE:
        await trio.sleep(0.1)
    assert trio.current_time() - before < 5.0
    swarm.check()
