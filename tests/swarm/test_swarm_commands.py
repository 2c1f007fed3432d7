"""Commands and messages from one node to another with `swarmtui send`, seen on both sides."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from swarm_processes import Member, Swarm, run_cli

from node import events as ev

pytestmark = pytest.mark.swarm


class Trio:
    """Three nodes of a model in three shards; the third shard has nobody at first."""

    def __init__(self, group: Swarm) -> None:
        self.group = group
        self.sender = group.node("sender", 0)
        group.open(self.sender)
        group.until(lambda: bool(self.sender.addresses), "the sender does not listen")
        self.receiver = group.node("receiver", 1, via=self.sender)
        self.observer = group.node("observer", via=self.sender)
        group.open(self.receiver, self.observer)
        self.until_status("LO-", "OL-", "OO-")
        group.until(
            lambda: self.observer.peer_id in self.sender.state.peers, "the observer is not known"
        )

    def until_status(self, sender: str, receiver: str, observer: str) -> None:
        self.group.until_status(
            (self.sender, sender), (self.receiver, receiver), (self.observer, observer)
        )

    def send(self, *args: str, to: str | None = None, code: int = 0) -> list[dict[str, Any]]:
        """Run `swarmtui send ARGS --json` beside the sender; the answers."""
        target = self.receiver.peer_id if to is None else to
        done = run_cli(self.sender.home, "send", *args, "--to", target, "--json")
        assert done.returncode == code, (done.stdout, done.stderr, self.group.describe())
        answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])["answers"]
        for answer in answers:
            assert answer["duration_ms"] > 0 or answer["status"] != "success"
        return answers

    def one(self, *args: str, to: str | None = None, code: int = 0) -> dict[str, Any]:
        answers = self.send(*args, to=to, code=code)
        assert len(answers) == 1
        return answers[0]

    def until_event(
        self, member: Member, kind: type[ev.Event], what: Callable[[Any], bool]
    ) -> None:
        self.group.until(
            lambda: any(what(item) for item in member.events(kind)),
            f"{member.name} saw no such {kind.__name__}: {member.events(kind)[-5:]}",
        )

    def until_seen(self, command: str, status: str = "success") -> None:
        """Both sides tell the same: asked and answered there, sent and answered here."""
        sender, receiver = self.sender.peer_id, self.receiver.peer_id
        self.until_event(
            self.receiver,
            ev.CommandReceived,
            lambda e: e.command == command and e.peer_id == sender,
        )
        self.until_event(
            self.receiver,
            ev.CommandServed,
            lambda e: e.command == command and e.status == status,
        )
        self.until_event(
            self.sender,
            ev.CommandAnswered,
            lambda e: e.command == command and e.peer_id == receiver and e.status == status,
        )
        for member, direction in ((self.receiver, "in"), (self.sender, "out")):
            rows = [r for r in member.state.commands if r.command == command]
            assert any(r.direction == direction and r.status == status for r in rows), rows


@pytest.fixture(scope="module")
def nodes(
    tmp_path_factory: pytest.TempPathFactory, model_of: Callable[[int], Path]
) -> Iterator[Trio]:
    with Swarm(tmp_path_factory.mktemp("commands"), model_of(3), 3) as group:
        yield Trio(group)


def test_get_status_tells_what_the_other_node_sees(nodes: Trio) -> None:
    answer = nodes.one("GET_STATUS")
    assert answer["status"] == "success"
    assert answer["peer_id"] == nodes.receiver.peer_id
    result = answer["result"]
    assert result["peer_id"] == nodes.receiver.peer_id
    assert result["expected_shards"] == 3
    assert result["shards"] == [1]
    assert result["local_shard_loaded"] is True
    assert result["swarm_ready"] is False
    assert result["missing_shards"] == [2]
    assert result["shard_statuses"]["0"]["status"] == "ONLINE"
    assert result["shard_statuses"]["1"]["status"] == "LOCAL"
    assert result["shard_statuses"]["2"]["status"] == "OFFLINE"
    nodes.until_seen("GET_STATUS")


def test_the_end_of_a_peer_id_is_enough_to_name_it(nodes: Trio) -> None:
    answer = nodes.one("GET_CAPABILITIES", to=nodes.receiver.peer_id[-8:])
    assert answer["peer_id"] == nodes.receiver.peer_id
    result = answer["result"]
    assert result["shard_id"] == 1
    assert result["capabilities"]["cpu_cores"] >= 1
    assert result["layer_end"] > result["layer_start"] > 0
    nodes.until_seen("GET_CAPABILITIES")


def test_load_and_unload_change_what_everybody_sees(nodes: Trio) -> None:
    answer = nodes.one("LOAD_SHARD", "--shard", "2")
    assert answer["result"]["status"] == "loaded"
    assert answer["result"]["filename"] == "shard-2.gguf"
    nodes.until_status("LOO", "OLL", "OOO")
    nodes.until_seen("LOAD_SHARD")
    assert set(nodes.sender.state.shards[2].holders) == {nodes.receiver.peer_id}
    nodes.group.until(
        lambda: all(m.state.ready for m in (nodes.sender, nodes.receiver, nodes.observer)),
        "complete and not ready",
    )

    assert nodes.one("LOAD_SHARD", "--shard", "2")["result"]["status"] == "already_loaded"

    assert nodes.one("UNLOAD_SHARD", "--shard", "2")["result"]["status"] == "unloaded"
    nodes.until_status("LO-", "OL-", "OO-")
    nodes.until_seen("UNLOAD_SHARD")
    nodes.group.until(
        lambda: not any(m.state.ready for m in (nodes.sender, nodes.receiver, nodes.observer)),
        "incomplete and ready",
    )


def test_a_shard_that_cannot_be_loaded_is_refused_with_the_reason(nodes: Trio) -> None:
    answer = nodes.one("LOAD_SHARD", "--shard", "7", code=1)
    assert answer["status"] == "error"
    assert "There is no shard 7" in answer["error"] and "0 to 2" in answer["error"]
    answer = nodes.one("UNLOAD_SHARD", "--shard", "0", code=1)
    assert answer["status"] == "error" and "not loaded" in answer["error"]
    nodes.until_seen("UNLOAD_SHARD", "error")


def test_a_message_reaches_the_other_operator_cleaned(nodes: Trio) -> None:
    answer = nodes.one("MESSAGE", "Hello from shard 0! \x1b[31mred\x1b[0m")
    assert answer["status"] == "success"
    assert answer["result"] == {"message": "received"}
    nodes.until_event(
        nodes.receiver,
        ev.MessageReceived,
        lambda e: e.peer_id == nodes.sender.peer_id and e.text.startswith("Hello from shard 0!"),
    )
    text = nodes.receiver.events(ev.MessageReceived)[-1].text
    assert "\x1b" not in text and "red" in text
    nodes.until_event(
        nodes.sender,
        ev.CommandAnswered,
        lambda e: e.command == "MESSAGE" and e.status == "success",
    )


def test_files_are_listed_with_their_info_hashes(nodes: Trio) -> None:
    listed = nodes.one("LIST_FILES")["result"]["files"]
    assert [item["filename"] for item in listed] == [f"shard-{i}.gguf" for i in range(3)]
    folder = nodes.group.shards_dir
    assert [item["size"] for item in listed] == [
        (folder / item["filename"]).stat().st_size for item in listed
    ]
    assert all(len(item["info_hash"]) == 64 for item in listed)
    synced = nodes.one("SYNC_TORRENTS")["result"]
    assert synced["files"] == listed and synced["total_files"] == 3
    assert all(len(item["root"]) == 64 and item["manifests"] for item in listed)
    nodes.until_seen("LIST_FILES")
    nodes.until_seen("SYNC_TORRENTS")


def test_inference_says_that_it_is_not_available_yet(nodes: Trio) -> None:
    answer = nodes.one("INFERENCE", "Why is the sky blue?", code=1)
    assert answer["status"] == "error"
    assert "not available in this version" in answer["error"]
    nodes.until_seen("INFERENCE", "error")


def test_all_means_every_other_node(nodes: Trio) -> None:
    answers = nodes.send("SWARM_READY", to="all")
    assert {item["peer_id"] for item in answers} == {
        nodes.receiver.peer_id,
        nodes.observer.peer_id,
    }
    for item in answers:
        assert item["status"] == "success"
        assert item["result"]["is_complete"] is False
        assert item["result"]["missing_shards"] == [2]
    assert nodes.one("SHARD_LOADED", "--shard", "0")["result"]["updated"] is True
    assert nodes.one("SHARD_LOADED", "--shard", "1")["result"]["updated"] is False


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("FLY", "--to", "all"), "There is no command 'FLY'."),
        (("GET_STATUS", "--to", "12D3KooWnobody"), "No peer is known as '12D3KooWnobody'."),
        (("LOAD_SHARD", "--to", "all"), "LOAD_SHARD is about one shard."),
        (("MESSAGE", "--to", "all"), "The message is empty."),
    ],
)
def test_what_cannot_be_sent_is_one_plain_sentence(
    nodes: Trio, args: tuple[str, ...], sentence: str
) -> None:
    done = run_cli(nodes.sender.home, "send", *args)
    assert done.returncode == 2
    assert done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first == f"swarmtui: {sentence}"
    assert len(rest) == 1 and rest[0].startswith("  ")
