"""Nodes started by hand, as an operator does: what their logs say."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from swarm_processes import LOOPBACK, Member, Swarm, free_port, json_lines

pytestmark = pytest.mark.swarm

NewSwarm = Callable[[int], Swarm]
STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


def rows(member: Member) -> list[str]:
    """The log's lines without their time stamps; every line must have one."""
    lines = member.log().splitlines()
    assert all(STAMP.match(line) for line in lines), member.log()
    return [STAMP.sub("", line) for line in lines]


def in_order(wanted: list[str], lines: list[str]) -> bool:
    """Whether the wanted lines appear, in this order, with others between them."""
    rest = iter(lines)
    return all(any(line == want for line in rest) for want in wanted)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_logs_tell_of_a_join_in_the_words_of_the_mission(
    swarm: NewSwarm, order: tuple[int, int]
) -> None:
    group = swarm(2)
    port = free_port()
    common = ["--total-shards", "2", *LOOPBACK]
    rendezvous = group.launch("rendezvous", ["rendezvous", "--port", str(port), *common])
    group.open(rendezvous)

    def start(shard: int) -> Member:
        where = ["--shards-dir", str(group.shards_dir), "--threads", "1"]
        return group.launch(
            f"shard-{shard}",
            ["--shard", str(shard), "--no-ui", *common, *where],
            env={"BOOTSTRAP": f"/ip4/127.0.0.1/udp/{port}/quic-v1", "SWARMTUI_REPORT_S": "2"},
        )

    early, late = order
    first = start(early)
    group.open(first)
    first_id = first.peer_id
    group.until(
        lambda: in_order(
            [
                f"[STATUS] Shard {early}: ✗ OFFLINE → ★ LOCAL",
                "[STATUS] Discovered Shards: 0",
                "[STATUS] Shard Online Status:",
                *sorted(
                    [
                        f"[STATUS]   Shard {early}: ★ LOCAL (loaded)",
                        f"[STATUS]   Shard {late}: ✗ OFFLINE (file only)",
                    ]
                ),
                "[STATUS] Pipeline Complete: ✗ NO",
                "[STATUS] Swarm Ready: ✗ NO",
            ],
            rows(first),
        ),
        "the first node does not report that it is alone",
    )
    group.until(
        lambda: f"[DHT] ✓✓✓ ANNOUNCED SHARD {early} TO DHT ✓✓✓" in rows(first), "not announced"
    )

    joined = time.time()
    second = start(late)
    group.open(second)
    second_id = second.peer_id
    group.until(
        lambda: in_order(
            [
                f"[DHT] ✓ Discovered shard {late} from peer: {second_id}",
                "[STATUS] Discovered Shards: 0 → 1",
                f"[STATUS] Shard {late}: ✗ OFFLINE → ✓ ONLINE",
                "[SHARD_LOADED] ✓✓✓ All required shards are now LOADED - "
                "swarm ready for inference ✓✓✓",
                "[STATUS] Pipeline Complete: ✗ NO → ✓ YES",
                "[STATUS] Swarm Ready: ✗ NO → ✓ YES",
                "[STATUS] Discovered Shards: 1",
                "[STATUS] Shard Online Status:",
                *sorted(
                    [
                        f"[STATUS]   Shard {early}: ★ LOCAL (loaded)",
                        f"[STATUS]   Shard {late}: ✓ ONLINE (1 holder)",
                    ],
                    key=lambda line: line.split("Shard ")[1],
                ),
                "[STATUS] Pipeline Complete: ✓ YES",
                "[STATUS] Swarm Ready: ✓ YES",
            ],
            rows(first),
        ),
        "the first node's log does not tell of the join",
    )
    discovered = next(
        event for event in json_events(first, "ShardDiscovered") if event["peer_id"] == second_id
    )
    assert discovered["at"] - joined < 15, "the join took longer than the mission allows"

    group.until(
        lambda: (
            in_order(
                [
                    "[CONNECT] ✓✓✓ CONNECTED TO BOOTSTRAP NODE ✓✓✓",
                    f"[CONNECT]   Peer ID: {rendezvous.peer_id}",
                ],
                rows(second),
            )
            and f"[DHT] ✓✓✓ ANNOUNCED SHARD {late} TO DHT ✓✓✓" in rows(second)
        ),
        "the second node's log does not tell of its start",
    )
    # Either may have dialled; both say with whom they are connected, and over what.
    for member, other in ((first, second_id), (second, first_id)):
        connected = connections(rows(member))
        assert other in connected, rows(member)
        assert connected[other] in ("QUIC", "TCP")
    talked = {connections(rows(first))[second_id], connections(rows(second))[first_id]}
    assert talked == {"QUIC"}, "QUIC was not preferred for the first contact"


