"""LOCAL, ONLINE, OFFLINE and the second word for why, in every case."""

from __future__ import annotations

from typing import Any

import pytest
from test_fold import STARTED, discovered, fold_all

from node import events as ev
from node.state import State


def file_found(shard_id: int = 1) -> ev.ShardFileFound:
    return ev.ShardFileFound(
        at=5.0,
        shard_id=shard_id,
        path="/s/x.gguf",
        size=10,
        layer_start=0,
        layer_end=2,
        model_name="m",
    )


def loading(progress: float = 0.4, shard_id: int = 1) -> ev.ShardLoading:
    return ev.ShardLoading(at=5.0, shard_id=shard_id, progress=progress, path="/s/x.gguf")


def loaded(shard_id: int = 1) -> ev.ShardLoaded:
    return ev.ShardLoaded(
        at=6.0,
        shard_id=shard_id,
        path="/s/x.gguf",
        size=10,
        layer_start=0,
        layer_end=2,
        model_name="m",
        seconds=1.0,
    )


def unloaded(shard_id: int = 1) -> ev.ShardUnloaded:
    return ev.ShardUnloaded(at=7.0, shard_id=shard_id, reason="x")


def load_failed(shard_id: int = 1) -> ev.ShardLoadFailed:
    return ev.ShardLoadFailed(at=6.0, shard_id=shard_id, sentence="Bad.", next_step="Mend.")


def missing(shard_id: int = 1) -> ev.ShardFileMissing:
    return ev.ShardFileMissing(
        at=5.0, shard_id=shard_id, looked_in="/s", sentence="None.", next_step="Get one."
    )


def heard(peer_id: str = "p1", at: float = 6.0) -> ev.PeerHeard:
    return ev.PeerHeard(at=at, peer_id=peer_id, rtt_ms=1.0, transport="tcp")


def silent(peer_id: str = "p1", at: float = 30.0) -> ev.PeerSilent:
    return ev.PeerSilent(at=at, peer_id=peer_id, silent_s=15.0, reason="no answer")


def forgotten(peer_id: str = "p1") -> ev.ShardForgotten:
    return ev.ShardForgotten(at=7.0, shard_id=1, peer_id=peer_id, reason="expired")


def gone(peer_id: str = "p1") -> ev.PeerGone:
    return ev.PeerGone(at=8.0, peer_id=peer_id, reason="said goodbye")


def in_phase(phase: Any, progress: float = 0.0, peer_id: str = "p1") -> ev.ShardDiscovered:
    return discovered(peer_id, loaded=phase == "loaded", phase=phase, progress=progress)


WANTED = 0  # the shard STARTED wants; 1 is nobody's

CASES: dict[str, tuple[list[Any], str, str]] = {
    "nothing known": ([], "OFFLINE", "no holder"),
    "file here": ([file_found()], "OFFLINE", "file only"),
    "file elsewhere": ([in_phase("file"), heard()], "OFFLINE", "file only"),
    "loading here": ([file_found(), loading(0.4)], "OFFLINE", "loading 40 %"),
    "loading elsewhere": ([in_phase("loading", 0.55), heard()], "OFFLINE", "loading 55 %"),
    "loaded here": ([file_found(), loading(), loaded()], "LOCAL", "loaded"),
    "loaded here and elsewhere": ([loaded(), discovered(), heard()], "LOCAL", "loaded, 1 more"),
    "loaded here, silent elsewhere": (
        [loaded(), discovered(), heard(), silent()],
        "LOCAL",
        "loaded",
    ),
    "unloaded": ([loaded(), unloaded()], "OFFLINE", "file only"),
    "load failed": ([file_found(), loading(), load_failed()], "OFFLINE", "load failed"),
    "failed here, held elsewhere": ([load_failed(), discovered(), heard()], "ONLINE", "1 holder"),
    "one holder": ([discovered(), heard()], "ONLINE", "1 holder"),
    "two holders": (
        [discovered("p1"), discovered("p2"), heard("p1"), heard("p2")],
        "ONLINE",
        "2 holders",
    ),
    "one of two silent": (
        [discovered("p1"), discovered("p2"), heard("p1"), heard("p2"), silent("p1")],
        "ONLINE",
        "1 holder",
    ),
    "announced, never heard": ([discovered()], "OFFLINE", "not answering yet"),
    "silent": ([discovered(), heard(at=88.0), silent(at=100.0)], "OFFLINE", "silent 12 s"),
    "silent, the later one counts": (
        [
            *(discovered("p1"), discovered("p2"), heard("p1", 80.0), heard("p2", 95.0)),
            *(silent("p1"), silent("p2")),
        ],
        "OFFLINE",
        "silent 5 s",
    ),
    "silent and back": ([discovered(), heard(), silent(), heard(at=40.0)], "ONLINE", "1 holder"),
    "loading here while held elsewhere": (
        [loading(0.2), discovered(), heard()],
        "ONLINE",
        "loading 20 %",
    ),
    "its announcement expired": ([discovered(), heard(), forgotten()], "OFFLINE", "no holder"),
    "said goodbye": ([discovered(), heard(), forgotten(), gone()], "OFFLINE", "no holder"),
    "holder unloads": ([discovered(), heard(), in_phase("file")], "OFFLINE", "file only"),
}


@pytest.mark.parametrize("case", CASES)
def test_status_and_why(case: str) -> None:
    events, status, why = CASES[case]
    state = fold_all(events)
    assert (state.status_of(1), state.why(1, now=100.0)) == (status, why)


