"""Shards travel between real nodes: found, fetched from several, verified, loaded, resumed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from swarm_processes import Member, Swarm

from node import events as ev, requests as rq
from node.errors import PlainError
from node.torrent.files import info_hash

pytestmark = pytest.mark.swarm

MIB = 1 << 20
LOST_AT_MOST = (64 + 16) * MIB
"""Between two checkpoints, plus what was in flight."""
KILLS = 20
NewGroup = Callable[..., Swarm]


@pytest.fixture(scope="session")
def big_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of about 120 MB: enough for checkpoints and for two sources."""
    from node.shards.split import split_model
    from node.shards.synth import synth_model

    folder = tmp_path_factory.mktemp("big")
    synth_model(folder / "whole.gguf", layers=8, embd=768, vocab=2048, seed=3, quant="f32")
    shards = folder / "shards"
    shards.mkdir()
    split_model(folder / "whole.gguf", 2, shards)
    (folder / "whole.gguf").unlink()
    return shards


@pytest.fixture
def group(tmp_path: Path, big_model: Path) -> Any:
    """A swarm for the big model; every process ends with the test."""
    with Swarm(tmp_path, big_model, 2) as made:
        yield made


def folder_with(where: Path, model: Path, *names: str) -> Path:
    """A shards folder that holds links to these files of the model."""
    where.mkdir(parents=True, exist_ok=True)
    for name in names:
        os.link(model / name, where / name)
    return where


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ask(member: Member, name: str, timeout: float = 40.0, **params: Any) -> dict[str, Any]:
    """A request through a node's door."""
    assert member.door is not None
    return member.door.request(name, params).result(timeout)


def key_of(model: Path, name: str) -> str:
    return info_hash(name, (model / name).stat().st_size)


def seeded(member: Member, key: str) -> bool:
    item = member.state.torrents.get(key)
    return item is not None and item.local and item.phase == "seeding"


def test_an_empty_node_fetches_its_shard_from_two_seeders(
    group: Swarm, big_model: Path, tmp_path: Path
) -> None:
    key = key_of(big_model, "shard-1.gguf")
    rendezvous = group.rendezvous()
    limit = ("--max-up", "40")
    both = ("--shards-dir", str(big_model))
    first = group.node("a", 0, via=rendezvous, flags=(*both, *limit))
    second = group.node("b", 0, via=rendezvous, flags=(*both, *limit))
    group.open(first, second)
    group.until(
        lambda: all(
            item.state.torrents.get(key) is not None and item.state.torrents[key].registered_at
            for item in (first, second)
        ),
        "the seeders did not register the file",
    )
    empty = folder_with(tmp_path / "empty", big_model)
    third = group.node("c", 1, via=rendezvous, flags=("--shards-dir", str(empty)))
    group.open(third)
    group.until_status((first, "LO"), (second, "LO"), (third, "OL"))

    (finished,) = third.events(ev.TransferFinished)
    assert finished.info_hash == key
    assert finished.sources == 2
    assert digest(empty / "shard-1.gguf") == digest(big_model / "shard-1.gguf")
    assert sorted(os.listdir(empty)) == ["shard-1.gguf"]
    asked = [
        item
        for item in third.events(ev.DhtQueryFinished)
        if item.key.endswith(f"/torrent/{key}") and item.outcome == "found"
    ]
    assert {item.kind for item in asked} == {"find_providers", "get_value"}
    synced = third.events(ev.TorrentsSynced)
    assert synced and synced[0].peer_id == rendezvous.peer_id
    group.until(lambda: seeded(third, key), "what was fetched is not seeded")
    size = (big_model / "shard-1.gguf").stat().st_size
    group.until(
        lambda: (
            all(item.state.torrents[key].uploaded > 0 for item in (first, second))
            and sum(item.state.torrents[key].uploaded for item in (first, second)) >= size
        ),
        "the seeders do not show what they sent",
    )
    log = third.log()
    for words in (
        "Initiating automatic torrent synchronization",
        "available file(s) from rendezvous server",
        "Starting download for shard 1",
        f"Download initiated (info_hash: {key})",
    ):
        assert words in log, words


