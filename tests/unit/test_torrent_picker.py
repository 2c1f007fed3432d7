"""The picker: order, stealing, endgame, stalls, and the window."""

from __future__ import annotations

import random

import pytest

from node.torrent.limits import BLOCK_BYTES, KIB, MIB
from node.torrent.picker import Picker
from node.torrent.picker_types import Kind, State
from node.torrent.rarest import Rarest
from node.torrent.sizes import Block, Layout
from node.torrent.window import Rate, Window

PIECE = 512 * KIB
PEERS = ["a", "b", "c", "d"]


# ---------------------------------------------------------------- single behaviours


def deliver(picker: Picker, peer: str, now: float, count: int | None = None) -> list[int]:
    """Answer `count` outstanding blocks of `peer`; the pieces completed."""
    done = []
    for block in picker.outstanding(peer)[:count]:
        if picker.received(peer, block, now).complete:
            done.append(block.piece)
    return done


def run_rate(picker: Picker, peer: str, per_second: int, until: float, start: float = 0.0) -> None:
    """Let `peer` deliver `per_second` blocks until the time `until`."""
    now = start
    while now < until:
        picker.want(peer, now)
        now += 1 / per_second
        for piece in deliver(picker, peer, now, 1):
            picker.verified(piece)
            picker.written(piece)


def test_head_pieces_come_first_then_four_at_random_then_the_rarest() -> None:
    layout = Layout(64 * PIECE, PIECE)
    firsts = set()
    for seed in range(30):
        picker = Picker(layout, seed=seed, head_pieces=2)
        picker.add_peer("all", None)
        picker.add_peer("some", set(range(64)) - {40})
        order = list(dict.fromkeys(block.piece for block in picker.want("all", 0.0).requests))
        assert order[:2] == [0, 1]
        firsts.add(order[2])
        for now in range(1, 60):
            deliver(picker, "all", float(now))
            order += [block.piece for block in picker.want("all", float(now)).requests]
        assert 40 in list(dict.fromkeys(order))[:6]
    assert len(firsts) > 10


def test_partial_pieces_are_taken_up_before_new_ones() -> None:
    picker = Picker(Layout(64 * PIECE, PIECE), seed=1)
    picker.add_peer("a", None)
    first = picker.want("a", 0.0).requests[0]
    picker.received("a", first, 0.1)
    picker.remove_peer("a", 0.2)
    assert picker.state(first.piece) == State.MISSING
    picker.add_peer("b", None)
    again = picker.want("b", 0.3).requests[0]
    assert again == Block(first.piece, BLOCK_BYTES, BLOCK_BYTES)


def test_a_ten_times_slower_peer_loses_its_piece_at_once() -> None:
    picker = Picker(Layout(400 * PIECE, PIECE), seed=1)
    picker.add_peer("slow", None)
    picker.add_peer("fast", None)
    run_rate(picker, "slow", 1, 4.0)
    held = {block.piece for block in picker.outstanding("slow")}
    assert held and picker.count(State.MISSING) > 300
    now, taken = 0.0, set()
    while now < 4.0:
        wanted = picker.want("fast", now)
        taken |= {block.piece for _, block in wanted.cancels}
        assert {peer for peer, _ in wanted.cancels} <= {"slow"}
        now += 1 / 40
        for piece in deliver(picker, "fast", now, 1):
            picker.verified(piece)
    assert taken == held and not picker.outstanding("slow")
    assert picker.count(State.MISSING) > 200


def test_a_five_times_slower_peer_keeps_its_pieces_until_nothing_else_is_left() -> None:
    for pieces, stolen in ((4000, False), (44, True)):
        picker = Picker(Layout(pieces * PIECE, PIECE), seed=1)
        picker.add_peer("slow", None)
        picker.add_peer("fast", None)
        run_rate(picker, "slow", 4, 3.0)
        cancels = 0
        now = 0.0
        while now < 3.0:
            cancels += len(picker.want("fast", now).cancels)
            now += 0.05
            deliver(picker, "fast", now, 1)
        assert (cancels > 0) == stolen


def test_the_endgame_asks_two_peers_and_cancels_the_slower() -> None:
    picker = Picker(Layout(2 * PIECE, PIECE), seed=1)
    picker.add_peer("a", None)
    picker.add_peer("b", None)
    picker.add_peer("c", None)
    asked = picker.want("a", 0.0).requests
    assert len(asked) == 4 and picker.endgame
    copies = picker.want("b", 0.1).requests
    assert sorted(copies) == sorted(asked)
    assert picker.want("c", 0.1).requests == []
    answer = picker.received("b", asked[3], 0.2)
    assert (answer.kind, answer.cancels) == (Kind.NEEDED, (("a", asked[3]),))
    assert picker.received("a", asked[3], 0.3).kind == Kind.DUPLICATE
    assert picker.received("a", asked[3], 0.3).kind == Kind.UNSOLICITED


