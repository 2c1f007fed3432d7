"""Cutting, wrapping, ages: whatever a peer wrote fits its cells and holds nothing unsafe."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st
from rich.cells import cell_len

from swarmtui.widgets.text import Ages, fit, layers, milliseconds, names, printable, size, wrap

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")


@given(st.text(max_size=300), st.integers(0, 60), st.sampled_from(["left", "right"]))
def test_fit_fills_exactly_its_cells(text: str, width: int, align: str) -> None:
    out = fit(text, width, align)
    assert cell_len(out) == width
    assert not UNSAFE.search(out)


@given(st.text(max_size=400), st.integers(8, 80), st.integers(0, 8))
def test_wrapped_lines_fit_and_lose_nothing_but_blanks(text: str, width: int, indent: int) -> None:
    lines = wrap(((text, "base"),), width, indent)
    shown = ["".join(part for part, _ in line) for line in lines]
    assert all(cell_len(line.rstrip()) <= width for line in shown)
    assert "".join(shown).replace(" ", "") == printable(text).replace(" ", "")


def test_combining_marks_do_not_stack() -> None:
    assert printable("a" + "\u0301" * 100 + "b") == "ab"


def test_long_text_is_cut_with_an_ellipsis() -> None:
    assert fit("x" * 10_000, 6) == "xxxxx…"
    assert fit("日本語テキスト", 6) == "日本… "


@pytest.mark.parametrize(
    ("age", "shown"), [(0, "now"), (4.9, "now"), (5, "5s"), (12, "10s"), (61, "1m"), (7300, "2h")]
)
def test_ages_step(age: float, shown: str) -> None:
    assert Ages(1000.0 + age).ago(1000.0) == shown


@given(st.floats(0, 200_000), st.floats(0, 1))
def test_an_age_reads_the_same_until_it_is_due(age: float, share: float) -> None:
    ages = Ages(1_000_000.0 + age)
    shown = ages.ago(1_000_000.0)
    before_due = ages.now + (ages.due - ages.now) * share * 0.999
    assert Ages(before_due).ago(1_000_000.0) == shown
    assert ages.due > ages.now


def test_ages_remember_the_first_that_changes() -> None:
    ages = Ages(1000.0)
    ages.ago(400.0)
    ages.ago(998.0)
    assert ages.due == 1003.0


def test_numbers_read_as_people_write_them() -> None:
    assert names([0, 2, 3, 4, 7, 8]) == "0, 2-4, 7, 8"
    assert layers(8, 16) == "8-15"
    assert size(2 * 2**30) == "2.0 GiB"
    assert [milliseconds(value) for value in (None, 0.4, 840.0, 12_300.0)] == [
        "—", "<1 ms", "840 ms", "12.3 s",
    ]