def test_load_shard_downloads_and_tells_the_requester(
    group: Swarm, big_model: Path, tmp_path: Path
) -> None:
    seeder = group.node("a", 0, flags=("--shards-dir", str(big_model)))
    group.open(seeder)
    group.until(lambda: bool(seeder.addresses), "the seeder does not listen")
    empty = tmp_path / "empty"
    observer = group.node("b", via=seeder, flags=("--shards-dir", str(empty)))
    group.open(observer)
    group.until(lambda: observer.peer_id in seeder.state.peers, "the nodes did not meet")
    group.until(
        lambda: seeder.state.peers[observer.peer_id].answering, "the observer does not answer"
    )

    sent = {"command": "LOAD_SHARD", "to": observer.peer_id, "params": {"shard_id": 1}}
    (answer,) = ask(seeder, rq.SEND, **sent)["answers"]
    assert answer["status"] == "success", answer
    assert answer["result"]["status"] == "downloading"
    assert answer["result"]["info_hash"] == key_of(big_model, "shard-1.gguf")
    group.until_status((seeder, "LO"), (observer, "OL"))
    group.until(
        lambda: [item.ok for item in seeder.events(ev.RemoteLoadEnded)] == [True],
        "the requester was not told how it ended",
    )
    assert digest(empty / "shard-1.gguf") == digest(big_model / "shard-1.gguf")

    (again,) = ask(seeder, rq.SEND, **sent)["answers"]
    assert again["result"]["status"] == "already_loaded"


def test_load_shard_that_nobody_has_is_answered_in_plain_words(
    group: Swarm, big_model: Path, tmp_path: Path
) -> None:
    only = folder_with(tmp_path / "only", big_model, "shard-0.gguf")
    seeder = group.node("a", 0, flags=("--shards-dir", str(only)))
    group.open(seeder)
    group.until(lambda: bool(seeder.addresses), "the seeder does not listen")
    observer = group.node("b", via=seeder, flags=("--shards-dir", str(tmp_path / "empty")))
    refusing = group.node(
        "c", via=seeder, flags=("--shards-dir", str(tmp_path / "none"), "--no-fetch")
    )
    group.open(observer, refusing)
    for member in (observer, refusing):
        group.until(
            lambda member=member: (
                member.peer_id in seeder.state.peers
                and seeder.state.peers[member.peer_id].answering
            ),
            "the nodes did not meet",
        )
    words = ((observer, "no peer offers it"), (refusing, "told not to download"))
    for member, expected in words:
        sent = {"command": "LOAD_SHARD", "to": member.peer_id, "params": {"shard_id": 1}}
        (answer,) = ask(seeder, rq.SEND, **sent)["answers"]
        assert answer["status"] == "error"
        assert expected in answer["error"], answer
        assert str(tmp_path) not in answer["error"]


def test_a_node_killed_at_random_moments_ends_byte_identical(
    group: Swarm, big_model: Path, tmp_path: Path
) -> None:
    chance = random.Random(5)
    seeder = group.node("a", 0, flags=("--shards-dir", str(big_model)))
    group.open(seeder)
    group.until(lambda: bool(seeder.addresses), "the seeder does not listen")
    empty = tmp_path / "empty"
    key = key_of(big_model, "shard-1.gguf")
    flags = ("--shards-dir", str(empty), "--max-down", "80")
    size = (big_model / "shard-1.gguf").stat().st_size
    reached = 0

    for number in range(KILLS):
        receiver = group.node("b", 1, via=seeder, flags=flags)
        group.open(receiver)
        if number % 5:
            more = chance.randrange(size)

            def there(receiver: Member = receiver, more: int = more) -> bool:
                item = receiver.state.torrents.get(key)
                return item is not None and (item.fetched >= more or item.local)

            group.until(there, "the download does not go on")
        changed = [item for item in receiver.events(ev.TransferChanged) if item.pieces_done]
        if changed and not receiver.events(ev.TransferFinished):
            lost = reached - changed[0].done
            assert lost <= LOST_AT_MOST, f"{lost / MIB:.0f} MiB were fetched again"
            reached = changed[-1].done
        if receiver.events(ev.TransferFinished):
            reached = 0
            group.stop(receiver, signal.SIGKILL)
            assert digest(empty / "shard-1.gguf") == digest(big_model / "shard-1.gguf")
            shutil.rmtree(empty)
            continue
        group.stop(receiver, signal.SIGKILL)
        group.members.remove(receiver)
        assert set(os.listdir(empty)) <= {"shard-1.gguf.part", "shard-1.gguf.part.state"}

    receiver = group.node("b", 1, via=seeder, flags=("--shards-dir", str(empty)))
    group.open(receiver)
    group.until_status((seeder, "LO"), (receiver, "OL"))
    assert digest(empty / "shard-1.gguf") == digest(big_model / "shard-1.gguf")
    assert os.listdir(empty) == ["shard-1.gguf"]


