"""Themes: shipped ones are legible to all, broken ones are explained by file, key and value."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from node.errors import PlainError
from swarmtui.theming import load_themes, palette_of, read_theme

GOOD = """
name = "mine"
dark = true
[colors]
background = "#000000"
foreground = "#ffffff"
primary = "#56b4e9"
local = "#f0e442"
online = "#56b4e9"
offline = "#d55e00"
"""
# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
BLINDNESS = {
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
}


def linear(colour: str) -> list[float]:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


def contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        red, green, blue = linear(colour)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def lab(colour: str, matrix: tuple[tuple[float, ...], ...]) -> tuple[float, float, float]:
    rgb = linear(colour)
    r, g, b = (min(max(sum(m * c for m, c in zip(row, rgb, strict=True)), 0), 1) for row in matrix)
    x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883
    fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("name", ["night", "day"])
def test_shipped_themes_are_legible(name: str) -> None:
    theme = load_themes().get(name)
    ground = theme.colour("background")
    for key in ("foreground", "primary", "local", "online", "offline", "dim", "warning", "error"):
        assert contrast(theme.colour(key), ground) >= 4.5, key
    assert contrast(theme.colour("foreground"), theme.colour("cursor")) >= 4.5
    assert contrast(theme.colour("foreground"), theme.colour("panel")) >= 4.5


def test_states_are_legible_in_the_selected_row_of_the_day() -> None:
    """On paper white the bar of the selected row takes contrast away from what is not black."""
    theme = load_themes().get("day")
    for key in ("primary", "local", "online", "offline", "dim", "warning", "error"):
        for ground in ("cursor", "panel"):
            assert contrast(theme.colour(key), theme.colour(ground)) >= 4.5, (key, ground)


@pytest.mark.parametrize("name", ["night", "day"])
@pytest.mark.parametrize("blindness", BLINDNESS)
def test_the_three_states_stay_apart_for_every_eye(name: str, blindness: str) -> None:
    theme = load_themes().get(name)
    matrix = BLINDNESS[blindness]
    points = [lab(theme.colour(key), matrix) for key in ("local", "online", "offline")]
    for first, second in combinations(points, 2):
        distance = sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5
        assert distance >= 20


def test_a_theme_needs_only_the_required_colours() -> None:
    theme = read_theme(GOOD, "mine.toml")
    assert theme.colour("success") == "#56b4e9"
    assert theme.textual().error == "#d55e00"
    assert palette_of(theme)["offline"].color is not None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('local = "#f0e442"', 'local = "yellowish"'), ("colors.local", "yellowish", "#rrggbb")),
        (('local = "#f0e442"', "local = 12"), ("colors.local", "12")),
        (('local = "#f0e442"\n', ""), ("lacks", "colors.local")),
        (('offline = "#d55e00"', 'ofline = "#d55e00"'), ("ofline", "Allowed are")),
        (("dark = true", 'dark = "yes"'), ("dark", "yes", "true or false")),
        (('name = "mine"', 'name = "../x"'), ("name", "../x")),
        (("[colors]", "[colours]"), ("colors",)),
        (("[colors]", "[colors"), ("not valid TOML",)),
        (('"#000000"', '"\x1b]52;c;x"'), ("not valid TOML",)),
    ],
)
def test_a_broken_theme_names_file_key_and_value(
    change: tuple[str, str], told: tuple[str, ...]
) -> None:
    with pytest.raises(PlainError) as caught:
        read_theme(GOOD.replace(*change), "/some/where/mine.toml")
    text = f"{caught.value.sentence} {caught.value.next_step}"
    assert caught.value.next_step
    assert "/some/where/mine.toml" in text
    for word in told:
        assert word in text
    assert "\x1b" not in text


def test_user_themes_load_and_broken_ones_are_only_problems(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(GOOD)
    (tmp_path / "bad.toml").write_text(GOOD.replace('"#000000"', '"black"'))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge.toml").write_text("#" * 100_000)
    themes = load_themes([tmp_path, tmp_path / "missing"])
    assert {"night", "day", "mine"} <= set(themes.found)
    assert len(themes.problems) == 3
    assert themes.get("mine").dark
    with pytest.raises(PlainError, match="black"):
        themes.get("bad")
    with pytest.raises(PlainError, match="no theme called nope") as caught:
        themes.get("nope")
    assert "day, mine, night" in caught.value.next_step


def test_without_colour_the_palette_has_none() -> None:
    palette = palette_of(None)
    for name in ("base", "local", "online", "offline", "bad", "cursor", "bar", "unknown"):
        style = palette[name]
        assert style.color is None and style.bgcolor is None
        under = palette.under_cursor(name, True)
        assert under.color is None and under.bgcolor is None