def connections(lines: list[str]) -> dict[str, str]:
    """Peer id -> transport of the first connection, from the [CONNECT] blocks."""
    found: dict[str, str] = {}
    for index, line in enumerate(lines):
        if line == "[CONNECT] ✓✓✓ CONNECTED TO PEER ✓✓✓":
            peer_id = lines[index + 1].removeprefix("[CONNECT]   Peer ID: ").split(" ")[0]
            kind = lines[index + 2].removeprefix("[CONNECT]   Transport: ")
            assert lines[index + 3].startswith("[CONNECT]   Address: /ip4/127.0.0.1/")
            found.setdefault(peer_id, kind)
    return found


def json_events(member: Member, kind: str) -> list[dict[str, object]]:
    """The events of one kind from a node's journal."""
    text = (member.settings.journal_dir / "journal.jsonl").read_text("utf-8")
    return [item for item in json_lines(text) if item.get("type") == kind]


def test_json_logs_are_one_object_per_line(swarm: NewSwarm) -> None:
    group = swarm(2)
    rendezvous = group.rendezvous()
    nodes = [
        group.node(f"n{i}", i, via=rendezvous, flags=["--log-level", "debug"]) for i in range(2)
    ]
    group.open(*nodes)
    group.until_ready(*nodes)
    for member in (*nodes, rendezvous):
        assert member.process.poll() is None
        group.stop(member)
        found = list(json_lines(member.log()))
        assert len(found) > 5
        for item in found:
            assert {"at", "level", "tag", "text"} <= item.keys()
            assert isinstance(item["at"], int | float) and isinstance(item["text"], str)
            assert item["level"] in ("debug", "info", "warning", "error")
        assert member.errors.read_text("utf-8") == ""
    texts = [str(item["text"]) for item in json_lines(nodes[0].log())]
    assert any("All required shards are now LOADED" in text for text in texts)
    kinds = {item["event"]["type"] for item in json_lines(nodes[0].log()) if "event" in item}
    assert {"NodeStarted", "ShardDiscovered", "PeerConnected", "NodeStopped"} <= kinds


def test_a_node_without_console_never_imports_a_terminal_library(swarm: NewSwarm) -> None:
    group = swarm(1)
    args = ["--shard", "0", "--total-shards", "1", "--no-ui", "--name", "bare", "--threads", "1"]
    member = group.launch(
        "bare",
        [*args, *LOOPBACK, "--shards-dir", str(group.shards_dir)],
        python=["-X", "importtime", "-m", "swarmtui"],
    )
    group.open(member)
    group.until_ready(member)
    group.stop(member)
    lines = member.errors.read_text("utf-8").splitlines()
    modules = {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}
    assert {"libp2p", "llama_cpp", "node.runtime", "swarmtui.cli"} <= modules
    # (rich comes with libp2p's HTTP client; nothing of ours asks for it.)
    console = ("textual", "swarmtui.app", "swarmtui.console", "swarmtui.panes", "swarmtui.widgets")
    assert not {name for name in modules if name.startswith(console)}
