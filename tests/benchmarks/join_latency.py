"""A join: from a node's first connection (its shard loaded) to ONLINE at each of eight nodes.

The times are those of the nodes' own events on one machine's clock. The goal is a p95 of 1 s over
nodes and rounds; the mission allowed 15 s.
"""

from __future__ import annotations

from node import events as ev
from node.state import State
from tests.benchmarks._relay import LateDoor
from tests.benchmarks._swarm import figures, first_time, machine, snapshot, start_nodes, swarm_of
from tests.swarm.swarm_processes import Member, Swarm, free_port

GOAL_P95_S = 1.0
MISSION_S = 15.0
NODES = 8


def port_of(member: Member, part: str) -> int | None:
    """The port of the node's TCP ("tcp") or QUIC ("udp") address."""
    for address in member.addresses:
        words = address.split("/")
        if part in words:
            return int(words[words.index(part) + 1])
    return None


def one_join(
    group: Swarm, rendezvous: Member, nodes: list[Member], turn: int, transport: str
) -> tuple[list[float], float]:
    """Seconds until each node saw the newcomer's shard, and until it saw theirs."""
    shard = NODES
    with LateDoor(free_port(), port_of(rendezvous, "tcp"), port_of(rendezvous, "udp")) as late:
        newcomer = group.node(
            f"newcomer{turn}",
            shard,
            via=[f"/ip4/127.0.0.1/tcp/{late.port}"],
            flags=["--transport", transport],
            env={"SWARMTUI_REDIAL_S": "0.2"},
        )
        group.open(newcomer)
        group.until(lambda: newcomer.status()[shard] == "LOCAL", "the newcomer loads nothing")
        before = [snapshot(item) for item in nodes]
        own = snapshot(newcomer)
        late.open()
        group.until(
            lambda: all(item.state.complete for item in (newcomer, *nodes)), "no join was seen"
        )
        connected = next(e for e in newcomer.events(ev.PeerConnected))

        def online(state: State) -> bool:
            return state.status_of(shard) == "ONLINE"

        seen = [first_time(item, was, online) for item, was in zip(nodes, before, strict=True)]
        whole = first_time(newcomer, own, lambda state: state.complete)
        assert whole is not None
        took = [at - connected.at for at in seen if at is not None]
        assert len(took) == len(nodes)
        group.stop(newcomer)
        group.members.remove(newcomer)
    group.until(
        lambda: all(not item.state.shards[shard].holders for item in nodes),
        "the newcomer's leave was not seen",
    )
    return took, whole - connected.at


def main(short: bool) -> dict[str, object]:
    """3 rounds per transport when `short`, else 10."""
    rounds = 3 if short else 10
    result: dict[str, object] = {"goal_p95_s": GOAL_P95_S, "nodes": NODES, **machine()}
    good = True
    for transport in ("dual", "tcp"):
        took: list[float] = []
        slowest: list[float] = []
        whole: list[float] = []
        with swarm_of(NODES + 1) as group:
            rendezvous = group.rendezvous(0, "--transport", transport)
            nodes = start_nodes(group, rendezvous, [[i] for i in range(NODES)], transport=transport)
            group.until(
                lambda nodes=nodes: all(item.state.missing_shards == (NODES,) for item in nodes),  # type: ignore[misc]
                "the swarm did not come together",
                120.0,
            )
            for turn in range(rounds):
                times, own = one_join(group, rendezvous, nodes, turn, transport)
                took += times
                slowest.append(max(times))
                whole.append(own)
        spread = figures(took)
        good = good and spread["p95"] <= GOAL_P95_S
        result[transport] = {
            "to_online_s": spread,
            "to_online_everywhere_s": figures(slowest),
            "newcomer_sees_all_s": figures(whole),
            "ratio_to_mission": round(spread["p95"] / MISSION_S, 4),
        }
    result["pass"] = good
    return result
