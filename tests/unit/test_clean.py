"""clean(): whatever a peer writes, nothing that a terminal obeys comes out."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, strategies as st

from node.clean import NEWLINE, REPLACEMENT, clean, clean_tree, short_id

# Visible although Unicode files them under "format": signs that span the digits after them.
VISIBLE_FORMATS = {*range(0x0600, 0x0606), 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD}
VISIBLE_FORMATS |= set(range(0x13430, 0x13440))
INVISIBLE = "\u00ad\u034f\u115f\u1160\u17b4\u180e\u2065\u3164\ufe0f\ufe00\uffa0\U000e0100"
ANY_TEXT = st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF), max_size=400)


def is_unsafe(character: str) -> bool:
    kind = unicodedata.category(character)
    if kind in ("Cc", "Cs", "Zl", "Zp"):
        return True
    return kind == "Cf" and ord(character) not in VISIBLE_FORMATS


def test_every_control_bidi_and_zero_width_character_is_replaced() -> None:
    """All 1,114,112 code points, in one string per plane."""
    for start in range(0, 0x110000, 0x10000):
        text = "".join(map(chr, range(start, start + 0x10000)))
        left = {hex(ord(c)) for c in clean(text, len(text)) if is_unsafe(c)}
        assert not left


@pytest.mark.parametrize("character", INVISIBLE)
def test_what_cannot_be_seen_is_shown_as_replaced(character: str) -> None:
    assert clean(f"a{character}b") == f"a{REPLACEMENT}b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b[1;1Hgone", f"{REPLACEMENT}[2J{REPLACEMENT}[1;1Hgone"),
        ("\x9b31mred", f"{REPLACEMENT}31mred"),
        ("\x1b]0;title\x07", f"{REPLACEMENT}]0;title{REPLACEMENT}"),
        ("abc\u202egpj.exe", f"abc{REPLACEMENT}gpj.exe"),
        ("\u2066a\u2069", f"{REPLACEMENT}a{REPLACEMENT}"),
        ("pay\u200bpal", f"pay{REPLACEMENT}pal"),
        ("one\ntwo\r\nthree\rfour", f"one{NEWLINE}two{NEWLINE}three{REPLACEMENT}four"),
        ("[red]markup[/red] stays", "[red]markup[/red] stays"),
        ("Grüße, 世界, Ελλάδα", "Grüße, 世界, Ελλάδα"),
        ("lone \ud800 surrogate", f"lone {REPLACEMENT} surrogate"),
    ],
)
def test_known_tricks(text: str, shown: str) -> None:
    assert clean(text) == shown


@given(ANY_TEXT, st.integers(0, 300))
def test_short_single_line_and_safe(text: str, limit: int) -> None:
    shown = clean(text, limit)
    assert len(shown) <= limit
    assert not any(is_unsafe(c) for c in shown)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert len(shown.splitlines()) <= 1


@given(ANY_TEXT, st.integers(1, 300))
def test_cleaning_twice_changes_nothing(text: str, limit: int) -> None:
    once = clean(text, limit)
    assert clean(once, limit) == once


def test_ten_thousand_characters_are_cut_and_the_cut_is_shown() -> None:
    shown = clean("x" * 10_000)
    assert len(shown) == 256
    assert shown.endswith("…")


class Nasty:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def test_any_object_is_accepted() -> None:
    for value in (None, 3, 2.5, b"\x1b[", [], {"a": "\x1b"}, 10**5000, Nasty()):
        shown = clean(value)
        assert not any(is_unsafe(c) for c in shown)
        assert len(shown) <= 256


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(ANY_TEXT, inner, max_size=5),
    max_leaves=30,
)


def strings_of(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in strings_of(part)]
    if isinstance(value, list):
        return [text for item in value for text in strings_of(item)]
    return []


@given(JSON)
def test_every_string_of_a_tree_is_cleaned(value: object) -> None:
    for text in strings_of(clean_tree(value, limit=40)):
        assert len(text) <= 64
        assert not any(is_unsafe(c) for c in text)


def test_a_tree_is_bounded_in_depth_and_width() -> None:
    deep: object = "x"
    for _ in range(500):
        deep = [deep]
    shown = clean_tree(deep, depth=3)
    assert shown == [[["…"]]]
    wide = clean_tree(list(range(1000)), items=10)
    assert wide == list(range(10))


def test_short_ids_are_told_apart_by_both_ends() -> None:
    assert short_id("12D3KooWabcdefghKq4f") == "12D3…Kq4f"
    assert short_id("short") == "short"
    assert "\x1b" not in short_id("\x1b[31m" + "x" * 40)
