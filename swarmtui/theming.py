"""Themes: TOML files read, every colour checked before Textual sees it, and the palette drawn with.

A bad colour given to Textual fails later with a misleading message, so nothing is registered
before it was validated here. With NO_COLOR in the environment the palette has no colours at all,
only bold, reverse and underline; every state also has a glyph and a word.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.clean import clean
from node.errors import PlainError

if TYPE_CHECKING:
    from rich.style import Style
    from textual.theme import Theme

DEFAULT = "night"
REQUIRED = ("background", "foreground", "primary", "local", "online", "offline")
OPTIONAL = (
    "surface", "panel", "secondary", "accent", "success", "warning", "error", "dim", "cursor",
)
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\Z")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")
LARGEST_FILE = 64 * 1024


@dataclass(frozen=True)
class ThemeFile:
    """One theme as read from its file: every colour is `#rrggbb`."""

    name: str
    dark: bool
    colours: dict[str, str]
    source: str = ""

    def colour(self, key: str) -> str:
        """The colour of `key`, derived from the required ones where the file leaves it out."""
        given = self.colours
        if key in given:
            return given[key]
        background, foreground = given["background"], given["foreground"]
        derived = {
            "surface": background,
            "panel": mix(background, foreground, 0.08),
            "secondary": given["primary"],
            "accent": given["primary"],
            "success": given["online"],
            "warning": given["local"],
            "error": given["offline"],
            "dim": mix(background, foreground, 0.62),
            "cursor": mix(background, foreground, 0.20),
        }
        return derived[key]

    def textual(self) -> Theme:
        """The same colours as Textual wants them."""
        from textual.theme import Theme

        theme = Theme(name=self.name, primary=self.colour("primary"), dark=self.dark)
        for key in (
            "secondary", "warning", "error", "success", "accent", "foreground", "background",
            "surface", "panel",
        ):
            setattr(theme, key, self.colour(key))
        return theme


@dataclass(frozen=True)
class Themes:
    """The themes that could be read, by name, and a problem for each that could not."""

    found: dict[str, ThemeFile] = field(default_factory=dict)
    problems: tuple[PlainError, ...] = ()

    def get(self, name: str) -> ThemeFile:
        """The theme called `name`.

        Raises PlainError when there is none, or when its file is broken.
        """
        if name in self.found:
            return self.found[name]
        for problem in self.problems:
            if f"{name}.toml" in problem.sentence:
                raise problem
        raise PlainError(
            f"There is no theme called {clean(name, 40)}.",
            f"Choose one of: {', '.join(sorted(self.found))}.",
        )


def mix(first: str, second: str, share: float) -> str:
    """The colour `share` of the way from `first` to `second`, both `#rrggbb`."""
    pairs = zip(_rgb(first), _rgb(second), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def read_theme(text: str, where: str) -> ThemeFile:
    """The theme in a TOML text.

    Raises PlainError naming the file, the key and the value that is wrong.
    """
    try:
        data: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlainError(
            f"The theme file {where} is not valid TOML: {clean(error, 120)}.",
            "Correct that line, or remove the file.",
        ) from None
    name, dark = data.pop("name", None), data.pop("dark", None)
    if not isinstance(name, str) or not _NAME.match(name):
        raise _wrong(where, "name", name, "Give it a name of small letters, digits and dashes.")
    if not isinstance(dark, bool):
        raise _wrong(where, "dark", dark, "Write true or false.")
    colours = data.pop("colors", None)
    if not isinstance(colours, dict):
        raise _wrong(where, "colors", colours, "Add a [colors] table.")
    for key in data:
        raise PlainError(
            f"The theme file {where} has a key that no theme has: {clean(key, 40)}.",
            "Allowed are name, dark and the [colors] table.",
        )
    for key, value in colours.items():
        if key not in REQUIRED and key not in OPTIONAL:
            raise PlainError(
                f"The theme file {where} has a colour that no theme has: {clean(key, 40)}.",
                f"Allowed are {', '.join((*REQUIRED, *OPTIONAL))}.",
            )
        if not isinstance(value, str) or not _COLOUR.match(value):
            raise _wrong(where, f"colors.{key}", value, "Write it as #rrggbb, such as #56b4e9.")
    for key in REQUIRED:
        if key not in colours:
            raise _wrong(where, f"colors.{key}", None, "Add it as #rrggbb.")
    return ThemeFile(name, dark, dict(colours), where)


def _wrong(where: str, key: str, value: object, step: str) -> PlainError:
    if value is None:
        return PlainError(f"The theme file {where} lacks the key {clean(key, 60)}.", step)
    return PlainError(
        f"The theme file {where} has a wrong value for {clean(key, 60)}: {clean(value, 60)}.", step
    )


def shipped_dir() -> Path | None:
    """Where the shipped themes lie: in the installed package, else in the repository."""
    from importlib.resources import files

    for candidate in (
        Path(str(files("swarmtui") / "themes")),
        Path(__file__).resolve().parent.parent / "themes",
    ):
        if candidate.is_dir():
            return candidate
    return None


def load_themes(folders: Sequence[Path] = ()) -> Themes:
    """The shipped themes and those in `folders`; a later one replaces an earlier of its name."""
    found: dict[str, ThemeFile] = {}
    problems: list[PlainError] = []
    shipped = shipped_dir()
    for path in _files([shipped] if shipped else [], folders):
        where = clean(path, 200)
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise PlainError(f"The theme file {where} is too large.", "Remove it.")
            theme = read_theme(path.read_text(encoding="utf-8"), where)
        except PlainError as problem:
            problems.append(problem)
        except (OSError, UnicodeDecodeError) as error:
            problems.append(
                PlainError(
                    f"The theme file {where} cannot be read: {clean(error, 120)}.",
                    "Correct it, or remove it.",
                )
            )
        else:
            found[theme.name] = theme
    if DEFAULT not in found:
        found[DEFAULT] = _LAST_RESORT
    return Themes(found, tuple(problems))


def _files(*groups: Iterable[Path]) -> list[Path]:
    paths: list[Path] = []
    for group in groups:
        for folder in group:
            if folder.is_dir():
                paths.extend(sorted(folder.glob("*.toml")))
    return paths


# Used only where the package data is missing: a console in these colours beats none.
_LAST_RESORT = ThemeFile(
    DEFAULT,
    True,
    {
        "background": "#101418",
        "foreground": "#d8dee4",
        "primary": "#56b4e9",
        "local": "#f0e442",
        "online": "#56b4e9",
        "offline": "#d55e00",
    },
    "built in",
)


class Palette:
    """Style names to Rich styles: `palette["offline"]`. Unknown names read as `base`."""

    def __init__(self, styles: dict[str, Style]) -> None:
        self._styles = styles
        self._cursor: dict[str, Style] = {}

    def __getitem__(self, name: str) -> Style:
        return self._styles.get(name) or self._styles["base"]

    def under_cursor(self, name: str, focused: bool) -> Style:
        """The style `name` on the cursor's row."""
        key = f"{name}/{focused}"
        style = self._cursor.get(key)
        if style is None:
            style = self[name] + self["cursor" if focused else "cursor-away"]
            self._cursor[key] = style
        return style


