"""The status report: what it holds and that it can be read."""

from __future__ import annotations

import json

import sample_events as sample

from node import events as ev
from node.report import render, status_report_dict
from node.state import State


def test_a_ready_swarm() -> None:
    report = status_report_dict(sample.state_after(sample.joining()), 110.0)
    assert json.loads(json.dumps(report)) == report
    assert (report["ready"], report["complete"], report["missing_shards"]) == (True, True, [])
    assert (report["discovered"], report["expected_shards"]) == (1, 2)
    assert report["uptime_s"] == 10.0
    own, other = report["shards"]["0"], report["shards"]["1"]
    assert (own["status"], own["holders"], own["layers"]) == ("LOCAL", [sample.ME], [0, 4])
    assert (other["status"], other["holders"]) == ("ONLINE", [sample.PEER])
    assert (other["layers"], other["size"], other["why"]) == ([4, 8], 2**20, "1 holder")
    assert report["model_name"] == "synth"
    peer = next(item for item in report["peers"] if item["peer_id"] == sample.PEER)
    assert (peer["status"], peer["shards"], peer["heard_s_ago"]) == ("answering", [1], 5.0)
    assert report["bootstraps"][0]["connected"] is True


def test_a_silent_holder_is_announced_and_no_holder() -> None:
    events = [*sample.joining(), ev.PeerSilent(at=121, peer_id=sample.PEER, silent_s=16, reason="")]
    report = status_report_dict(sample.state_after(events), 121.0)
    shard = report["shards"]["1"]
    assert (shard["status"], shard["holders"]) == ("OFFLINE", [])
    assert shard["announced_by"] == [sample.PEER]
    assert report["missing_shards"] == [1]
    assert report["complete"] is False


def test_before_the_start_and_as_text() -> None:
    empty = status_report_dict(State(), 1.0)
    assert (empty["ready"], empty["complete"], empty["shards"]) == (False, False, {})
    assert "Swarm Ready: ✗ NO" in render(empty)
    text = render(status_report_dict(sample.state_after(sample.joining()), 110.0))
    assert "★ LOCAL" in text and "✓ ONLINE" in text and "Swarm Ready: ✓ YES" in text


def test_text_is_clean() -> None:
    report = status_report_dict(sample.state_after(sample.joining()), 110.0)
    evil = json.loads(json.dumps(report).replace("synth", "\\u001b[2Jx\\u202e"))
    for peer in evil["peers"]:
        peer["agent"] = "\x1b[31mred\u202e" * 100
    text = render(evil)
    assert "\x1b" not in text and "\u202e" not in text
    assert max(len(line) for line in text.splitlines()) < 300
