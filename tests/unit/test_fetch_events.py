"""The piece map counts every piece once and says "full" only when it is."""

from __future__ import annotations

from hypothesis import given, strategies as st

from node.swarm.fetch_events import MAP_CELLS, piece_map


@given(st.integers(0, 2000), st.data())
def test_the_map_is_full_exactly_where_every_piece_is_there(
    pieces: int, data: st.DataObject
) -> None:
    written = data.draw(st.sets(st.integers(0, max(pieces - 1, 0)), max_size=pieces))
    found = piece_map(written, pieces)
    assert len(found) == min(pieces, MAP_CELLS)
    for cell, mark in enumerate(found):
        mine = [piece for piece in range(pieces) if piece * len(found) // pieces == cell]
        share = len(written.intersection(mine)) / len(mine)
        assert mark == str(int(share * 8 + 1e-9))
        assert (mark == "8") == written.issuperset(mine)


def test_nothing_and_everything() -> None:
    assert piece_map([], 0) == ""
    assert piece_map([], 5) == "00000"
    assert piece_map(range(10_000), 10_000) == "8" * MAP_CELLS
