"""The log says what the mission's documents say, once, and nothing a terminal would obey."""

from __future__ import annotations

import json
import typing

import pytest
import sample_events as sample
from msgspec.structs import fields

from node import events as ev
from node.log_lines import RULE
from node.logs import (
    LogLine,
    format_json,
    format_text,
    joined,
    lines,
    status_report,
)
from node.state import State

PEER, ME = sample.PEER, sample.ME


def told(events: list[ev.Event], least: str = "info") -> list[str]:
    state, found = State(), []
    for event in events:
        after = state.apply(event)
        found += [
            f"[{line.tag}] {line.text}"
            for line in lines(event, state, after)
            if least == "debug" or line.level != "debug"
        ]
        state = after
    return found


def test_a_join_reads_as_the_mission_writes_it() -> None:
    found = told(sample.joining())
    assert found[found.index(f"[DHT] ✓ Discovered shard 1 from peer: {PEER}") :] == [
        f"[DHT] ✓ Discovered shard 1 from peer: {PEER}",
        "[STATUS] Discovered Shards: 0 → 1",
        "[CONNECT] ✓✓✓ CONNECTED TO PEER ✓✓✓",
        f"[CONNECT]   Peer ID: {PEER} (shard 1 node)",
        "[CONNECT]   Transport: QUIC",
        f"[CONNECT]   Address: {sample.ADDRESS}",
        "[STATUS] Shard 1: ✗ OFFLINE → ✓ ONLINE",
        "[SHARD_LOADED] ✓✓✓ All required shards are now LOADED - swarm ready for inference ✓✓✓",
        "[STATUS] Pipeline Complete: ✗ NO → ✓ YES",
        "[STATUS] Swarm Ready: ✗ NO → ✓ YES",
    ]
    at = found.index("[CONNECT] ✓✓✓ CONNECTED TO BOOTSTRAP NODE ✓✓✓")
    assert found[at - 1] == f"[CONNECT] {RULE}"
    assert "[STATUS] Shard 0: ✗ OFFLINE → ★ LOCAL" in found


def test_a_silent_holder_turns_its_shard_offline_with_the_reason() -> None:
    events = [
        *sample.joining(),
        ev.PeerSilent(at=121.0, peer_id=PEER, silent_s=16.0, reason="no answer to pings"),
        ev.ReadinessChanged(at=121.0, ready=False, missing=(1,)),
    ]
    assert told(events)[-4:] == [
        f"[P2P] Peer silent for 16 s: {PEER} (shard 1 node): no answer to pings",
        "[STATUS] Shard 1: ✓ ONLINE → ✗ OFFLINE (silent 16 s)",
        "[STATUS] Pipeline Complete: ✓ YES → ✗ NO",
        "[STATUS] Swarm Ready: ✓ YES → ✗ NO",
    ]


def test_an_announcement_is_news_once() -> None:
    def announced(at: float, shard_id: int) -> ev.ShardAnnounced:
        return ev.ShardAnnounced(
            at=at, shard_id=shard_id, key="k", loaded=True, sequence=1, stored_at=3
        )

    found = told([sample.started(), announced(101, 0), announced(102, 0), announced(103, 1)])
    assert [line for line in found if "ANNOUNCED" in line] == [
        "[DHT] ✓✓✓ ANNOUNCED SHARD 0 TO DHT ✓✓✓",
        "[DHT] ✓✓✓ ANNOUNCED SHARD 1 TO DHT ✓✓✓",
    ]


def test_a_found_record_is_news_once_and_numbered() -> None:
    def query(number: int) -> ev.DhtQueryFinished:
        return ev.DhtQueryFinished(
            at=110.0 + number,
            query_id=number,
            kind="get_value",
            key="/llama-cluster/llama-cluster/shard/1",
            duration_ms=4.0,
            asked=(),
            outcome="found",
            found=1,
            shard_id=1,
        )

    found = told([sample.started(), query(21), query(22)])
    assert "[DHT] [QUERY 21] ✓ Record found in DHT for shard 1" in found
    assert not any("QUERY 22" in line for line in found)
    assert any("QUERY 22" in line for line in told([sample.started(), query(22)], "debug"))


def test_commands_and_messages() -> None:
    events: list[ev.Event] = [
        sample.started(),
        ev.CommandSent(
            at=1, request_id="req-1", command="SYNC_TORRENTS", to=PEER, summary="total_shards=2"
        ),
        ev.CommandReceived(
            at=2, request_id="req-2", command="GET_STATUS", peer_id=PEER, summary=""
        ),
        ev.MessageReceived(at=3, peer_id=PEER, text="Hello from shard 0!"),
    ]
    found = told(events)
    assert f"[MSG] 📤 SENT MESSAGE TO PEER: {PEER}" in found
    assert (
        "[TORRENT_SYNC] 🔄 Initiating automatic torrent synchronization with rendezvous server..."
        in found
    )
    assert "[MSG]   Command: SYNC_TORRENTS" in found
    assert "[MSG]   Request ID: req-1" in found
    assert found.count(f"[MSG] 📥 RECEIVED MESSAGE FROM PEER: {PEER}") == 2
    assert "[MSG]   Command: GET_STATUS" in found
    assert "[MSG]   Message: Hello from shard 0!" in found


