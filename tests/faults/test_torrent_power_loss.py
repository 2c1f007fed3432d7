"""Power loss at any call, keeping any subset of what was not synced: never a wrong byte."""

from __future__ import annotations

import contextlib
import errno
import random

import pytest
from hypothesis import given, settings, strategies as st
from lossy_folder import LossyFolder, PowerLoss

from node.errors import PlainError
from node.torrent import merkle, resume
from node.torrent.disk_errors import DiskFullError, PiecesLostError, SyncFailedError
from node.torrent.files import info_hash
from node.torrent.leftovers import stored_layer, tidy
from node.torrent.limits import LEAF_BYTES
from node.torrent.names import part_name, state_name
from node.torrent.pieces import check_piece
from node.torrent.sizes import Layout
from node.torrent.storage import Part

NAME = "shard-0.gguf"
SIZE = 9 * LEAF_BYTES + 77
CONTENT = random.Random(5).randbytes(SIZE)
LAYOUT = Layout(SIZE, LEAF_BYTES)
LAYER = b"".join(
    merkle.piece_hash(CONTENT[LAYOUT.offset(i) : LAYOUT.offset(i) + LEAF_BYTES], LAYOUT)
    for i in range(LAYOUT.pieces)
)
ROOT = merkle.root_of_layer(LAYER, LAYOUT)


def piece_bytes(piece: int) -> bytes:
    return CONTENT[LAYOUT.offset(piece) : LAYOUT.offset(piece) + LAYOUT.piece_size(piece)]


def open_part(folder: LossyFolder) -> Part:
    return Part.open(
        folder,
        NAME,
        info_hash=info_hash(NAME, SIZE),
        root=ROOT,
        layout=LAYOUT,
        layer=LAYER,
        rng=random.Random(1),
    )


def download(folder: LossyFolder, rng: random.Random, promised: set[int] | None = None) -> int:
    """Run one download to its end; the number of pieces it wrote.

    `promised` holds the pieces that a checkpoint called durable: they are there, whatever happened.
    """
    promised = set() if promised is None else promised
    tidy(folder, NAME)
    if NAME in folder.names:
        return 0
    part = open_part(folder)
    assert promised <= part.have
    count = 0
    for piece in part.have:
        assert part.read(piece, 0, LAYOUT.piece_size(piece)) == piece_bytes(piece)
    while True:
        missing = [piece for piece in range(LAYOUT.pieces) if piece not in part.written()]
        rng.shuffle(missing)
        for piece in missing:
            part.write(check_piece(LAYOUT, LAYER, piece, piece_bytes(piece)), 0.0)
            count += 1
            if rng.random() < 0.4:
                promised.update(part.checkpoint())
        try:
            part.finish()
        except PiecesLostError as error:
            promised.difference_update(error.pieces)
            continue
        return count


def check_disk(folder: LossyFolder) -> None:
    """The invariant on what the disk holds: a piece in the journal is whole and right."""
    final = folder.durable_names.get(NAME)
    if final is not None:
        assert bytes(final.durable) == CONTENT
    part, state = (folder.durable_names.get(make(NAME)) for make in (part_name, state_name))
    if part is None or state is None:
        return
    try:
        saved = resume.read_state(bytes(state.durable))
    except resume.StateDamagedError:
        pytest.fail("a renamed state file was not whole")
    if saved.header.flags & resume.BAD or saved.header.inode != part.number:
        return
    for piece in saved.pieces:
        start = LAYOUT.offset(piece)
        assert bytes(part.durable[start : start + LAYOUT.piece_size(piece)]) == piece_bytes(piece)


class Countdown:
    """Fails the call number `at`: with a power loss, or with an error where one is given."""

    def __init__(self, at: int, error: int | None = None, calls: tuple[str, ...] = ()) -> None:
        self.left = at
        self.error = error
        self.calls = calls
        self.fired = False

    def __call__(self, call: str) -> int | None:
        if self.calls and call not in self.calls:
            return None
        self.left -= 1
        if self.left == 0:
            self.fired = True
            if self.error is None:
                raise PowerLoss
            raise OSError(self.error, "injected")
        return None


@given(
    crashes=st.lists(st.integers(1, 110), max_size=4),
    rng=st.randoms(use_true_random=False),
)
@settings(max_examples=400, deadline=None)
def test_any_power_loss_leaves_only_right_bytes(crashes: list[int], rng: random.Random) -> None:
    folder = LossyFolder()
    promised: set[int] = set()
    for at in crashes:
        folder.fault = Countdown(at)
        with contextlib.suppress(PowerLoss):
            download(folder, rng, promised)
        folder = folder.lose_power(rng)
        check_disk(folder)
    folder.fault = lambda call: None
    download(folder, rng, promised)
    check_disk(folder)
    assert bytes(folder.names[NAME].live) == CONTENT
    assert set(folder.names) == {NAME}
    after = folder.lose_power(rng)
    assert bytes(after.names[NAME].live) == CONTENT and set(after.names) == {NAME}


