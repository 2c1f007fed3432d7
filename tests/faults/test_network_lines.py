"""A file that travels over bad lines: far, unsteady, narrow, lossy, silent, cut.

Every transfer ends byte-identical, blames nobody, fetches little twice, and takes a time that
fits the line. What a delay costs in MB/s is measured by tests/benchmarks/transfer_delay.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from lined_hosts import MIB, Lined, Quality, lined, published

from node.torrent import picker
from node.torrent.limits import BLOCK_BYTES, MAX_WINDOW_BYTES
from node.torrent.transfer import standing
from node.torrent.transfer.progress import SourceProgress, State

SIZE = 32 * MIB + 4321
BLOCKS = SIZE // BLOCK_BYTES
BUSY_S = 3.0
"""What this transfer takes without any line at the worst, on a busy machine (alone: 0.4 s)."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("source"), SIZE)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("small"), 4 * MIB + 99)


def of(way: Lined, number: int) -> SourceProgress:
    peer_id = way.seeders[number].here.peer_id
    return next(item for item in way.download.snapshot.sources if item.peer_id == peer_id)


# ---------------------------------------------------------------- far away


@pytest.mark.parametrize("round_trip", [0.02, 0.05, 0.1])
async def test_a_long_way_costs_round_trips_and_not_one_for_every_block(
    source: Path, tmp_path: Path, round_trip: float
) -> None:
    async with lined(source, tmp_path / "target", Quality(delay=round_trip / 2)) as way:
        seconds = await way.run()
        assert seconds > 4 * round_trip, "the line has no delay"
        # About 13 to the first byte and 6 until the window is open. One for each block would be
        # BLOCKS of them.
        assert seconds < BUSY_S + 40 * round_trip < BUSY_S + BLOCKS * round_trip / 3
        way.check()


async def test_a_way_that_takes_now_longer_now_shorter(source: Path, tmp_path: Path) -> None:
    quality = Quality(delay=0.02, jitter=0.06)
    async with lined(source, tmp_path / "target", quality) as way:
        assert await way.run() < BUSY_S + 40 * 0.1
        way.check()


# ---------------------------------------------------------------- narrow


async def test_a_narrow_line_is_filled(small: Path, tmp_path: Path) -> None:
    """All the time goes into the bytes: nothing is asked for twice because it comes slowly."""
    rate = 1.5 * MIB
    async with lined(small, tmp_path / "target", Quality(delay=0.01, rate=rate)) as way:
        seconds = await way.run()
        assert 0.85 * way.size / rate < seconds < 1.3 * way.size / rate + 1.0
        way.check()
        assert all(state != State.STALLED for state, _ in way.states)


async def test_a_narrow_line_beside_a_wide_one_does_not_hold_the_end(
    source: Path, tmp_path: Path
) -> None:
    narrow, wide = Quality(rate=0.5 * MIB), Quality(rate=8 * MIB)
    async with lined(source, tmp_path / "target", narrow, wide) as way:
        seconds = await way.run()
        assert seconds < 1.3 * way.size / wide.rate + 1.0
        assert of(way, 0).received > MIB
        # Blocks of the slow one that the fast one brought first in the end.
        way.check(again=3 * MIB)


# ---------------------------------------------------------------- lossy


async def test_losses_cost_their_own_time_only(source: Path, tmp_path: Path) -> None:
    """What TCP sees of a loss: nothing comes, and then all of it."""
    async with lined(source, tmp_path / "target", Quality(delay=0.01, loss=0.02)) as way:
        seconds = await way.run()
        lost = way.seeders[0].line.lost
        assert lost >= 3
        assert seconds < BUSY_S + 40 * 0.02 + lost * 0.25
        way.check()


async def test_packets_that_are_lost_and_overtaken_under_quic(tmp_path: Path) -> None:
    """py-libp2p's QUIC brings 0.2 MB/s over such a line, so the file is a small one."""
    quality = Quality(delay=0.01, jitter=0.002, loss=0.02, overtaking=0.05)
    path = published(tmp_path, MIB + 99)
    async with lined(path, tmp_path / "target", quality, transport="quic") as way:
        with trio.fail_after(40):
            await way.run()
        udp = way.seeders[0].line
        assert udp.lost > 3 and udp.overtaken > 10 and udp.sent > way.size / 1500
        way.check()


# ---------------------------------------------------------------- silent


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> float:
    """One second without a block counts as a stall, instead of five."""
    for module in (picker, standing):
        monkeypatch.setattr(module, "STALL_S", 1.0)
    return 1.0