KEY = "e40aeb34da87db79" + "0" * 48


def test_auto_propagation_reads_as_the_mission_writes_it() -> None:
    events: list[ev.Event] = [
        sample.started(),
        ev.TorrentHashing(
            at=1, info_hash=KEY, filename="shard-0.gguf", size=9, shard_id=0, progress=0.5
        ),
        ev.TorrentSeeded(
            at=1, info_hash=KEY, filename="shard-0.gguf", size=9, shard_id=0, root="ab" * 32
        ),
        ev.TorrentsScanned(at=1, files=1, primary=1, total_shards=2),
        ev.RoutingUpdated(at=2, peer_id=PEER, size=1),
        ev.TorrentsRegistering(at=2, count=1),
        ev.TorrentRegistered(at=2, info_hash=KEY, filename="shard-0.gguf", stored_at=1),
        ev.TorrentsRegistered(at=2, count=1),
        ev.TorrentRegistered(at=9, info_hash=KEY, filename="shard-0.gguf", stored_at=1, again=True),
    ]
    assert told(events)[-7:] == [
        "[TORRENT] ✓ Seeding primary shard: shard-0.gguf (hash: e40aeb34da87db79...)",
        "[TORRENT] Primary shards (0-1): 1/2 seeded",
        "[TORRENT] Total files available for seeding: 1",
        f"[DHT] Routing updated: {PEER}",
        "[TORRENT] Registering 1 torrent file(s) in DHT for auto-propagation...",
        "[TORRENT] ✓ Registered torrent file in DHT: shard-0.gguf (hash: e40aeb34da87db79...)",
        "[TORRENT] ✓ All torrent files registered in DHT - auto-propagation enabled",
    ]


def _moving(at: float, phase: str, done: int = 0, reason: str = "") -> ev.TransferChanged:
    return ev.TransferChanged(
        at=at,
        info_hash=KEY,
        filename="shard-1.gguf",
        size=100 * 2**20,
        root="ab" * 32,
        phase=phase,  # type: ignore[arg-type]
        reason=reason,
        shard_id=1,
        done=done,
        rate_down=98.5e6,
        sources=(ev.SourceRow(peer_id=PEER, state="active"),),
    )


def test_synchronisation_and_a_download_read_as_the_mission_writes_them() -> None:
    events: list[ev.Event] = [
        sample.started(),
        ev.CommandReceived(
            at=1, request_id="r", command="SYNC_TORRENTS", peer_id=PEER, summary="total_shards=2"
        ),
        ev.TorrentsSynced(at=2, peer_id=PEER, files=2, missing=(1,)),
        ev.TransferWanted(at=2, filename="shard-1.gguf", shard_id=1, wanted_by="plan"),
        ev.TransferWanted(
            at=2, filename="shard-1.gguf", shard_id=1, wanted_by="plan", info_hash=KEY
        ),
        _moving(3, "queued"),
        _moving(3, "transfer"),
        _moving(4, "transfer", 5 * 2**20),
        _moving(5, "transfer", 25 * 2**20),
        _moving(5.5, "transfer", 29 * 2**20),
        _moving(6, "stalled", 29 * 2**20, "No peer that has the file is connected."),
        _moving(7, "stalled", 29 * 2**20, "No peer that has the file is connected."),
        _moving(8, "transfer", 30 * 2**20),
        ev.TransferFinished(
            at=9,
            info_hash=KEY,
            filename="shard-1.gguf",
            size=100 * 2**20,
            root="ab" * 32,
            shard_id=1,
            path="/s/shard-1.gguf",
            fetched=100 * 2**20,
            seconds=1.5,
            sources=2,
            mb_per_s=69.9,
        ),
        ev.TorrentsSynced(at=10, peer_id=PEER, files=2, missing=()),
    ]
    found = [line for line in told(events) if not line.startswith(("[MSG]", "[STATUS]"))]
    first = f"[TORRENT_SYNC] 📥 Received SYNC_TORRENTS request from {PEER}"
    assert found[found.index(first) :] == [
        first,
        "[TORRENT_SYNC] ✓ Received 2 available file(s) from rendezvous server",
        "[TORRENT_QUERY] Looking for shard-1.gguf: this node is to have it",
        "[TORRENT_SYNC] 📥 Starting download for shard 1",
        f"[TORRENT_SYNC] ✓ Download initiated (info_hash: {KEY})",
        "[DOWNLOAD] shard-1.gguf: 20 % of 100.0 MB at 98.5 MB/s from 1 source(s)",
        "[DOWNLOAD] shard-1.gguf: stalled. No peer that has the file is connected.",
        "[DOWNLOAD] shard-1.gguf: 30 % of 100.0 MB at 98.5 MB/s from 1 source(s)",
        "[DOWNLOAD] ✓ shard-1.gguf is complete and verified: 100.0 MB in 1.5 s (69.9 MB/s) "
        "from 2 source(s)",
        "[TORRENT_SYNC] ✓ Received 2 available file(s) from rendezvous server",
        "[TORRENT_SYNC] ✓ All required shards are already present",
    ]


