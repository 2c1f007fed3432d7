"""How files are cut into pieces and blocks, and which cuts of strangers are refused."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from node.torrent.limits import BLOCK_BYTES, GIB, KIB, LEAF_BYTES, MAX_FILE_BYTES, MAX_PIECES, MIB
from node.torrent.sizes import Block, Layout, check_piece_length, piece_length_for


@pytest.mark.parametrize(
    ("size", "length"),
    [
        (0, 256 * KIB),
        (64 * MIB, 256 * KIB),
        (64 * MIB + 1, 512 * KIB),
        (512 * MIB, 512 * KIB),
        (512 * MIB + 1, MIB),
        (4 * GIB, MIB),
        (4 * GIB + 1, 2 * MIB),
        (16 * GIB, 2 * MIB),
        (16 * GIB + 1, 4 * MIB),
        (128 * GIB, 4 * MIB),
        (128 * GIB + 1, 8 * MIB),
        (MAX_FILE_BYTES, 32 * MIB),
    ],
)
def test_the_table(size: int, length: int) -> None:
    assert piece_length_for(size) == length


@given(st.integers(0, MAX_FILE_BYTES))
def test_what_we_choose_is_what_we_accept(size: int) -> None:
    length = piece_length_for(size)
    check_piece_length(size, length)
    assert Layout(size, length).pieces <= MAX_PIECES


@pytest.mark.parametrize(
    ("size", "length"),
    [
        (1, 0),
        (1, 3),
        (1, -(2**18)),
        (1, 128 * KIB),
        (1, 64 * MIB),
        (-1, 256 * KIB),
        (2**63, 32 * MIB),
        (64 * GIB, 256 * KIB),
    ],
)
def test_absurd_cuts_are_refused(size: int, length: int) -> None:
    with pytest.raises(ValueError):
        check_piece_length(size, length)


@pytest.mark.parametrize("size", [-1, MAX_FILE_BYTES + 1])
def test_absurd_sizes_have_no_piece_length(size: int) -> None:
    with pytest.raises(ValueError):
        piece_length_for(size)


@given(size=st.integers(1, 5 * MIB), log=st.integers(14, 21))
def test_blocks_cover_the_file_once(size: int, log: int) -> None:
    layout = Layout(size, 1 << log)
    at = 0
    for piece in range(layout.pieces):
        inside = 0
        for block in layout.blocks(piece):
            layout.check_block(block)
            assert (block.piece, block.offset) == (piece, inside)
            inside += block.length
        assert layout.offset(piece) == at
        assert inside == layout.piece_size(piece)
        at += inside
    assert at == size


@pytest.mark.parametrize(
    "block",
    [
        Block(2, 0, LEAF_BYTES),
        Block(-1, 0, LEAF_BYTES),
        Block(0, 1, LEAF_BYTES),
        Block(0, -LEAF_BYTES, LEAF_BYTES),
        Block(0, 0, 0),
        Block(0, 0, -1),
        Block(0, 0, LEAF_BYTES - 1),
        Block(0, 0, BLOCK_BYTES + LEAF_BYTES),
        Block(0, MIB, LEAF_BYTES),
        Block(0, MIB - LEAF_BYTES, 2 * LEAF_BYTES),
        Block(1, 0, LEAF_BYTES),
        Block(1, 0, 99),
    ],
)
def test_blocks_outside_a_piece_are_refused(block: Block) -> None:
    layout = Layout(MIB + 100, MIB)
    layout.check_block(Block(1, 0, 100))
    with pytest.raises(ValueError):
        layout.check_block(block)


@pytest.mark.parametrize(("size", "length"), [(-1, MIB), (1, 0), (1, 8 * KIB), (1, 3 * MIB)])
def test_layouts_that_make_no_sense(size: int, length: int) -> None:
    with pytest.raises(ValueError):
        Layout(size, length)
    with pytest.raises(IndexError):
        Layout(1, MIB).piece_size(1)
