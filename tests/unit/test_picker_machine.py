"""The picker under any events: each piece is in exactly one state."""

from __future__ import annotations

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from node.torrent.limits import BLOCK_BYTES, KIB, MAX_COPIES, MAX_WINDOW_BYTES
from node.torrent.picker import Picker
from node.torrent.picker_types import Kind, State
from node.torrent.sizes import Block, Layout

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
