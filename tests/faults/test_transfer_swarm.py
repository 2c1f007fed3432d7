"""Twenty peers that come, go, stall and lie: everybody who stays ends with the same bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from random_swarm import RandomSwarm
from transfer_kit import MIB, Published

LONGEST_S = 900.0
"""On the mock clock. The slowest peer needs a good part of it for the others' sake, never more."""


async def one_swarm(tmp_path: Path, seed: int) -> RandomSwarm:
    published = Published(tmp_path / "source", 5 * MIB + 77, piece_length=1 * MIB, seed=seed)
    swarm = RandomSwarm(published, tmp_path / "peers", seed)
    with trio.fail_after(LONGEST_S):
        await swarm.run()
    swarm.check()
    return swarm


async def test_a_random_swarm(tmp_path: Path, autojump_clock: object) -> None:
    swarm = await one_swarm(tmp_path, 5)
    stayed = [peer for peer in swarm.peers if peer.done]
    assert len(stayed) >= 10
    # The seed is worth something: somebody left and came back, and somebody was found out.
    assert any(peer.lives == 2 for peer in stayed)
    assert any(peer.blamed for peer in stayed)
    assert any(peer.stalls for peer in swarm.peers)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 130))
async def test_more_random_swarms(tmp_path: Path, autojump_clock: object, seed: int) -> None:
    await one_swarm(tmp_path, seed)