def test_when_one_seeder_is_killed_the_other_goes_on(
    group: Swarm, big_model: Path, tmp_path: Path
) -> None:
    rendezvous = group.rendezvous()
    flags = ("--shards-dir", str(big_model), "--max-up", "20")
    first = group.node("a", 0, via=rendezvous, flags=flags)
    second = group.node("b", 0, via=rendezvous, flags=flags)
    empty = tmp_path / "empty"
    third = group.node("c", 1, via=rendezvous, flags=("--shards-dir", str(empty)))
    group.open(first, second, third)
    key = key_of(big_model, "shard-1.gguf")

    def both_send() -> bool:
        item = third.state.torrents.get(key)
        return item is not None and sum(row.received > MIB for row in item.sources) == 2

    group.until(both_send, "the file does not come from both")
    group.stop(first, signal.SIGKILL)
    group.until(lambda: third.status()[1] == "LOCAL", "the other seeder did not go on")
    assert digest(empty / "shard-1.gguf") == digest(big_model / "shard-1.gguf")
    assert not third.events(ev.TransferSourceBlamed)


def test_the_folder_is_watched(group: Swarm, big_model: Path, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "own", big_model, "shard-0.gguf")
    node = group.node("a", 0, flags=("--shards-dir", str(folder)))
    group.open(node)
    zero, one = key_of(big_model, "shard-0.gguf"), key_of(big_model, "shard-1.gguf")
    group.until(lambda: seeded(node, zero), "the file of the start is not seeded")
    shutil.copy(big_model / "shard-1.gguf", folder / "shard-1.gguf")
    group.until(lambda: seeded(node, one), "a file that appears is not seeded")
    (folder / "shard-1.gguf").unlink()
    group.until(lambda: one not in node.state.torrents, "a file that vanished is still offered")
    (withdrawn,) = node.events(ev.TorrentWithdrawn)
    assert withdrawn.reason == "vanished"


