"""From a download's own snapshot to the events everybody sees."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from node import events as ev
from node.clean import clean
from node.torrent.transfer.progress import TransferProgress

if TYPE_CHECKING:
    from node.swarm.job import Job

MAP_CELLS = 256
MAX_SOURCES = 32


def piece_map(written: Collection[int], pieces: int) -> str:
    """At most MAP_CELLS cells over the file: '0' nothing … '8' every piece written."""
    cells = min(MAP_CELLS, pieces)
    if not cells:
        return ""
    counts = [0] * cells
    for piece in written:
        counts[piece * cells // pieces] += 1
    full = [
        ((cell + 1) * pieces - 1) // cells - (cell * pieces - 1) // cells for cell in range(cells)
    ]
    return "".join(str(count * 8 // total) for count, total in zip(counts, full, strict=True))


def looking_event(job: Job, phase: ev.TransferPhase, reason: str) -> ev.TransferChanged:
    """A job that has no transfer yet."""
    root = job.manifest.root if job.manifest is not None else job.root or ""
    return ev.TransferChanged(
        at=time.time(),
        info_hash=job.info_hash,
        filename=job.filename,
        size=job.size,
        root=root,
        phase=phase,
        reason=reason,
        shard_id=job.shard_id,
    )


def changed_event(
    job: Job, found: TransferProgress, written: Collection[int] | None
) -> ev.TransferChanged:
    """How a transfer stands. `written`: the pieces on disk, None while there is no part file."""
    sources = sorted(found.sources, key=lambda item: -item.received)[:MAX_SOURCES]
    return ev.TransferChanged(
        at=time.time(),
        info_hash=job.info_hash,
        filename=job.filename,
        size=found.size,
        root=found.root.hex(),
        phase=found.state.value,
        reason=clean(found.reason, 400),
        shard_id=job.shard_id,
        done=found.done,
        fetched=found.fetched,
        wasted=found.wasted,
        uploaded=found.uploaded,
        pieces=found.pieces,
        pieces_done=found.pieces_done,
        piece_length=found.piece_length,
        rate_down=round(found.rate_down, 1),
        rate_up=round(found.rate_up, 1),
        eta_s=None if found.eta_s is None else round(found.eta_s, 1),
        elapsed_s=round(found.elapsed_s, 3),
        sources=tuple(
            ev.SourceRow(
                peer_id=clean(item.peer_id, 128),
                state=item.state,
                reason=clean(item.reason, 300),
                have=item.have,
                rate=round(item.rate, 1),
                received=item.received,
                window=item.window,
                in_flight=item.in_flight,
                strikes=item.strikes,
            )
            for item in sources
        ),
        piece_map=piece_map(written, found.pieces) if written is not None else "",
    )


def finished_event(
    job: Job, found: TransferProgress, path: Path, seconds: float, sources: int
) -> ev.TransferFinished:
    """The file is there."""
    return ev.TransferFinished(
        at=time.time(),
        info_hash=job.info_hash,
        filename=job.filename,
        size=found.size,
        root=found.root.hex(),
        shard_id=job.shard_id,
        path=str(path),
        fetched=found.fetched,
        seconds=round(seconds, 3),
        sources=sources,
        mb_per_s=round(found.fetched / max(seconds, 1e-6) / 1e6, 1),
    )
