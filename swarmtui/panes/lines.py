"""The kinds of lines a detail view is made of."""

from __future__ import annotations

from swarmtui.widgets.text import DASH, Line

BLANK: Line = ()


def field(name: str, value: str, style: str = "base") -> Line:
    """A name and its value; a dash where it is empty."""
    return ((f"{name:<10}", "dim"), (value or DASH, style))


def head(text: str) -> Line:
    """The heading of a section."""
    return ((text, "title"),)


def note(text: str) -> Line:
    """Something said in passing."""
    return ((text, "dim"),)


def step(text: str) -> Line:
    """What to do next."""
    return (("→ ", "key"), (text, "base"))