@pytest.mark.parametrize("seed", range(3))
def test_power_loss_at_every_single_call(seed: int) -> None:
    """No call is left out: one power loss at each of them, then a second run to the end."""
    at = 0
    while True:
        at += 1
        fault = Countdown(at)
        folder = LossyFolder(fault)
        promised: set[int] = set()
        with contextlib.suppress(PowerLoss):
            download(folder, random.Random(seed), promised)
        if not fault.fired:
            break
        rng = random.Random(1000 * seed + at)
        folder = folder.lose_power(rng)
        check_disk(folder)
        download(folder, rng, promised)
        assert bytes(folder.names[NAME].live) == CONTENT
    assert at > 30


@given(
    at=st.integers(1, 12),
    then=st.integers(1, 90),
    rng=st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_a_failed_sync_is_never_believed_afterwards(at: int, then: int, rng: random.Random) -> None:
    fault = Countdown(at, errno.EIO, ("sync", "sync_data"))
    folder = LossyFolder(fault)
    try:
        download(folder, rng)
    except PlainError:
        assert fault.fired
    check_disk(folder)
    folder.handles.clear()
    for inode in folder.names.values():
        inode.locked_by = None
    folder.fault = Countdown(then)
    with contextlib.suppress(PowerLoss):
        download(folder, rng)
    folder = folder.lose_power(rng)
    check_disk(folder)
    download(folder, rng)
    assert bytes(folder.names[NAME].live) == CONTENT


def test_after_a_failed_sync_the_part_is_unusable_and_read_again_whole() -> None:
    folder = LossyFolder()
    part = open_part(folder)
    for piece in range(5):
        part.write(check_piece(LAYOUT, LAYER, piece, piece_bytes(piece)), 0.0)
    assert part.checkpoint() == [0, 1, 2, 3, 4]
    part.write(check_piece(LAYOUT, LAYER, 5, piece_bytes(5)), 0.0)
    folder.fault = Countdown(1, errno.EIO, ("sync_data",))
    with pytest.raises(SyncFailedError, match="did not confirm"):
        part.checkpoint()
    for again in (part.checkpoint, part.finish, part.missing_bytes):
        with pytest.raises(SyncFailedError):
            again()
    with pytest.raises(SyncFailedError):
        part.write(check_piece(LAYOUT, LAYER, 6, piece_bytes(6)), 0.0)
    part.close()
    saved = resume.read_state(bytes(folder.durable_names[state_name(NAME)].durable))
    assert saved.header.flags & resume.BAD
    again_open = open_part(folder)
    assert (again_open.recheck, again_open.reason) == (
        "full",
        "the disk had failed to confirm a write",
    )
    # Piece 5 was readable until the cache was dropped; the disk never had it.
    assert again_open.have == frozenset(range(5))


@given(at=st.integers(1, 60), rng=st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_any_full_disk_keeps_everything_and_goes_on(at: int, rng: random.Random) -> None:
    fault = Countdown(at, errno.ENOSPC, ("write", "allocate", "create"))
    folder = LossyFolder(fault)
    try:
        download(folder, rng)
    except DiskFullError as error:
        assert error.missing > 0
        folder.handles.clear()
        for inode in folder.names.values():
            inode.locked_by = None
        check_disk(folder)
    else:
        assert not fault.fired
    download(folder, rng)
    assert bytes(folder.names[NAME].live) == CONTENT
    assert set(folder.names) == {NAME}


@given(cap=st.integers(1, 5000), rng=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_short_writes_are_written_to_the_end(cap: int, rng: random.Random) -> None:
    folder = LossyFolder(lambda call: cap if call == "write" else None)
    download(folder, rng)
    assert bytes(folder.names[NAME].live) == CONTENT


def test_no_room_is_said_before_the_first_byte_with_the_exact_number() -> None:
    folder = LossyFolder()
    folder.room = SIZE + resume.max_bytes(LAYOUT) - 123
    with pytest.raises(DiskFullError, match="123 bytes are missing") as caught:
        open_part(folder)
    assert caught.value.missing == 123
    assert folder.names == {}
    folder.room += 123
    download(folder, random.Random(1))
    assert set(folder.names) == {NAME}


def test_a_part_linked_to_its_final_name_is_recognised_as_complete() -> None:
    """kill -9 between the link and the cleaning up, without tidy."""
    folder = LossyFolder(Countdown(1, errno.EIO, ("link",)))
    with pytest.raises(PlainError):
        download(folder, random.Random(1))
    folder.handles.clear()
    folder.names[part_name(NAME)].locked_by = None
    folder.fault = lambda call: None
    folder.link(part_name(NAME), NAME)
    part = open_part(folder)
    assert part.complete and part.have == frozenset(range(LAYOUT.pieces))
    part.close()
    assert set(folder.names) == {NAME} and bytes(folder.names[NAME].live) == CONTENT
    assert not tidy(folder, NAME)


def test_the_layer_survives_for_the_next_start() -> None:
    folder = LossyFolder()
    assert stored_layer(folder, NAME, root=ROOT, layout=LAYOUT) is None
    open_part(folder).close()
    assert stored_layer(folder, NAME, root=ROOT, layout=LAYOUT) == LAYER
    assert stored_layer(folder, NAME, root=bytes(32), layout=LAYOUT) is None
