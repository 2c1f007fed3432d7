"""A node killed with kill -9 in a swarm of eight: when the others say OFFLINE; the DHT meanwhile.

The goals: OFFLINE within 20 s, and a p95 of 1 s for every DHT query of the survivors from the kill
until two rounds of queries later.
"""

from __future__ import annotations

import signal
import time

from node import events as ev
from node.state import State
from tests.benchmarks._swarm import figures, first_time, machine, snapshot, start_nodes, swarm_of
from tests.swarm.swarm_processes import Member, Swarm

GOAL_OFFLINE_S = 20.0
GOAL_QUERY_P95_MS = 1000.0
NODES = 8
QUERY_ROUNDS = 2


def queries(member: Member, since: float) -> list[ev.DhtQueryFinished]:
    """The DHT queries that ended after `since` (unix seconds)."""
    return [item for item in member.events(ev.DhtQueryFinished) if item.at > since]


def wait_for_queries(group: Swarm, members: list[Member], since: float, rounds: int = 1) -> float:
    """Wait until each member ended so many rounds of queries after `since`; the time then."""
    enough = rounds * (NODES + 1)
    group.until(
        lambda: all(len(queries(item, since)) >= enough for item in members), "no queries", 90.0
    )
    return time.time()


def one_kill(group: Swarm, nodes: list[Member], turn: int) -> tuple[list[float], list[float]]:
    """Seconds to OFFLINE at each survivor, and the durations of their queries in ms."""
    shard = turn % NODES
    victim = nodes[shard]
    survivors = [item for item in nodes if item is not victim]
    before = [snapshot(item) for item in survivors]
    at = time.time()
    group.stop(victim, signal.SIGKILL)

    def offline(state: State) -> bool:
        return state.status_of(shard) == "OFFLINE"

    group.until(lambda: all(offline(item.state) for item in survivors), "still ONLINE", 60.0)
    seen = [first_time(item, was, offline) for item, was in zip(survivors, before, strict=True)]
    took = [moment - at for moment in seen if moment is not None]
    assert len(took) == len(survivors)
    wait_for_queries(group, survivors, at, QUERY_ROUNDS)
    return took, [query.duration_ms for item in survivors for query in queries(item, at)]


def main(short: bool) -> dict[str, object]:
    """1 round per transport when `short`, else 5."""
    rounds = 1 if short else 5
    result: dict[str, object] = {
        "goal_offline_s": GOAL_OFFLINE_S,
        "goal_query_p95_ms": GOAL_QUERY_P95_MS,
        "nodes": NODES,
        **machine(),
    }
    good = True
    for transport in ("tcp", "dual"):
        took: list[float] = []
        after: list[float] = []
        quiet: list[float] = []
        with swarm_of(NODES) as group:
            rendezvous = group.rendezvous(0, "--transport", transport)
            nodes = start_nodes(group, rendezvous, [[i] for i in range(NODES)], transport=transport)
            group.until_ready(*nodes, timeout=120.0)
            # The first round after the start still has the start in it.
            rested = wait_for_queries(group, nodes, time.time())
            wait_for_queries(group, nodes, rested)
            quiet = [query.duration_ms for item in nodes for query in queries(item, rested)]
            for turn in range(rounds):
                times, durations = one_kill(group, nodes, turn)
                took += times
                after += durations
                shard = turn % NODES
                group.members.remove(nodes[shard])
                nodes[shard] = start_nodes_again(group, rendezvous, shard, transport)
                group.until_ready(*nodes, timeout=120.0)
        offline, spread, calm = figures(took), figures(after, 1), figures(quiet, 1)
        good = good and offline["max"] <= GOAL_OFFLINE_S and spread["p95"] <= GOAL_QUERY_P95_MS
        result[transport] = {
            "rounds": rounds,
            "to_offline_s": offline,
            "query_ms_after_kill": spread,
            "query_ms_before": calm,
            "query_p95_ratio": round(spread["p95"] / max(calm["p95"], 0.001), 2),
        }
    result["pass"] = good
    return result


def start_nodes_again(group: Swarm, rendezvous: Member, shard: int, transport: str) -> Member:
    """The killed node once more, with its identity."""
    member = group.node(f"n{shard}", shard, via=rendezvous, flags=["--transport", transport])
    group.open(member)
    return member