def test_what_nodes_repeat_by_themselves_is_no_news() -> None:
    def asked(command: str, origin: str) -> list[str]:
        sent = ev.CommandSent(
            at=1, request_id="q", command=command, to=PEER, summary="", origin=origin
        )
        answer = ev.CommandAnswered(
            at=2,
            request_id="q",
            command=command,
            peer_id=PEER,
            status="success",
            duration_ms=1,
            summary="files(0)",
        )
        before = len(told([sample.started()]))
        return told([sample.started(), sent, answer])[before:]

    assert asked("SYNC_TORRENTS", "node") and asked("LIST_FILES", "console")
    assert asked("SYNC_TORRENTS", "again") == []
    assert asked("LIST_FILES", "node") == []


def test_refusals_do_not_flood_the_log() -> None:
    state, loud = sample.state_after([sample.started()]), 0
    for number in range(1000):
        event = ev.MessageRefused(at=200.0 + number, peer_id=PEER, field="from", reason="forged")
        after = state.apply(event)
        loud += sum(line.level == "warning" for line in lines(event, state, after))
        state = after
    assert loud == 12  # the first ten, the hundredth and the thousandth


def _hostile(kind: type[ev.Event]) -> ev.Event:
    evil = "\x1b[31m\u202e[red]" + "A" * 10_000 + "\n\x07"
    values: dict[str, object] = {}
    for field in fields(kind):
        hint = typing.get_type_hints(kind)[field.name]
        options = typing.get_args(hint)
        if hint is str:
            values[field.name] = evil
        elif hint is int or hint == (int | None):
            values[field.name] = 1
        elif hint is float or hint == (float | None):
            values[field.name] = 1.0
        elif hint is bool:
            values[field.name] = True
        elif typing.get_origin(hint) is typing.Literal:
            values[field.name] = options[0]
        elif hint == tuple[str, ...]:
            values[field.name] = (evil, evil)
        else:
            values[field.name] = ()
    return kind(**values)


@pytest.mark.parametrize("kind", typing.get_args(ev.AnyEvent), ids=lambda kind: kind.__name__)
def test_every_event_has_words_and_none_is_raw(kind: type[ev.Event]) -> None:
    event = _hostile(kind)
    before = sample.state_after(sample.joining())
    found = lines(event, before, before.apply(event))
    if kind is not ev.ReadinessChanged:
        assert found
    for line in found:
        text = format_text(line)
        assert not any(char in text for char in "\x1b\u202e\n\r\x07\x00")
        assert len(text) < 2000
        json.loads(format_json(joined(found), event))


def test_formats() -> None:
    line = LogLine(0.0, "info", "DHT", "✓ Discovered shard 1 from peer: x")
    assert format_text(line).endswith(" [DHT] ✓ Discovered shard 1 from peer: x")
    event = sample.discovered()
    record = json.loads(format_json(line, event))
    assert record["tag"] == "DHT" and record["event"]["type"] == "ShardDiscovered"
    assert record["event"]["peer_id"] == PEER
    assert "event" not in json.loads(format_json(line))


def test_joined_takes_the_highest_level() -> None:
    found = joined(
        [LogLine(1.0, "info", "A", "one"), LogLine(1.0, "error", "B", "two")],
    )
    assert found == LogLine(1.0, "error", "A", "one\n[B] two")


def test_status_report() -> None:
    events = [*sample.joining(), ev.PeerSilent(at=121, peer_id=PEER, silent_s=16, reason="")]
    state = sample.state_after(events)
    text = [line.text for line in status_report(state, 125.0)]
    assert text == [
        "Discovered Shards: 1",
        "Shard Online Status:",
        "  Shard 0: ★ LOCAL (loaded)",
        "  Shard 1: ✗ OFFLINE (silent 20 s)",
        "Pipeline Complete: ✗ NO",
        "Swarm Ready: ✓ YES",
        "Peers: 1 connected, 0 answering, 2 known",
    ]


def test_status_report_is_bounded() -> None:
    state = sample.state_after([sample.started(shards=1000)])
    found = status_report(state, 125.0)
    assert len(found) < 80
    assert any("936 more, 936 of them ✗ OFFLINE" in line.text for line in found)
