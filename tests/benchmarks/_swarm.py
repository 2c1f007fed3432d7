"""What the benchmarks of real swarms share: swarms of processes, figures, who saw what when."""

from __future__ import annotations

import math
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from node.door import Snapshot
from node.state import State
from tests.swarm.swarm_processes import Member, Swarm, make_model

BATCH = 8
READY_S = 180.0


def figures(values: Iterable[float], digits: int = 3) -> dict[str, float | int]:
    """Median, p95 (nearest rank), smallest, largest and how many."""
    ordered = sorted(values)
    if not ordered:
        return {"n": 0}
    rank = max(math.ceil(0.95 * len(ordered)) - 1, 0)
    return {
        "median": round(statistics.median(ordered), digits),
        "p95": round(ordered[rank], digits),
        "min": round(ordered[0], digits),
        "max": round(ordered[-1], digits),
        "n": len(ordered),
    }


def machine() -> dict[str, object]:
    """What the figures were taken on, and how busy it was before."""
    return {"cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 2)}


@contextmanager
def swarm_of(shards: int) -> Iterator[Swarm]:
    """An empty swarm for a synthetic model of so many shards; nothing of it stays behind."""
    folder = Path(tempfile.mkdtemp(prefix="swarmtui-bench-"))
    try:
        with Swarm(folder, make_model(folder, shards), shards) as group:
            yield group
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start_nodes(
    group: Swarm,
    rendezvous: Member,
    held: Sequence[Sequence[int]],
    *,
    transport: str,
    python: Sequence[str] = (),
    env: Callable[[int], dict[str, str]] | None = None,
) -> list[Member]:
    """Start one node per entry of `held` (its shards), a few at a time; waits for their doors."""
    nodes: list[Member] = []
    for number, shards in enumerate(held):
        nodes.append(
            group.node(
                f"n{number}",
                *shards,
                via=rendezvous,
                flags=["--transport", transport],
                env=env(number) if env else None,
                python=python,
            )
        )
        if len(nodes) % BATCH == 0 or number == len(held) - 1:
            group.open(*nodes[-BATCH:])
    return nodes


def first_time(member: Member, since: Snapshot, true: Callable[[State], bool]) -> float | None:
    """When, in unix seconds, the node's state first made `true` true after `since`.

    The events after it are folded one by one, so the time is the node's own.
    """
    assert member.door is not None
    state = since.state
    for event in member.door.events(since.version, 100_000)[0]:
        state = state.apply(event)
        if true(state):
            return event.at
    return None


def snapshot(member: Member) -> Snapshot:
    """The node's state now, to measure from."""
    assert member.door is not None
    return member.door.snapshot()


def rss_mb(member: Member) -> float:
    """Resident memory in MB (10^6 bytes)."""
    return float(psutil.Process(member.process.pid).memory_info().rss) / 1e6


def cpu_seconds(pid: int) -> float:
    """CPU time used so far, user and system."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
