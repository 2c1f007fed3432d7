"""32 nodes against 8: do both become ready, and what does each node send in a quiet minute?

Both swarms hold the same shards, so that only the number of nodes differs. Two counts:
`calls` are the node's own questions (pings, DHT calls, commands) from its journal; `writes` are
all writes to TCP connections and all QUIC datagrams, so also the answers, gossip and the handshakes
of connections that are still being made. The goal: from 8 to 32 nodes the calls grow at most like
the logarithm.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

from node import events as ev
from node.journal import read
from tests.benchmarks._swarm import (
    READY_S,
    cpu_seconds,
    figures,
    machine,
    rss_mb,
    start_nodes,
    swarm_of,
)
from tests.swarm.swarm_processes import Member, Swarm

COUNTED = str(Path(__file__).with_name("_counted_node.py"))


def count_file(member: Member) -> Path:
    return member.home / "counts.json"


def totals(group: Swarm, members: list[Member]) -> list[dict[str, int]]:
    """What each has written so far; asked by signal, answered in a file."""
    for member in members:
        count_file(member).unlink(missing_ok=True)
        os.kill(member.process.pid, signal.SIGUSR1)
    group.until(lambda: all(count_file(item).exists() for item in members), "no counts came")
    return [json.loads(count_file(item).read_text()) for item in members]


def calls(member: Member, since: float, until: float) -> dict[str, int]:
    """The questions a node asked between two unix times, from its journal."""
    found = {"pings": 0, "dht": 0, "commands": 0}
    for path in sorted(member.settings.journal_dir.glob("journal.jsonl*")):
        for event in read(path)[1]:
            if not since <= event.at < until:
                continue
            if isinstance(event, ev.PeerHeard) and event.rtt_ms is not None:
                found["pings"] += 1
            elif isinstance(event, ev.DhtQueryFinished):
                found["dht"] += len(event.asked)
            elif isinstance(event, ev.CommandSent):
                found["commands"] += 1
    return found


def one_size(
    nodes: int, shards: int, transport: str, settle_s: float, window_s: float
) -> dict[str, Any]:
    """Start so many nodes for a model in so many shards, and count for one window."""
    with swarm_of(shards) as group:
        begun = time.monotonic()
        rendezvous = group.rendezvous(0, "--transport", transport)
        members = start_nodes(
            group,
            rendezvous,
            [[i % shards] for i in range(nodes)],
            transport=transport,
            python=[COUNTED],
            env=lambda number: {"COUNTS": str(group.folder / f"n{number}" / "counts.json")},
        )
        started = time.monotonic() - begun
        group.until_ready(*members, timeout=READY_S)
        ready = time.monotonic() - begun
        peers = [sum(p.connected for p in item.state.peers.values()) for item in members]
        for item in (rendezvous, *members):
            assert item.door is not None
            item.door.close()
            item.door = None
        time.sleep(settle_s)  # joining is over, and not what is counted
        before, since = totals(group, members), time.time()
        cpu = [cpu_seconds(item.process.pid) for item in members]
        time.sleep(window_s)  # the window itself is what is measured
        after, until = totals(group, members), time.time()
        used = [
            (cpu_seconds(item.process.pid) - was) / (until - since) * 100
            for item, was in zip(members, cpu, strict=True)
        ]
        minutes = (until - since) / 60
        asked = [calls(item, since, until) for item in members]
        pairs = list(zip(before, after, strict=True))
        return {
            "nodes": nodes,
            "all_started_s": round(started, 1),
            "ready_s": round(ready, 1),
            "connected_peers": figures(peers, 1),
            "calls_per_min": figures([sum(item.values()) / minutes for item in asked], 1),
            "pings_per_min": figures([item["pings"] / minutes for item in asked], 1),
            "dht_per_min": figures([item["dht"] / minutes for item in asked], 1),
            "writes_per_min": figures([(b["writes"] - a["writes"]) / minutes for a, b in pairs], 1),
            "kb_per_min": figures([(b["bytes"] - a["bytes"]) / minutes / 1e3 for a, b in pairs], 1),
            "cpu_percent": figures(used, 2),
            "rss_mb": figures([rss_mb(item) for item in members], 1),
        }


def main(short: bool) -> dict[str, object]:
    """4 against 8 nodes for 15 s when `short`, else 8 against 32 for two minutes."""
    small, large = (4, 8) if short else (8, 32)
    settle_s, window_s = (5.0, 15.0) if short else (60.0, 120.0)
    result: dict[str, object] = {"window_s": window_s, **machine()}
    allowed = math.log2(large) / math.log2(small)
    found = [one_size(nodes, small, "dual", settle_s, window_s) for nodes in (small, large)]
    growth = {
        name: round(found[1][name]["median"] / max(found[0][name]["median"], 0.001), 2)
        for name in ("calls_per_min", "writes_per_min", "kb_per_min", "cpu_percent")
    }
    result |= {
        f"of_{small}": found[0],
        f"of_{large}": found[1],
        "growth": growth,
        "log_ratio": round(allowed, 2),
        "pass": growth["calls_per_min"] <= allowed,
    }
    return result