def test_a_stalled_peer_is_snubbed_then_closed_and_recovers_with_data() -> None:
    picker = Picker(Layout(64 * PIECE, PIECE), seed=1)
    picker.add_peer("a", None)
    picker.want("a", 0.0)
    assert picker.tick(4.9) == type(picker.tick(4.9))()
    tick = picker.tick(5.1)
    assert tick.snubbed == ["a"] and len(tick.cancels) == 8
    assert picker.count(State.MISSING) == 64
    one = picker.want("a", 5.2).requests
    assert len(one) == 1
    assert not picker.tick(29.0).close
    assert picker.received("a", one[0], 29.5).kind == Kind.NEEDED
    assert len(picker.want("a", 29.5).requests) > 1
    assert not picker.tick(31.0).close
    assert picker.tick(60.0).close == [("a", "sent nothing for 30 s")]


@pytest.mark.parametrize("per_s", [2, 8, 40])
def test_a_peer_that_falls_silent_at_full_speed_is_snubbed_after_five_seconds(per_s: int) -> None:
    """Its rate falls while nothing comes: that must not make the silence look expected."""
    picker = Picker(Layout(4096 * PIECE, PIECE), seed=1)
    picker.add_peer("a", None)
    step = 1 / per_s
    for number in range(5 * per_s):
        picker.want("a", number * step)
        deliver(picker, "a", (number + 1) * step, 1)
    picker.want("a", 5.0)
    found = [second for second in range(6, 20) if picker.tick(float(second)).snubbed]
    assert len(found) == 1 and found[0] <= 5 + 5


def test_a_crawling_peer_is_closed_only_where_another_could_serve() -> None:
    for others in (True, False):
        layout = Layout(64 * MIB, 16 * KIB)
        picker = Picker(layout, seed=1)
        picker.add_peer("a", None)
        if others:
            picker.add_peer("b", None)
        closed = []
        for second in range(0, 200, 4):
            picker.want("a", float(second))
            deliver(picker, "a", second + 3.9, 1)
            closed += picker.tick(second + 4.0).close
        assert bool(closed) == others


def test_a_failed_piece_without_known_leaves_goes_to_one_peer_alone() -> None:
    picker = Picker(Layout(PIECE, PIECE), seed=1)
    picker.add_peer("a", None)
    picker.add_peer("b", None)
    blocks = picker.want("a", 0.0).requests
    picker.want("b", 0.0)
    picker.received("a", blocks[0], 0.1)
    assert picker.received("b", blocks[1], 0.1).complete
    assert picker.failed(0) == {"a": [blocks[0]], "b": [blocks[1]]}
    assert picker.want("a", 0.2).requests == blocks
    assert picker.want("b", 0.2).requests == []
    picker.received("a", blocks[0], 0.3)
    picker.remove_peer("a", 0.4)
    assert picker.want("b", 0.5).requests == blocks


def test_why_nothing_is_outstanding() -> None:
    picker = Picker(Layout(2 * PIECE, PIECE), seed=1)
    assert picker.why_idle() == "no peer has the file"
    picker.add_peer("a", [])
    assert picker.why_idle() == "no connected peer has the 2 pieces still missing"
    picker.has("a", [0])
    picker.set_choked("a", True, 0.0)
    assert picker.why_idle() == "every peer asks us to wait"
    picker.set_choked("a", False, 0.0)
    picker.want("a", 0.0)
    assert picker.why_idle() == ""


def test_the_window_follows_what_a_peer_delivers() -> None:
    for per_second, low, high in ((4, MIB, 2 * MIB), (400, 16 * MIB, 16 * MIB)):
        window = Window()
        now = 0.0
        window.start(now)
        for _ in range(per_second * 20):
            now += 1 / per_second
            window.arrived(BLOCK_BYTES, 0.02, now)
        assert low <= window.size <= high
        rate = window.rate.value(now)
        assert rate == pytest.approx(per_second * BLOCK_BYTES, rel=0.1)


def test_time_without_requests_does_not_make_a_peer_slow() -> None:
    rate = Rate()
    rate.start(0.0)
    for tenth in range(1, 31):
        rate.add(1000, tenth / 10)
    before = rate.value(3.0)
    rate.pause(3.0)
    assert rate.value(900.0) == before
    rate.start(900.0)
    later = rate.value(910.0)
    assert before is not None and later is not None and later < before / 50


def test_rarest_agrees_with_a_plain_count() -> None:
    rng = random.Random(7)
    index = Rarest(40)
    counts = [0] * 40
    inside: set[int] = set()
    for _ in range(4000):
        piece = rng.randrange(40)
        match rng.randrange(4):
            case 0 if piece not in inside:
                index.add(piece)
                inside.add(piece)
            case 1 if piece in inside:
                index.remove(piece)
                inside.discard(piece)
            case 2:
                index.change(piece, 1)
                counts[piece] += 1
            case 3 if counts[piece]:
                index.change(piece, -1)
                counts[piece] -= 1
        assert len(index) == len(inside)
        allowed = set(rng.sample(range(40), 10))
        found = index.rarest(allowed.__contains__, rng)
        fitting = inside & allowed
        assert (found is None) == (not fitting)
        if found is not None:
            assert found in fitting
            assert counts[found] == min(counts[i] for i in fitting)
