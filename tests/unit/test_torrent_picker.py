"""The picker: each piece in exactly one state under any events; stealing, endgame, stalls."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from node.torrent.limits import BLOCK_BYTES, KIB, MAX_COPIES, MAX_WINDOW_BYTES, MIB
from node.torrent.picker import Picker
from node.torrent.picker_types import Kind, State
from node.torrent.rarest import Rarest
from node.torrent.sizes import Block, Layout
from node.torrent.window import Rate, Window

PIECE = 512 * KIB
PEERS = ["a", "b", "c", "d"]


class PickerMachine(RuleBasedStateMachine):
    """Random peers, answers, failures and clock steps against the invariants."""

    @initialize(pieces=st.integers(1, 12), seed=st.integers(0, 99), head=st.integers(0, 2))
    def begin(self, pieces: int, seed: int, head: int) -> None:
        self.layout = Layout(pieces * PIECE - 77, PIECE)
        self.picker = Picker(self.layout, seed=seed, head_pieces=head)
        self.now = 0.0
        self.open: dict[str, list[Block]] = {}
        self.late: dict[str, set[Block]] = {}
        self.choked: set[str] = set()
        self.before: dict[int, State] = {}

    def cancel(self, cancels: object) -> None:
        assert isinstance(cancels, list | tuple)
        for peer, block in cancels:
            self.open[peer].remove(block)
            self.late[peer].add(block)

    def forget(self, peer: str) -> None:
        del self.open[peer], self.late[peer]
        self.choked.discard(peer)

    def sync(self) -> None:
        """Releases without a cancel list (peer gone, piece lacking) show in `outstanding`."""
        for peer, blocks in self.open.items():
            left = self.picker.outstanding(peer)
            self.late[peer].update(set(blocks) - set(left))
            self.open[peer] = left

    @rule(peer=st.sampled_from(PEERS), data=st.data())
    def add(self, peer: str, data: st.DataObject) -> None:
        if peer in self.open:
            with pytest.raises(ValueError):
                self.picker.add_peer(peer, None)
            return
        pieces = data.draw(
            st.none() | st.sets(st.integers(0, self.layout.pieces - 1)), label="pieces"
        )
        self.picker.add_peer(peer, pieces)
        self.open[peer], self.late[peer] = [], set()

    @rule(peer=st.sampled_from(PEERS))
    def gone(self, peer: str) -> None:
        self.picker.remove_peer(peer, self.now)
        if peer in self.open:
            self.forget(peer)
        self.sync()

    @rule(peer=st.sampled_from(PEERS), data=st.data())
    def learns(self, peer: str, data: st.DataObject) -> None:
        if peer in self.open:
            piece = data.draw(st.integers(0, self.layout.pieces - 1))
            if data.draw(st.booleans()):
                self.picker.has(peer, [piece])
            else:
                self.picker.lacks(peer, piece, self.now)
                self.sync()
                assert all(block.piece != piece for block in self.picker.outstanding(peer))

    @rule(peer=st.sampled_from(PEERS))
    def want(self, peer: str) -> None:
        if peer not in self.open:
            return
        wanted = self.picker.want(peer, self.now)
        self.cancel(wanted.cancels)
        for block in wanted.requests:
            assert peer not in self.choked
            self.layout.check_block(block)
            assert self.picker.state(block.piece) == State.ASSIGNED
            assert block not in self.open[peer]
            self.open[peer].append(block)
            self.late[peer].discard(block)
        assert len(set(wanted.requests)) == len(wanted.requests)

    @rule(peer=st.sampled_from(PEERS), at=st.integers(0, 99), passed=st.floats(0, 3))
    def data(self, peer: str, at: int, passed: float) -> None:
        self.now += passed
        if peer not in self.open or not self.open[peer]:
            return
        block = self.open[peer].pop(at % len(self.open[peer]))
        answer = self.picker.received(peer, block, self.now)
        assert answer.kind in (Kind.NEEDED, Kind.DUPLICATE)
        self.cancel(answer.cancels)
        if answer.complete:
            assert self.picker.state(block.piece) == State.HASHING
            sent = [item for items in self.picker.senders(block.piece).values() for item in items]
            assert sorted(sent) == self.layout.blocks(block.piece)

    @rule(peer=st.sampled_from(PEERS), at=st.integers(0, 99), reject=st.booleans())
    def crossing(self, peer: str, at: int, reject: bool) -> None:
        """DATA or REJECT for something cancelled: no strike, once."""
        if peer not in self.open or not self.late[peer]:
            return
        block = sorted(self.late[peer])[at % len(self.late[peer])]
        self.late[peer].discard(block)
        if reject:
            assert self.picker.rejected(peer, block, self.now)
        else:
            answer = self.picker.received(peer, block, self.now)
            assert answer.kind != Kind.UNSOLICITED
            self.cancel(answer.cancels)

    @rule(peer=st.sampled_from(PEERS), piece=st.integers(0, 11))
    def unsolicited(self, peer: str, piece: int) -> None:
        if peer not in self.open or piece >= self.layout.pieces:
            return
        for block in (self.layout.blocks(piece)[0], Block(piece, 16 * KIB, 16 * KIB)):
            if block not in self.open[peer] and block not in self.late[peer]:
                assert self.picker.received(peer, block, self.now).kind == Kind.UNSOLICITED
                assert not self.picker.rejected(peer, block, self.now)

    @rule(peer=st.sampled_from(PEERS), at=st.integers(0, 99))
    def reject(self, peer: str, at: int) -> None:
        if self.open.get(peer):
            block = self.open[peer].pop(at % len(self.open[peer]))
            assert self.picker.rejected(peer, block, self.now)

    @rule(peer=st.sampled_from(PEERS), choked=st.booleans(), parole=st.booleans())
    def mood(self, peer: str, choked: bool, parole: bool) -> None:
        if peer in self.open:
            self.cancel(self.picker.set_choked(peer, choked, self.now))
            self.picker.set_parole(peer, parole)
            (self.choked.add if choked else self.choked.discard)(peer)
            assert not choked or not self.picker.outstanding(peer)

    @rule(piece=st.integers(0, 11), verdict=st.sampled_from(["good", "bad", "leaf"]))
    def hashed(self, piece: int, verdict: str) -> None:
        if piece >= self.layout.pieces or self.picker.state(piece) != State.HASHING:
            return
        if verdict == "good":
            self.picker.verified(piece)
        elif verdict == "bad":
            self.picker.failed(piece)
            assert not self.picker.senders(piece)
        else:
            bad = self.layout.blocks(piece)[-1:]
            self.picker.failed(piece, bad)
            kept = [item for items in self.picker.senders(piece).values() for item in items]
            assert sorted(kept) == self.layout.blocks(piece)[:-1]

    @rule(piece=st.integers(0, 11))
    def disk(self, piece: int) -> None:
        if piece >= self.layout.pieces:
            return
        if self.picker.state(piece) == State.VERIFIED:
            self.picker.written(piece)
        elif self.picker.state(piece) == State.WRITTEN:
            self.picker.durable([piece])
        else:
            with pytest.raises(ValueError):
                self.picker.written(piece)

    @rule(piece=st.integers(0, 11))
    def lose(self, piece: int) -> None:
        if piece < self.layout.pieces and self.picker.state(piece) >= State.VERIFIED:
            self.picker.lost([piece])

    @rule(passed=st.floats(0, 40))
    def time(self, passed: float) -> None:
        self.now += passed
        tick = self.picker.tick(self.now)
        self.cancel(tick.cancels)
        for peer in tick.snubbed:
            assert self.picker.window(peer) == BLOCK_BYTES
            assert not self.picker.outstanding(peer)
        for peer, reason in tick.close:
            assert reason
            self.picker.remove_peer(peer, self.now)
            self.forget(peer)
        self.sync()

    @invariant()
    def each_piece_is_in_one_state(self) -> None:
        if not hasattr(self, "picker"):
            return
        picker = self.picker
        assert sum(picker.count(state) for state in State) == self.layout.pieces
        copies: dict[Block, int] = {}
        for peer, blocks in self.open.items():
            assert sorted(picker.outstanding(peer)) == sorted(blocks)
            total = sum(block.length for block in blocks)
            assert total <= max(MAX_WINDOW_BYTES, BLOCK_BYTES)
            for block in blocks:
                copies[block] = copies.get(block, 0) + 1
                assert picker.state(block.piece) == State.ASSIGNED
        assert all(count <= MAX_COPIES for count in copies.values())
        for piece in range(self.layout.pieces):
            owner = picker.owner(piece)
            assert (owner is not None) == (picker.state(piece) == State.ASSIGNED)
            assert owner is None or owner in self.open
            assert owner is None or owner not in self.choked
            assert (piece in picker._missing) == (picker.state(piece) == State.MISSING)

    def teardown(self) -> None:
        """Whatever happened, one good peer brings the download to its end."""
        if not hasattr(self, "picker"):
            return
        for peer in list(self.open):
            self.picker.remove_peer(peer, self.now)
        self.picker.add_peer("good", None)
        for _ in range(3000):
            for piece in range(self.layout.pieces):
                if self.picker.state(piece) == State.HASHING:
                    self.picker.verified(piece)
                if self.picker.state(piece) == State.VERIFIED:
                    self.picker.written(piece)
            blocks = self.picker.want("good", self.now).requests
            self.now += 0.01
            if not blocks:
                break
            for block in blocks:
                assert self.picker.received("good", block, self.now).kind == Kind.NEEDED
        assert self.picker.complete


PickerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestPicker = PickerMachine.TestCase


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
