"""What the state makes of files: seeded, on their way, failed, sent, and listed by others."""

from __future__ import annotations

import sample_events as sample

from node import events as ev
from node.state import State, Torrent

KEY, ROOT = "ab" * 32, "cd" * 32
PEER, SIZE = sample.PEER, 1000


def after(*events: ev.Event) -> State:
    return sample.state_after([sample.started(), *events])


def torrent(state: State, key: str = KEY) -> Torrent:
    return state.torrents[key]


def wanted(key: str = "") -> ev.TransferWanted:
    return ev.TransferWanted(
        at=200, filename="shard-1.gguf", shard_id=1, wanted_by="plan", info_hash=key
    )


def moving(done: int, phase: str = "transfer", reason: str = "") -> ev.TransferChanged:
    return ev.TransferChanged(
        at=201,
        info_hash=KEY,
        filename="shard-1.gguf",
        size=SIZE,
        root=ROOT,
        phase=phase,  # type: ignore[arg-type]
        reason=reason,
        shard_id=1,
        done=done,
        sources=(ev.SourceRow(peer_id=PEER, state="active"),),
        piece_map="84",
    )


def finished() -> ev.TransferFinished:
    return ev.TransferFinished(
        at=202,
        info_hash=KEY,
        filename="shard-1.gguf",
        size=SIZE,
        root=ROOT,
        shard_id=1,
        path="/s/shard-1.gguf",
        fetched=SIZE,
        seconds=2.0,
        sources=2,
        mb_per_s=0.5,
    )


def failed(cancelled: bool = False, offers: tuple[str, ...] = ()) -> ev.TransferFailed:
    return ev.TransferFailed(
        at=203,
        info_hash=KEY,
        filename="shard-1.gguf",
        shard_id=1,
        sentence="It did not come.",
        next_step="Try again.",
        offers=offers,
        cancelled=cancelled,
    )


def seeded() -> ev.TorrentSeeded:
    return ev.TorrentSeeded(
        at=203, info_hash=KEY, filename="shard-1.gguf", size=SIZE, shard_id=1, root=ROOT, pieces=4
    )


def listed(peer_id: str = PEER) -> ev.TorrentListed:
    return ev.TorrentListed(
        at=150, info_hash=KEY, filename="shard-1.gguf", size=SIZE, peer_id=peer_id, root=ROOT
    )


def test_a_wanted_file_waits_under_its_name_until_its_hash_is_known() -> None:
    state = after(wanted())
    assert list(state.torrents) == ["?shard-1.gguf"]
    assert torrent(state, "?shard-1.gguf").wanted_by == "plan"
    state = after(wanted(), wanted(KEY))
    assert list(state.torrents) == [KEY]
    assert torrent(state).moving
    waiting = after(wanted(), wanted(KEY), moving(0, "waiting", "No peer offers it."))
    assert waiting.shards[1].local.phase == "none", "nothing is on its way yet"
    assert torrent(waiting).reason == "No peer offers it."


def test_a_download_shows_in_the_torrent_and_in_the_shard() -> None:
    state = after(wanted(), wanted(KEY), moving(250))
    assert (torrent(state).done, torrent(state).piece_map) == (250, "84")
    assert state.shards[1].local.phase == "downloading"
    assert state.why(1, 300.0) == "downloading 25 %"
    assert state.status_of(1) == "OFFLINE"


def test_a_finished_download_is_a_file_and_then_seeded() -> None:
    state = after(wanted(KEY), moving(900), finished())
    assert state.shards[1].local.phase == "file"
    assert torrent(state).phase == "done" and torrent(state).sources != ()
    state = after(wanted(KEY), moving(900), finished(), seeded())
    item = torrent(state)
    assert (item.phase, item.local, item.done, item.sources) == ("seeding", True, SIZE, ())
    assert (item.came_from, item.mb_per_s, item.seconds) == (2, 0.5, 2.0)


