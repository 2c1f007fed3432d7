"""How a swarm comes together: through a rendezvous node, without one, over each transport."""

from __future__ import annotations

import shlex
import signal
import socket
import time
from collections.abc import Callable

import pytest
from swarm_processes import Member, Swarm, free_port

from node.requests import SEND

pytestmark = pytest.mark.swarm

NewSwarm = Callable[[int], Swarm]
ALIVE_S = 40.0


def holders(member: Member, shard: int) -> set[str]:
    """Peers with the shard loaded that answer, as `member` sees them."""
    state = member.state
    return {i.peer_id for i in state.shards[shard].holders.values() if state.holder_answers(i)}


def ask(sender: Member, peer_id: str, command: str = "GET_STATUS") -> dict[str, object]:
    """Send a command through a node's door; the one answer."""
    assert sender.door is not None
    body = {"command": command, "to": peer_id, "params": {}}
    answers = sender.door.request(SEND, body).result(ALIVE_S)["answers"]
    assert len(answers) == 1
    return dict(answers[0])


def test_every_node_sees_every_shard_and_replicas_stand_side_by_side(swarm: NewSwarm) -> None:
    group = swarm(2)
    rendezvous = group.rendezvous()
    first, second, third = (
        group.node("a", 0, via=rendezvous),
        group.node("b", 1, via=rendezvous),
        group.node("c", 1, via=rendezvous),
    )
    everyone = (rendezvous, first, second, third)
    group.open(first, second, third)
    group.until_status((rendezvous, "OO"), (first, "LO"), (second, "OL"), (third, "OL"))

    both = {second.peer_id, third.peer_id}
    group.until(lambda: holders(first, 1) == both, "the first node does not list both replicas")
    group.until(lambda: holders(rendezvous, 1) == both, "the rendezvous node does not list both")
    group.until(lambda: holders(second, 1) == {third.peer_id}, "a replica does not see the other")
    group.until(lambda: all(item.state.ready for item in everyone), "ready was not said")

    # The closed TCP connection is the proof this is about: it is opened after QUIC.
    group.until(lambda: "tcp" in first.state.peers[second.peer_id].transports, "no TCP beside QUIC")
    assert first.door is not None
    before = first.door.snapshot()
    lost, at = second.peer_id, time.time()
    group.stop(second, signal.SIGKILL)
    group.until(lambda: holders(first, 1) == {third.peer_id}, "the killed replica still answers")
    assert first.status()[1] == "ONLINE"
    # Not for a moment was the shard gone: fold the events since the kill one by one.
    state = before.state
    for event in first.door.events(before.version, 100_000)[0]:
        state = state.apply(event)
        assert state.status_of(1) == "ONLINE", f"OFFLINE after {event}"
    # The closed TCP connection and a refused redial are proof: nobody waits for the silence limit.
    assert state.peers[lost].silent_since - at < first.settings.silence_s / 2


def test_nodes_go_on_without_the_rendezvous_node_and_join_by_memory(swarm: NewSwarm) -> None:
    group = swarm(4)
    port = free_port()
    rendezvous = group.rendezvous(port)
    quick = {"SWARMTUI_REDIAL_S": "1"}
    nodes = [group.node(f"n{i}", i, via=rendezvous, env=quick) for i in range(4)]
    fifth = group.node("fifth", 0, via=rendezvous, env=quick)
    group.open(*nodes, fifth)
    group.until_ready(*nodes, fifth)
    known = [item.peer_id for item in nodes]
    group.until(
        lambda: sum(peer.connected for peer in fifth.state.peers.values()) >= 2,
        "the fifth node has no peer to remember but the rendezvous node",
    )
    fifth_id, via = fifth.peer_id, rendezvous.addresses
    group.stop(fifth)
    group.stop(rendezvous, signal.SIGKILL)
    group.until(
        lambda: not any(b.connected for n in nodes for b in n.state.bootstraps.values()),
        "a node thinks that the killed rendezvous node is still there",
    )

    for sender, target in zip(nodes, [*known[1:], known[0]], strict=True):
        answer = ask(sender, target)
        assert answer["status"] == "success", answer
    group.until_status(*zip(nodes, ("LOOO", "OLOO", "OOLO", "OOOL"), strict=True))

    again = group.node("fifth", 0, via=via, env=quick)
    group.open(again)
    assert again.peer_id == fifth_id, "the identity was not kept"
    group.until_ready(again)
    assert not any(item.connected for item in again.state.bootstraps.values())
    group.until(
        lambda: all(fifth_id in holders(item, 0) for item in nodes),
        "the fifth node is not ONLINE everywhere",
    )

    back = group.rendezvous(port)
    assert back.addresses == via
    for item in [*nodes, again]:
        group.until(
            lambda item=item: all(b.connected for b in item.state.bootstraps.values()),  # type: ignore[misc]
            f"{item.name} did not find the rendezvous node that returned",
            timeout=ALIVE_S,
        )
    group.until_ready(back)