async def test_the_only_line_falls_silent_and_comes_back(
    source: Path, tmp_path: Path, soon: float
) -> None:
    async with (
        lined(source, tmp_path / "target", Quality(delay=0.005, rate=16 * MIB)) as way,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(way.run)
        line = way.seeders[0].line
        await way.until(lambda: way.done > SIZE // 4, 15)
        line.silence()
        await way.until(lambda: way.download.snapshot.state == State.STALLED, soon + 3)
        assert way.download.snapshot.reason
        await trio.sleep(soon)
        before = way.done
        line.speak()
        assert await way.until(lambda: way.done >= before + 4 * MIB, 10) < 3
        await way.until(lambda: way.seconds > 0, 20)
        assert line.opened == 1, "the connection need not have been given up"
        # What a stalled peer was asked for is free for others, so it is asked for again.
        way.check(again=MAX_WINDOW_BYTES)


async def test_when_one_line_is_silent_the_other_carries_on(
    source: Path, tmp_path: Path, soon: float
) -> None:
    qualities = [Quality(delay=0.005, rate=4 * MIB) for _ in range(2)]
    async with (
        lined(source, tmp_path / "target", *qualities) as way,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(way.run)
        line = way.seeders[0].line
        await way.until(lambda: of(way, 0).received > 2 * MIB, 15)
        line.silence()
        await way.until(lambda: of(way, 0).state == "stalled", soon + 3)
        other, silent = of(way, 1).received, of(way, 0).received
        await way.until(lambda: of(way, 1).received > other + 4 * MIB, 5)
        assert way.download.snapshot.state in (State.TRANSFER, State.ENDGAME)
        assert of(way, 0).received <= silent + MIB
        line.speak()
        await way.until(lambda: of(way, 0).received > silent + 3 * MIB, 10)
        await way.until(lambda: way.seconds > 0, 20)
        # What it had been asked for went to the other, and then came from it as well.
        way.check(again=MAX_WINDOW_BYTES)


async def test_a_silent_quic_line_comes_back(small: Path, tmp_path: Path, soon: float) -> None:
    async with (
        lined(small, tmp_path / "target", Quality(delay=0.005), transport="quic") as way,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(way.run)
        line = way.seeders[0].line
        await way.until(lambda: way.done > MIB // 4, 15)
        line.silent = True
        await way.until(lambda: way.download.snapshot.state == State.STALLED, soon + 3)
        line.silent = False
        await way.until(lambda: way.seconds > 0, 25)
        way.check(again=MAX_WINDOW_BYTES)


# ---------------------------------------------------------------- cut


async def test_a_connection_that_is_reset_again_and_again(source: Path, tmp_path: Path) -> None:
    """Each time the peer is dialled again, and what was verified stays."""
    cuts = 4
    async with (
        lined(source, tmp_path / "target", Quality(delay=0.005, rate=16 * MIB)) as way,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(way.run)
        line = way.seeders[0].line
        slowest = 0.0
        for number in range(cuts):
            due = SIZE * (number + 1) // (cuts + 2)
            await way.until(lambda due=due: way.done > due, 15)
            before = way.done
            assert line.cut() == 1
            slowest = max(
                slowest,
                await way.until(lambda before=before: way.done > before + 2 * MIB, 10),
            )
        assert slowest < 6
        await way.until(lambda: way.seconds > 0, 20)
        assert line.opened == cuts + 1
        # Of each piece that was on its way the verified blocks are gone with it.
        way.check(again=cuts * 16 * MIB)


async def test_a_seeder_that_can_be_reached_no_more_is_replaced(
    source: Path, tmp_path: Path
) -> None:
    """Its line is cut and stays silent: dials are not answered, and nobody waits for them."""
    qualities = [Quality(delay=0.005, rate=6 * MIB) for _ in range(2)]
    async with (
        lined(source, tmp_path / "target", *qualities) as way,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(way.run)
        line = way.seeders[0].line
        await way.until(lambda: of(way, 0).received > 2 * MIB, 15)
        line.silence()
        line.cut()
        before = of(way, 1).received
        assert await way.until(lambda: of(way, 1).received > before + 6 * MIB, 5) < 3
        took = await way.until(lambda: way.seconds > 0, 20)
        assert took < 1.3 * way.size / qualities[1].rate + 1.0
        assert way.download.snapshot.state == State.DONE
        way.check(again=8 * MIB)
