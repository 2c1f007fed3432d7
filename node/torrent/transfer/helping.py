"""Whether a download gets a process that hashes for it, and for how long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from node.torrent.hash_helper import HashHelper, start_helper
from node.torrent.limits import MIB
from node.torrent.sizes import Layout
from node.torrent.transfer.buffers import piece_limit
from node.torrent.transfer.guarding import RunSync

HELP_FROM = 64 * MIB
"""Below this the download is over before the process is worth its start."""


@asynccontextmanager
async def helper_for(
    layout: Layout, budget: int, run_sync: RunSync
) -> AsyncIterator[HashHelper | None]:
    """A helper with room for all pieces in memory; None for a small file or where there is none."""
    helper: HashHelper | None = None
    if layout.size >= HELP_FROM:
        rooms = piece_limit(layout.piece_length, budget)
        helper = await run_sync(start_helper, rooms, layout.piece_length)
    try:
        yield helper
    finally:
        if helper is not None:
            with trio.CancelScope(shield=True):
                await run_sync(helper.close)
