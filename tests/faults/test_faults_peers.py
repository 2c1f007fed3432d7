"""Peers that freeze, die and come back, as their neighbours see it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest
from swarm_processes import Member, Swarm

from node import events as ev

pytestmark = pytest.mark.swarm

OFFLINE_S = 20.0
BACK_S = 30.0
# The p95 of one second is measured in tests/benchmarks; on a busy machine this still tells.
SLOWEST_MS = 5000
NewSwarm = Callable[[], Swarm]
# The shard each victim holds, and the transport over which it is seen.
VICTIMS = {1: "tcp", 2: "quic", 3: "dual"}


def start_victim(group: Swarm, shard: int, via: Member) -> Member:
    transport = VICTIMS[shard]
    return group.node(transport, shard, via=via, flags=("--transport", transport))


def statuses(member: Member) -> dict[str, str]:
    """How a node sees the victims, by their transport."""
    return {VICTIMS[shard]: member.state.status_of(shard) for shard in VICTIMS}


def until_all(group: Swarm, watchers: list[Member], status: str, seconds: float) -> None:
    group.until(
        lambda: all(set(statuses(item).values()) == {status} for item in watchers),
        f"not everybody is {status}: {[statuses(item) for item in watchers]}",
        seconds,
    )


def test_peers_that_freeze_and_die_and_return_on_every_transport(swarm: NewSwarm) -> None:
    """Frozen or killed: OFFLINE within 20 s; awake or restarted: ONLINE as the same peer; and all
    the while no DHT operation of a survivor gets near stock's 20 s."""
    group = swarm()
    first = group.node("first", 0)
    group.open(first)
    group.until(lambda: bool(first.addresses), "the first node does not listen")
    busy = {"SWARMTUI_REQUERY_S": "2", "SWARMTUI_REPUBLISH_S": "5"}
    second = group.node("second", 0, via=first, env=busy)
    victims = [start_victim(group, shard, first) for shard in VICTIMS]
    group.open(second, *victims)
    # A node of TCP alone cannot see one of QUIC alone: only the survivors speak both.
    group.until_ready(first, second, timeout=60)
    survivors = [first, second]
    peer_ids = [item.peer_id for item in victims]

    began = time.time()
    for victim in victims:
        victim.process.send_signal(signal.SIGSTOP)
    try:
        until_all(group, survivors, "OFFLINE", OFFLINE_S)
        for shard, peer_id in zip(VICTIMS, peer_ids, strict=True):
            assert "silent" in first.state.why(shard, time.time())
            assert first.state.peers[peer_id].silent
    finally:
        for victim in victims:
            victim.process.send_signal(signal.SIGCONT)
    until_all(group, survivors, "ONLINE", BACK_S)

    for victim in victims:
        victim.process.kill()
        victim.process.wait()
    until_all(group, survivors, "OFFLINE", OFFLINE_S)
    again = [start_victim(group, shard, first) for shard in VICTIMS]
    group.open(*again)
    until_all(group, survivors, "ONLINE", BACK_S)
    group.until_ready(*survivors, timeout=BACK_S)
    assert [item.peer_id for item in again] == peer_ids
    for shard, peer_id in zip(VICTIMS, peer_ids, strict=True):
        assert set(first.state.shards[shard].holders) == {peer_id}
    for survivor in survivors:
        finished = [i for i in survivor.events(ev.DhtQueryFinished) if i.at > began]
        assert len(finished) > 10
        assert max(item.duration_ms for item in finished) < SLOWEST_MS
