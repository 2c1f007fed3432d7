"""The first peers: remembered on disk, posted on this machine; damaged files count as empty."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from multiaddr import Multiaddr

from node import events as ev
from node.errors import PlainError
from node.network import bootstrap
from node.network.bootstrap import (
    MachineBoard,
    PeerCache,
    both_transports,
    check_bootstraps,
    learn_texts,
)
from node.network.identity import Identity

ME = Identity.create().peer_id
PEER = Identity.create().peer_id
ADDRESS = "/ip4/192.0.2.9/tcp/4001"


class Table:
    """As much of the peer table as the cache and the board use."""

    def __init__(self) -> None:
        self.learnt: dict[str, list[str]] = {}
        self.sources: set[str] = set()
        self.known: list[Any] = []

    def learn(self, peer_id: str, addresses: list[Multiaddr], source: str) -> object | None:
        if peer_id == ME:
            return None
        self.learnt[peer_id] = [str(item) for item in addresses]
        self.sources.add(source)
        return object()

    def on_connected(self, listener: object) -> None:
        self.listener = listener

    def heard(self, peer_id: str, address: str = ADDRESS, heard: float = 1.0) -> None:
        self.known.append(
            SimpleNamespace(
                peer_id=peer_id, addresses=[Multiaddr(address)], heard=heard, transports=()
            )
        )


def cache(path: Path, table: Table, cluster: str = "c") -> tuple[PeerCache, list[ev.Event]]:
    told: list[ev.Event] = []
    return PeerCache(table, path, cluster, told.append), told  # type: ignore[arg-type]


# ---------------------------------------------------------------- remembered peers


def test_peers_are_remembered(tmp_path: Path) -> None:
    path = tmp_path / "node" / "peers.json"
    before = Table()
    before.heard(PEER)
    before.heard(Identity.create().peer_id, heard=0.0)  # never heard: not worth remembering
    kept, told = cache(path, before)
    kept.save()
    after = Table()
    assert cache(path, after)[0].load() == [PEER]
    assert after.learnt == {PEER: [ADDRESS]}
    assert after.sources == {"cache"}
    assert told == []
    assert not path.with_suffix(".tmp").exists()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_nothing_known_does_not_overwrite_what_was(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    path.write_text("{}")
    cache(path, Table())[0].save()
    assert path.read_text() == "{}"


def test_the_same_peers_are_not_written_again(tmp_path: Path) -> None:
    table = Table()
    table.heard(PEER)
    kept, _ = cache(tmp_path / "peers.json", table)
    kept.save()
    (tmp_path / "peers.json").unlink()
    kept.save()
    assert not (tmp_path / "peers.json").exists()
    table.heard(Identity.create().peer_id)
    kept.save()
    assert (tmp_path / "peers.json").exists()


def test_only_so_many_are_remembered(tmp_path: Path) -> None:
    table = Table()
    for number in range(200):
        table.heard(Identity.create().peer_id, heard=float(number + 1))
    latest = table.known[-1].peer_id
    kept, _ = cache(tmp_path / "peers.json", table)
    kept.save()
    found = cache(tmp_path / "peers.json", Table())[0].load()
    assert len(found) == bootstrap.MAX_REMEMBERED
    assert found[0] == latest


def test_another_cluster_remembers_others(tmp_path: Path) -> None:
    table = Table()
    table.heard(PEER)
    cache(tmp_path / "peers.json", table)[0].save()
    assert cache(tmp_path / "peers.json", Table(), "other")[0].load() == []


DAMAGED = {
    "empty": b"",
    "not JSON": b"{",
    "bytes": os.urandom(500),
    "a list": b"[]",
    "no peers": b'{"cluster":"c"}',
    "wrong types": b'{"cluster":"c","peers":[{"peer_id":5,"addresses":"x"}]}',
    "nested": b'{"cluster":"c","x":' + b"[" * 100_000,
    "too long": b'{"cluster":"c","peers":[]}' + b" " * bootstrap.MAX_FILE_BYTES,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_counts_as_empty(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "peers.json"
    path.write_bytes(DAMAGED[damage])
    assert cache(path, Table())[0].load() == []
    posted = tmp_path / "runtime" / "other" / "node.json"
    posted.parent.mkdir(parents=True)
    posted.write_bytes(DAMAGED[damage])
    assert MachineBoard(tmp_path / "runtime", "me", "c").read(Table()) == []  # type: ignore[arg-type]


def test_a_file_cut_anywhere_counts_as_empty_or_whole(tmp_path: Path) -> None:
    table = Table()
    table.heard(PEER)
    path = tmp_path / "peers.json"
    cache(path, table)[0].save()
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert cache(path, Table())[0].load() == []


@given(
    st.lists(
        st.tuples(st.text(max_size=60), st.lists(st.text(max_size=40), max_size=4)), max_size=5
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_entries_are_learnt_or_left_out(
    tmp_path: Path, entries: list[tuple[str, list[str]]]
) -> None:
    path = tmp_path / "peers.json"
    peers = [{"peer_id": name, "addresses": addresses} for name, addresses in entries]
    good = {"peer_id": PEER, "addresses": [ADDRESS, "junk"]}
    path.write_text(json.dumps({"cluster": "c", "peers": [*peers, good]}))
    table = Table()
    assert cache(path, table)[0].load()[-1] == PEER
    assert table.learnt[PEER] == [ADDRESS]


def test_a_disk_that_cannot_be_written_is_told_once_and_not_fatal(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    table = Table()
    table.heard(PEER)
    kept, told = cache(tmp_path / "file" / "peers.json", table)
    kept.save()
    assert [type(item) for item in told] == [ev.Problem]
    assert told[0].next_step  # type: ignore[attr-defined]


# ---------------------------------------------------------------- nodes of this machine


def test_nodes_of_one_cluster_on_one_machine_find_each_other(tmp_path: Path) -> None:
    one = MachineBoard(tmp_path, "one", "c")
    two = MachineBoard(tmp_path, "two", "c")
    other = MachineBoard(tmp_path, "three", "other")
    one.post(PEER, [ADDRESS])
    two.post(ME, [ADDRESS])
    other.post(Identity.create().peer_id, [ADDRESS])
    table = Table()
    assert two.read(table) == [PEER]  # type: ignore[arg-type]
    assert table.sources == {"machine"}
    # Its own file names this node itself, another one may name it too: neither is a peer.
    assert one.read(table) == []  # type: ignore[arg-type]
    one.remove()
    one.remove()
    assert two.read(Table()) == []  # type: ignore[arg-type]


def test_a_board_that_cannot_be_written_is_not_fatal(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    board = MachineBoard(tmp_path / "file", "me", "c")
    board.post(PEER, [ADDRESS])
    assert board.read(Table()) == []  # type: ignore[arg-type]
    board.remove()


# ---------------------------------------------------------------- addresses of the operator


def test_either_form_finds_a_node_on_both_transports() -> None:
    quic, tcp = "/ip4/192.0.2.1/udp/7/quic-v1", "/ip4/192.0.2.1/tcp/7"
    assert [str(a) for a in both_transports(Multiaddr(tcp), "dual")] == [tcp, quic]
    assert [str(a) for a in both_transports(Multiaddr(quic), "dual")] == [quic, tcp]
    assert [str(a) for a in both_transports(Multiaddr(quic), "tcp")] == [tcp]
    assert [str(a) for a in both_transports(Multiaddr(tcp), "quic")] == [quic]


@pytest.mark.parametrize("text", ["nonsense", f"{ADDRESS}/p2p/QmX", f"{ADDRESS}/p2p/{PEER}x"])
def test_a_bootstrap_that_is_not_understood_stops_the_start(text: str) -> None:
    with pytest.raises(PlainError) as refused:
        check_bootstraps((ADDRESS, text))
    assert refused.value.next_step
    check_bootstraps((ADDRESS, f"{ADDRESS}/p2p/{PEER}"))


@pytest.mark.parametrize(
    ("peer_id", "addresses"),
    [("nonsense", [ADDRESS]), (PEER, []), (PEER, ["junk"]), (ME, [ADDRESS])],
)
def test_unusable_peers_are_not_learnt(peer_id: str, addresses: list[str]) -> None:
    table = Table()
    assert not learn_texts(table, peer_id, addresses, "mdns")  # type: ignore[arg-type]
    assert table.learnt == {}
