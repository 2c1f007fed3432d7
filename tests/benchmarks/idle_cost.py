"""An idle node in a swarm of eight: CPU in percent of one core, and resident memory.

Seven nodes hold a shard of a small model, the eighth holds none (an observer: no model, llama.cpp
never loaded). The goals: 2 % of a core, 150 MB without a model.
"""

from __future__ import annotations

import time

from tests.benchmarks._swarm import (
    cpu_seconds,
    figures,
    machine,
    rss_mb,
    start_nodes,
    swarm_of,
)
from tests.swarm.swarm_processes import Member

GOAL_CPU_PERCENT = 2.0
GOAL_RSS_MB = 150.0
NODES = 8


def measure(members: list[Member], windows: int, window_s: float) -> dict[str, list[float]]:
    """CPU percent of each member in each window."""
    found: dict[str, list[float]] = {item.name: [] for item in members}
    for _ in range(windows):
        begun = time.monotonic()
        before = {item.name: cpu_seconds(item.process.pid) for item in members}
        time.sleep(window_s)  # the window itself is what is measured
        span = time.monotonic() - begun
        for item in members:
            used = cpu_seconds(item.process.pid) - before[item.name]
            found[item.name].append(used / span * 100)
    return found


def main(short: bool) -> dict[str, object]:
    """3 windows of 5 s when `short`, else 6 of 30 s."""
    windows, window_s = (3, 5.0) if short else (6, 30.0)
    result: dict[str, object] = {
        "goal_cpu_percent": GOAL_CPU_PERCENT,
        "goal_rss_mb": GOAL_RSS_MB,
        "windows": windows,
        "window_s": window_s,
        **machine(),
    }
    good = True
    for transport in ("dual", "tcp"):
        with swarm_of(NODES - 1) as group:
            rendezvous = group.rendezvous(0, "--transport", transport)
            held: list[list[int]] = [*([i] for i in range(NODES - 1)), []]
            nodes = start_nodes(group, rendezvous, held, transport=transport)
            group.until_ready(*nodes, timeout=120.0)
            for item in (rendezvous, *nodes):
                # A reader at the door is work of its own.
                assert item.door is not None
                item.door.close()
                item.door = None
            time.sleep(5 if short else 20)  # joining is over, and not what is measured
            cpu = measure([rendezvous, *nodes], windows, window_s)
            observer = nodes[-1]
            holders = [value for item in nodes[:-1] for value in cpu[item.name]]
            spread = figures([*holders, *cpu[observer.name]], 2)
            bare = round(rss_mb(observer), 1)
            result[transport] = {
                "cpu_percent": spread,
                "cpu_percent_with_model": figures(holders, 2),
                "cpu_percent_observer": figures(cpu[observer.name], 2),
                "cpu_percent_rendezvous": figures(cpu[rendezvous.name], 2),
                "rss_mb_observer": bare,
                "rss_mb_with_model": figures([rss_mb(item) for item in nodes[:-1]], 1),
                "rss_mb_rendezvous": round(rss_mb(rendezvous), 1),
            }
            good = good and spread["median"] <= GOAL_CPU_PERCENT and bare <= GOAL_RSS_MB
    result["pass"] = good
    return result