def test_a_node_alone_says_so_and_its_join_command_works_word_for_word(swarm: NewSwarm) -> None:
    group = swarm(2)
    alone = group.node("alone", 0, log="text")
    group.open(alone)
    group.until(
        lambda: bool(alone.state.node and alone.state.node.join_command), "no join command came"
    )
    assert alone.state.node is not None
    command = alone.state.node.join_command
    assert command.startswith("swarmtui --shard 1 ")
    group.until(lambda: "swarm of one" in alone.log(), "the log does not say that it is alone")
    assert f"The next node joins with: {command}" in alone.log()
    assert alone.status() == {0: "LOCAL", 1: "OFFLINE"}

    words = shlex.split(command)
    assert words[0] == "swarmtui"
    joining = group.launch(
        "shard-1",
        [*words[1:], "--no-ui"],
        env={
            "SWARMTUI_SHARDS_DIR": str(group.shards_dir),
            "SWARMTUI_LISTEN": "127.0.0.1",
            "SWARMTUI_MDNS": "false",
        },
    )
    group.open(joining)
    group.until_status((alone, "LO"), (joining, "OL"))


def test_two_nodes_of_one_machine_find_each_other_without_any_address(swarm: NewSwarm) -> None:
    group = swarm(2)
    home = group.folder / "home"
    first = group.node("left", 0, home=home)
    second = group.node("right", 1, home=home)
    group.open(first, second)
    group.until_status((first, "LO"), (second, "OL"))
    assert not first.state.bootstraps and not second.state.bootstraps
    assert {first.state.peers[second.peer_id].source, second.state.peers[first.peer_id].source} & {
        "machine"
    }


@pytest.mark.parametrize("named", [True, False])
def test_where_udp_is_swallowed_a_dual_node_still_joins_at_once(
    swarm: NewSwarm, named: bool
) -> None:
    group = swarm(1)
    port = free_port()
    rendezvous = group.rendezvous(port, "--transport", "tcp")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", port))  # takes every datagram and answers none
        address = f"/ip4/127.0.0.1/udp/{port}/quic-v1"
        node = group.node(
            "node", 0, via=[f"{address}/p2p/{rendezvous.peer_id}" if named else address]
        )
        group.open(node)
        group.until(
            lambda: any(item.connected for item in node.state.bootstraps.values()),
            "the node did not fall back to TCP",
        )
        assert silent.recv(2048), "QUIC was not tried first"
    assert node.state.node is not None
    entry = next(iter(node.state.bootstraps.values()))
    # A stock QUIC dial waits longer than this for its answer.
    assert entry.changed_at - node.state.node.started_at < 3
    assert node.state.peers[rendezvous.peer_id].transports == ("tcp",)


def test_another_cluster_on_the_machine_is_left_alone(swarm: NewSwarm) -> None:
    group = swarm(2)
    home = group.folder / "home"
    first = group.node("left", 0, home=home)
    group.open(first)
    other = group.node("right", 1, home=home, flags=["--cluster", "elsewhere"])
    group.open(other)
    # Both say that they are alone only after they looked at every place.
    group.until(
        lambda: all(bool(i.state.node and i.state.node.join_command) for i in (first, other)),
        "one of them thinks that it has company",
    )
    assert other.state.node is not None
    assert "--cluster elsewhere" in other.state.node.join_command
    assert not first.state.shards[1].holders and not other.state.shards[0].holders


@pytest.mark.parametrize("transport", ["tcp", "quic"])
def test_a_swarm_of_one_transport_becomes_ready_and_answers(
    swarm: NewSwarm, transport: str
) -> None:
    group = swarm(3)
    flags = ["--transport", transport]
    rendezvous = group.rendezvous(0, *flags)
    nodes = [group.node(f"n{i}", i, via=rendezvous, flags=flags) for i in range(3)]
    group.open(*nodes)
    group.until_ready(rendezvous, *nodes)
    for sender in nodes:
        for target in nodes:
            if sender is not target:
                answer = ask(sender, target.peer_id)
                assert answer["status"] == "success", (sender.name, target.name, answer)
    peers = [peer for item in nodes for peer in item.state.peers.values()]
    assert {kind for peer in peers for kind in peer.transports} == {transport}


def test_a_dual_node_is_reached_by_tcp_only_and_by_quic_only_nodes(swarm: NewSwarm) -> None:
    group = swarm(3)
    dual = group.node("dual", 0)
    group.open(dual)
    group.until(lambda: bool(dual.addresses), "the dual node does not listen")
    tcp = group.node("tcp", 1, via=dual, flags=["--transport", "tcp"])
    quic = group.node("quic", 2, via=dual, flags=["--transport", "quic"])
    group.open(tcp, quic)
    group.until_status((dual, "LOO"))
    group.until(
        lambda: tcp.status()[0] == quic.status()[0] == "ONLINE", "the dual node is not seen by both"
    )
    assert dual.state.peers[tcp.peer_id].transports == ("tcp",)
    assert dual.state.peers[quic.peer_id].transports == ("quic",)
    for sender in (tcp, quic):
        assert ask(sender, dual.peer_id)["status"] == "success"
        assert ask(dual, sender.peer_id)["status"] == "success"
    # The two have no transport in common: each knows of the other's shard and that it is not there.
    group.until(
        lambda: bool(tcp.state.shards[2].holders) and bool(quic.state.shards[1].holders),
        "the announcements did not get through the dual node",
    )
    assert tcp.status()[2] == quic.status()[1] == "OFFLINE"