def test_a_file_that_changed_is_not_offered_until_it_is_published(
    group: Swarm, big_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    path = folder / "shard-0.gguf"
    shutil.copy(big_model / "shard-0.gguf", path)
    node = group.node("a", 0, flags=("--shards-dir", str(folder)))
    group.open(node)
    key = key_of(big_model, "shard-0.gguf")
    group.until(lambda: seeded(node, key), "the file is not seeded")
    before = node.state.torrents[key].root
    with path.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(os.urandom(16))
    group.until(
        lambda: any("is not what it was" in item.sentence for item in node.events(ev.Problem)),
        "a changed file is not noticed",
    )
    assert not seeded(node, key)
    answer = ask(node, rq.PUBLISH, path=str(path))
    assert answer["root"] != before
    group.until(lambda: seeded(node, key), "the published file is not seeded")
    assert node.state.torrents[key].root == answer["root"]


def test_two_contents_under_one_name_stop_with_the_list(
    group: Swarm, big_model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(big_model / "shard-1.gguf", other / "shard-1.gguf")
    with (other / "shard-1.gguf").open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(os.urandom(16))
    first = group.node("a", 0, flags=("--shards-dir", str(big_model)))
    group.open(first)
    group.until(lambda: bool(first.addresses), "the first node does not listen")
    second = group.node("b", 1, via=first, flags=("--shards-dir", str(other)))
    group.open(second)
    key = key_of(big_model, "shard-1.gguf")
    for member in (first, second):
        group.until(lambda member=member: seeded(member, key), "the files are not seeded")
    empty = tmp_path / "empty"
    third = group.node("c", 1, via=first, flags=("--shards-dir", str(empty)))
    group.open(third)
    group.until(
        lambda: any(len(item.offers) == 2 for item in third.events(ev.TransferFailed)),
        "two contents under one name did not stop",
    )
    assert not empty.exists() or os.listdir(empty) == []
    with pytest.raises(PlainError, match="different contents"):
        ask(third, rq.GET, what="1")

    right = first.state.torrents[key].root
    assert ask(third, rq.GET, what="shard-1.gguf", root=right)["status"] == "downloading"
    group.until(lambda: third.status()[1] == "LOCAL", "the chosen content did not come")
    assert digest(empty / "shard-1.gguf") == digest(big_model / "shard-1.gguf")


def test_pause_resume_and_cancel(group: Swarm, big_model: Path, tmp_path: Path) -> None:
    seeder = group.node("a", 0, flags=("--shards-dir", str(big_model), "--max-up", "30"))
    group.open(seeder)
    group.until(lambda: bool(seeder.addresses), "the seeder does not listen")
    empty = tmp_path / "empty"
    observer = group.node("b", via=seeder, flags=("--shards-dir", str(empty)))
    group.open(observer)
    key = key_of(big_model, "shard-1.gguf")
    group.until(lambda: seeded(seeder, key), "the file is not seeded")

    def phase() -> str:
        item = observer.state.torrents.get(key)
        return item.phase if item is not None else ""

    started = ask(observer, rq.GET, what="shard-1.gguf", load=False)
    assert started == {"info_hash": key, "filename": "shard-1.gguf", "status": "downloading"}
    group.until(lambda: phase() == "transfer", "the download did not begin")
    assert ask(observer, rq.PAUSE, what=key[:12])["status"] == "paused"
    group.until(lambda: phase() == "paused", "it did not pause")
    assert ask(observer, rq.RESUME, what="1")["status"] == "downloading"
    group.until(lambda: phase() in ("transfer", "endgame"), "it did not go on")
    assert ask(observer, rq.CANCEL, what=key)["status"] == "cancelled"
    group.until(lambda: phase() == "cancelled", "it was not cancelled")
    assert os.listdir(empty) == []
    with pytest.raises(PlainError, match="not being downloaded"):
        ask(observer, rq.PAUSE, what=key)

    ask(observer, rq.GET, what=key, load=False)
    group.until(lambda: seeded(observer, key), "the second try did not come through")
    assert ask(observer, rq.GET, what=key)["status"] == "here"
    assert digest(empty / "shard-1.gguf") == digest(big_model / "shard-1.gguf")


def test_what_was_begun_goes_on_after_a_restart(
    group: Swarm, big_model: Path, tmp_path: Path
) -> None:
    seeder = group.node("a", 0, flags=("--shards-dir", str(big_model), "--max-up", "60"))
    group.open(seeder)
    group.until(lambda: bool(seeder.addresses), "the seeder does not listen")
    empty = tmp_path / "empty"
    flags = ("--shards-dir", str(empty))
    observer = group.node("b", via=seeder, flags=flags)
    group.open(observer)
    key = key_of(big_model, "shard-1.gguf")
    ask(observer, rq.GET, what="shard-1.gguf", load=False)

    def some() -> bool:
        item = observer.state.torrents.get(key)
        return item is not None and item.done > 20 * MIB

    group.until(some, "the download does not go on")
    group.stop(observer)
    group.members.remove(observer)
    observer = group.node("b", via=seeder, flags=flags)
    group.open(observer)
    group.until(lambda: seeded(observer, key), "it did not go on by itself")
    (finished,) = observer.events(ev.TransferFinished)
    assert finished.fetched < finished.size - 10 * MIB, "a polite stop keeps everything"
    assert digest(empty / "shard-1.gguf") == digest(big_model / "shard-1.gguf")


@pytest.mark.parametrize(
    "flags",
    [("--stock-transport",), ("--transport", "quic"), ("--transport", "tcp")],
    ids=["stock", "quic", "tcp"],
)
def test_files_travel_over_every_transport(
    swarm: Callable[[int], Swarm], tmp_path: Path, flags: tuple[str, ...]
) -> None:
    small = swarm(2)
    seeder = small.node("a", 0, flags=flags)
    small.open(seeder)
    small.until(lambda: bool(seeder.addresses), "the seeder does not listen")
    empty = tmp_path / "empty"
    other = small.node("b", 1, via=seeder, flags=("--shards-dir", str(empty), *flags))
    small.open(other)
    small.until_status((seeder, "LO"), (other, "OL"))
    assert digest(empty / "shard-1.gguf") == digest(small.shards_dir / "shard-1.gguf")


def test_a_lab_with_empty_nodes_reports_what_travelled(tmp_path: Path) -> None:
    from swarm_processes import run_cli

    done = run_cli(
        tmp_path,
        *("lab", "--nodes", "4", "--empty", "2", "--no-ui", "--json", "--embd", "128"),
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["ready"]
    files = [item["file"] for item in report["transfers"]]
    assert sorted(files) == ["shard-2.gguf", "shard-3.gguf"]
    for item in report["transfers"]:
        assert item["bytes"] > 0 and item["sources"] >= 1 and item["mb_per_s"] > 0
