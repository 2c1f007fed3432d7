"""A whole transfer from one honest source, over memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from transfer_kit import KIB, MIB, Published, Swarm

from node.torrent.transfer.progress import State


@pytest.mark.parametrize(
    "size",
    [1, 16 * KIB, 16 * KIB + 1, 256 * KIB, 256 * KIB + 1, 3 * MIB, 5 * MIB + 12345],
)
async def test_a_file_arrives(tmp_path: Path, autojump_clock: object, size: int) -> None:
    published = Published(tmp_path / "source", size)
    async with trio.open_nursery() as nursery:
        swarm = Swarm(published, tmp_path / "target", nursery)
        download = swarm.download()
        swarm.honest(download, "seeder")
        assert await download.run() == Path("shard-0.gguf")
    swarm.check()
    assert swarm.ended["seeder"] == ["the peer said goodbye"]
    states = [item.state for item in swarm.seen]
    for state in (State.LAYER, State.PREALLOC, State.SYNC, State.RENAME):
        assert state in states
    assert {State.TRANSFER, State.ENDGAME} & set(states)
    assert State.STALLED not in states
    last = swarm.seen[-1]
    assert last.state == State.DONE
    assert (last.done, last.fetched, last.wasted) == (size, size, 0)
