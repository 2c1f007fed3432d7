"""Amounts as text: within their width, and never more than is so."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from swarmtui.amounts import bar, left, of, percent, rate, ratio, size, took


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "—"), (-5, "—"), (1, "1 B"), (1023, "1023 B"), (1024, "1.0 KiB"),
        (2 * 2**30, "2.0 GiB"), (94.2 * 2**20, "94.2 MiB"), (999.9 * 2**20, "1000 MiB"),
        (13_936_124_776, "13.0 GiB"), (3 * 2**40, "3.0 TiB"),
    ],
)
def test_sizes(count: float, shown: str) -> None:
    assert size(count) == shown
    assert rate(count) == (f"{shown}/s" if count > 0 else "—")


@given(st.floats(0, 2**63))
def test_sizes_and_rates_fit_their_columns(count: float) -> None:
    assert len(size(count)) <= 8
    assert len(rate(count)) <= 10


@given(st.floats(0, 2, allow_nan=False), st.integers(1, 60))
def test_a_bar_has_its_width_and_is_full_only_at_the_end(share: float, width: int) -> None:
    filled, rest = bar(share, width)
    assert len(filled) + len(rest) == width
    assert (filled == "█" * width) == (share >= 1)


@given(st.floats(0, 1))
def test_a_percentage_is_100_only_at_the_end(share: float) -> None:
    assert (percent(share) == "100 %") == (share >= 1)
    assert len(percent(share)) <= 5


@given(st.one_of(st.none(), st.floats(0, 1e12)))
def test_the_time_left_is_short(seconds: float | None) -> None:
    assert 1 <= len(left(seconds)) <= 4


@given(st.floats(0, 99_999))
def test_a_ratio_is_short(value: float) -> None:
    assert 1 <= len(ratio(value)) <= 5


def test_small_words() -> None:
    assert of(0, 2**30) == "0 B of 1.0 GiB"
    assert took(0.29) == "0.3 s" and took(200) == "3m"
    assert left(None) == "—" and left(5.8) == "6s" and left(1e9) == ">99d"
