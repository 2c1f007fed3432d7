"""Malicious and broken peers of each kind, alone and beside an honest one: what they achieve.

Nothing wrong reaches the disk, the transfer completes from the honest peer, and what is held
against the other one names it, and it alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from beside_evil import WrongHashes, beside, wrong
from scripted_peer import scripted
from transfer_kit import KIB, MIB, Published, Swarm, inline

from node.torrent.merkle import Tree
from node.torrent.transfer.blame import Bans, Verdict
from node.torrent.transfer.download import Download
from node.torrent.transfer.progress import State

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
    lies: list[int] = []

    class Liar(WrongHashes):
        def leaves(self, piece: int) -> Tree:
            lies.append(piece)
            return super().leaves(piece)

    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download(bans=bans, blamed=blamed.append)
        swarm.honest(download, "evil", file=wrong(published, range(0, 10_000)), rate=300 * KIB)
        swarm.honest(download, "honest", rate=600 * KIB)
        # It sends no block, so it is the one without a part in it, who is asked for the leaves.
        liar = Liar(published.path, published.hashes, checked=True)
        scripted(swarm, download, "liar", lambda peer: peer.only_wrong_leaves(liar))
        await download.run()
        nursery.cancel_scope.cancel()
    swarm.check()
    root = published.plan.root
    assert lies == [0]
    assert "leaf hashes that do not lead to the file's root" in bans.banned("liar", root)
    assert {item.peer_id for item in blamed} == {"evil"}
    assert blamed[0].leaves
    assert bans.banned("evil", root) and not bans.banned("honest", root)


# ---------------------------------------------------------------- broken rules and silence


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