def palette_of(theme: ThemeFile | None) -> Palette:
    """The palette of a theme; None gives the one without any colour."""
    from rich.style import Style

    if theme is None:
        plain, bold = Style(), Style(bold=True)
        return Palette(
            {
                "base": plain, "dim": plain, "title": bold, "frame": plain, "focus": bold,
                "head": Style(underline=True), "key": bold, "bar": Style(reverse=True),
                "local": bold, "online": plain, "offline": Style(reverse=True),
                "good": plain, "warn": bold, "bad": Style(reverse=True), "strong": bold,
                "cursor": Style(reverse=True), "cursor-away": Style(underline=True),
            }
        )
    ground = theme.colour("background")

    def ink(key: str, **more: Any) -> Style:
        return Style(color=theme.colour(key), bgcolor=ground, **more)

    return Palette(
        {
            "base": ink("foreground"),
            "strong": ink("foreground", bold=True),
            "dim": ink("dim"),
            "title": ink("foreground", bold=True),
            "frame": Style(color=mix(ground, theme.colour("foreground"), 0.35), bgcolor=ground),
            "focus": ink("primary", bold=True),
            "head": ink("dim", bold=True),
            "key": ink("primary", bold=True),
            "bar": Style(color=theme.colour("foreground"), bgcolor=theme.colour("panel")),
            "local": ink("local", bold=True),
            "online": ink("online", bold=True),
            "offline": ink("offline", bold=True),
            "good": ink("success"),
            "warn": ink("warning"),
            "bad": ink("error", bold=True),
            "cursor": Style(bgcolor=theme.colour("cursor"), bold=True),
            "cursor-away": Style(bgcolor=theme.colour("panel")),
        }
    )