def test_a_failed_download_says_why_in_both_places() -> None:
    state = after(wanted(KEY), moving(100), failed(offers=("one", "two")))
    assert torrent(state).phase == "failed" and torrent(state).offers == ("one", "two")
    assert state.shards[1].local.phase == "failed"
    assert state.shards[1].local.sentence == "It did not come."
    state = after(wanted(KEY), moving(100), failed(cancelled=True))
    assert torrent(state).phase == "cancelled"
    assert state.shards[1].local.phase == "none"


def test_a_loaded_shard_stays_loaded_whatever_is_fetched() -> None:
    state = after(sample.loaded(shard_id=1), wanted(KEY), moving(100), failed())
    assert state.shards[1].local.phase == "loaded"


def test_who_was_blamed_is_kept_and_bounded() -> None:
    blamed = [
        ev.TransferSourceBlamed(
            at=202,
            info_hash=KEY,
            filename="shard-1.gguf",
            peer_id=PEER,
            piece=number,
            reason=f"piece {number}",
        )
        for number in range(20)
    ]
    state = after(wanted(KEY), *blamed)
    assert torrent(state).blamed == tuple(f"piece {number}" for number in range(12, 20))


def test_what_goes_out_counts() -> None:
    state = after(
        seeded(),
        ev.SeedingChanged(at=204, info_hash=KEY, uploaded=2500, rate_up=9.0, peers=(PEER,)),
    )
    assert torrent(state).ratio == 2.5
    assert torrent(state).upload_peers == (PEER,)


def test_files_of_others_come_and_go_with_them() -> None:
    state = after(listed(), listed("other"))
    assert torrent(state).peers == (PEER, "other")
    assert not torrent(state).local and not torrent(state).moving
    state = state.apply(ev.TorrentUnlisted(at=205, info_hash=KEY, peer_id="other"))
    assert torrent(state).peers == (PEER,)
    state = state.apply(ev.PeerGone(at=206, peer_id=PEER, reason="said goodbye"))
    assert state.torrents == {}


def test_a_withdrawn_file_stays_as_long_as_others_have_it() -> None:
    gone = ev.TorrentWithdrawn(at=205, info_hash=KEY, filename="shard-1.gguf", reason="vanished")
    assert after(seeded(), gone).torrents == {}
    state = after(listed(), seeded(), gone)
    assert torrent(state).peers == (PEER,) and not torrent(state).local
    assert torrent(state).phase == ""


def test_the_requester_sees_how_its_load_shard_ended() -> None:
    sent = ev.CommandSent(
        at=200, request_id="q", command="LOAD_SHARD", to=PEER, summary="shard_id=1"
    )
    answered = ev.CommandAnswered(
        at=201,
        request_id="q",
        command="LOAD_SHARD",
        peer_id=PEER,
        status="success",
        duration_ms=5,
        summary="shard_id=1 status=downloading",
    )
    ended = ev.RemoteLoadEnded(
        at=209, peer_id=PEER, shard_id=1, ok=False, sentence="shard_id=1 status=failed: full"
    )
    (row,) = after(sent, answered, ended).commands
    assert (row.status, row.summary) == ("error", "shard_id=1 status=failed: full")
    other = ev.RemoteLoadEnded(at=209, peer_id=PEER, shard_id=2, ok=False, sentence="x")
    (row,) = after(sent, answered, other).commands
    assert row.status == "success"


def test_how_far_seeding_and_syncing_have_come() -> None:
    state = after(
        ev.TorrentsScanned(at=201, files=2, primary=1, total_shards=2),
        ev.TorrentsRegistering(at=202, count=2),
        ev.TorrentsRegistered(at=203, count=2),
        ev.TorrentsSynced(at=204, peer_id=PEER, files=7, missing=()),
    )
    files = state.files
    assert (files.scanned_at, files.to_register, files.registered_at) == (201, 2, 203)
    assert (files.synced_at, files.synced_with, files.listed) == (204, PEER, 7)