def test_a_wanted_shard_without_a_file_says_so() -> None:
    state = fold_all([missing(WANTED)])
    assert (state.status_of(WANTED), state.why(WANTED, 1.0)) == ("OFFLINE", "no file")
    local = state.shards[WANTED].local
    assert (local.sentence, local.next_step) == ("None.", "Get one.")


def test_a_shard_outside_the_model() -> None:
    assert State().status_of(5) == "OFFLINE"
    assert State().why(5, 1.0) == "no holder"


def test_a_later_look_at_the_folder_does_not_unload() -> None:
    state = fold_all([loaded(), file_found()])
    assert state.status_of(1) == "LOCAL"
    assert fold_all([file_found(), loading(), file_found()]).why(1, 1.0) == "loading 40 %"


def test_loading_after_a_failure_forgets_the_failure() -> None:
    state = fold_all([load_failed(), loading(), loaded()])
    assert state.shards[1].local.sentence == ""
    assert state.status_of(1) == "LOCAL"


# ---------------------------------------------------------------- complete


def test_the_own_shard_counts() -> None:
    """The system the mission grew from forgot it, and was never ready."""
    others = [
        event
        for shard in (1, 2, 3)
        for event in (discovered(f"p{shard}", shard_id=shard), heard(f"p{shard}"))
    ]
    assert fold_all(others).missing_shards == (0,)
    assert not fold_all(others).complete
    state = fold_all([*others, loaded(0)])
    assert state.complete
    assert state.missing_shards == ()
    assert fold_all([silent("p2")], state).missing_shards == (2,)


def test_alone_with_every_shard() -> None:
    assert fold_all([loaded(shard) for shard in range(4)]).complete


def test_nothing_is_complete_before_the_start() -> None:
    assert not State().complete
    assert list(State().shard_ids) == []


def test_discovered_counts_what_others_announce() -> None:
    state = fold_all(
        [loaded(0), discovered("p1"), discovered("p2"), in_phase("file", peer_id="p3")]
    )
    assert state.discovered == 1


# ---------------------------------------------------------------- peers


def test_the_note_of_a_peer_tells_what_happened_last() -> None:
    connected = ev.PeerConnected(
        at=2.0, peer_id="p1", address="a", transport="quic", direction="outbound"
    )
    second = ev.PeerConnected(
        at=3.0, peer_id="p1", address="b", transport="tcp", direction="outbound"
    )
    state = fold_all([connected, second])
    assert state.peers["p1"].transports == ("tcp", "quic")
    assert state.peers["p1"].connected_at == 2.0
    lost = ev.PeerDisconnected(at=4.0, peer_id="p1", transport="tcp", remaining=("quic",))
    state = fold_all([lost], state)
    assert (state.peers["p1"].connected, state.peers["p1"].note) == (True, "")
    lost = ev.PeerDisconnected(at=5.0, peer_id="p1", transport="quic", remaining=())
    state = fold_all([lost], state)
    assert (state.peers["p1"].connected, state.peers["p1"].note) == (False, "disconnected")


def test_pings_are_counted_and_other_words_are_not() -> None:
    spoke = ev.PeerHeard(at=7.0, peer_id="p1", rtt_ms=None, transport="tcp")
    peer = fold_all([heard(), heard(), spoke]).peers["p1"]
    assert (peer.pings, peer.rtt_ms, peer.heard_at) == (2, 1.0, 7.0)


def test_quarantine_ends_with_release() -> None:
    quarantined = ev.PeerQuarantined(at=2.0, peer_id="p1", until=9.0, reason="no answer")
    state = fold_all([heard(), quarantined])
    assert state.peers["p1"].quarantined_until == 9.0
    released = ev.PeerReleased(at=3.0, peer_id="p1")
    assert fold_all([released], state).peers["p1"].quarantined_until == 0.0


def test_bootstraps_keep_their_history_apart() -> None:
    lost = ev.BootstrapLost(at=2.0, address="/a", reason="connection refused", retry_in_s=5.0)
    back = ev.BootstrapConnected(at=3.0, address="/a", peer_id="r")
    state = fold_all([lost])
    assert not state.bootstraps["/a"].connected
    assert state.bootstraps["/a"].reason == "connection refused"
    state = fold_all([back], state)
    assert state.bootstraps["/a"].connected
    assert state.peers["r"].bootstrap


def test_the_node_itself() -> None:
    listening = ev.NodeListening(at=2.0, addresses=("/ip4/127.0.0.1/tcp/1",))
    alone = ev.NodeAlone(at=3.0, join_command="swarmtui --shard 1")
    stopping = ev.NodeStopping(at=4.0, reason="asked")
    state = fold_all([listening, alone, stopping, ev.NodeStopped(at=5.0)])
    assert state.node is not None
    assert state.node.addresses == listening.addresses
    assert state.node.join_command == alone.join_command
    assert (state.node.stopping, state.node.stopped) == ("asked", True)
    assert state.node.peer_id == STARTED.peer_id


def test_torrents_of_this_node_and_of_others() -> None:
    seeded = ev.TorrentSeeded(at=1.0, info_hash="h", filename="f", size=1, shard_id=1)
    listed = ev.TorrentListed(at=2.0, info_hash="h", filename="f", size=1, peer_id="p1")
    withdrawn = ev.TorrentWithdrawn(at=3.0, info_hash="h", filename="f", reason="deleted")
    state = fold_all([seeded, listed])
    assert (state.torrents["h"].local, state.torrents["h"].peers) == (True, ("p1",))
    state = fold_all([withdrawn], state)
    assert (state.torrents["h"].local, state.torrents["h"].peers) == (False, ("p1",))
    assert "h" not in fold_all([seeded, withdrawn]).torrents
