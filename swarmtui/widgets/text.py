"""Text for a terminal cell grid: cutting, wrapping, ages and sizes.

Every string that is drawn goes through `fit` or `wrap`, which clean it a second time (the first
is at the node's ingress), so nothing a peer wrote reaches the terminal raw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from rich.cells import cell_len, chop_cells, set_cell_size

from node.clean import clean, short_id
from swarmtui.amounts import DASH as DASH, duration as duration, size as size

Span = tuple[str, str]
"""Text and the name of its style in the palette."""

Line = tuple[Span, ...]

LONGEST = 4096


def printable(text: str, limit: int = LONGEST) -> str:
    """`text` cleaned for one line, without characters that take no cell of their own.

    Stacked combining marks would draw over the lines above and below, so they go too.
    """
    if text.isascii() and text.isprintable() and len(text) <= limit:
        return text
    text = clean(text, limit)
    if text.isascii():
        return text
    return "".join(char for char in text if char.isascii() or cell_len(char))


def fit(text: str, width: int, align: str = "left") -> str:
    """`text` in exactly `width` cells: cut with an ellipsis, or padded."""
    if width <= 0:
        return ""
    text = printable(text, max(width * 2, 16))
    if text.isascii():
        if len(text) > width:
            return text[: width - 1] + "…"
        return text.rjust(width) if align == "right" else text.ljust(width)
    length = cell_len(text)
    if length > width:
        return set_cell_size(set_cell_size(text, width - 1).rstrip() + "…", width)
    pad = " " * (width - length)
    return pad + text if align == "right" else text + pad


def wrap(line: Line, width: int, indent: int = 0) -> list[Line]:
    """One styled line as several of at most `width` cells, broken at spaces where there are any.

    Continuation lines begin with `indent` blanks.
    """
    width = max(width, 8)
    indent = min(indent, width // 2)
    out: list[Line] = []
    current: list[Span] = []
    used = 0
    for text, style in line:
        for word in _words(printable(text)):
            size = cell_len(word.rstrip())
            if used + size > width and used > indent and size <= width - indent:
                out.append(tuple(current))
                current, used = [(" " * indent, "base")] if indent else [], indent
                word = word.lstrip()
            while used + cell_len(word.rstrip()) > width:
                # A wide character needs two cells; where they are not left, the line ends here.
                if width - used >= 2 or used == indent:
                    head = chop_cells(word, max(width - used, 2))[0]
                    current.append((head, style))
                    word = word[len(head) :]
                out.append(tuple(current))
                current, used = [(" " * indent, "base")] if indent else [], indent
            if word:
                if current and current[-1][1] == style:
                    current[-1] = (current[-1][0] + word, style)
                else:
                    current.append((word, style))
                used += cell_len(word)
    out.append(tuple(current))
    return out


def _words(text: str) -> Iterable[str]:
    """The text in pieces that each end after their blanks."""
    start = 0
    length = len(text)
    while start < length:
        end = start
        while end < length and text[end] != " ":
            end += 1
        while end < length and text[end] == " ":
            end += 1
        yield text[start:end]
        start = end


class Ages:
    """Ages as text, in steps coarse enough that a quiet screen does not change at every tick.

    now: the moment they are read at, unix seconds.
    due: when the first of the ages given out so far will read differently, unix seconds.
    """

    def __init__(self, now: float) -> None:
        self.now = now
        self.due = inf

    def seconds(self, since: float) -> int:
        """Whole seconds since `since`, floored to the step shown: 5 s, 1 min, 1 h, 1 day."""
        age = max(self.now - since, 0.0)
        step = 5 if age < 60 else 60 if age < 3600 else 3600 if age < 86400 else 86400
        floor = int(age // step) * step
        self.due = min(self.due, since + floor + step)
        return floor

    def ago(self, since: float) -> str:
        """How long ago: `now`, `5s`, `3m`, `2h`, `4d`; a dash for never."""
        if since <= 0:
            return DASH
        floor = self.seconds(since)
        return "now" if floor < 5 else duration(floor)

    def left(self, until: float) -> str:
        """How long until then, rounded up to the step; `now` when it has passed."""
        rest = until - self.now
        if rest <= 0:
            return "now"
        step = 5 if rest < 60 else 60
        steps = int(-(-rest // step))
        self.due = min(self.due, max(until - (steps - 1) * step, self.now + 0.5))
        return duration(steps * step)

    def at(self, since: float) -> float:
        """A moment to hand to `State.why` instead of now, so that its seconds step too."""
        return since + self.seconds(since) if since > 0 else self.now


def milliseconds(value: float | None) -> str:
    """`<1 ms`, `840 ms`, `12.3 s`; a dash for None."""
    if value is None:
        return DASH
    if value < 1:
        return "<1 ms"
    return f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.1f} s"


def layers(start: int, end: int) -> str:
    """A layer range [start, end) as the operator counts it: first-last, both included."""
    return f"{start}-{end - 1}" if end > start else DASH


def peer_name(peer_id: str) -> str:
    """A peer id as people tell peers apart."""
    return printable(short_id(peer_id), 16)


def names(items: Sequence[int] | Iterable[int]) -> str:
    """Shard ids as a short list with runs of three and more joined: `0, 2-5`."""
    runs: list[list[int]] = []
    for item in sorted(items):
        if runs and item == runs[-1][1] + 1:
            runs[-1][1] = item
        else:
            runs.append([item, item])
    return ", ".join(
        f"{a}-{b}" if b > a + 1 else f"{a}, {b}" if b > a else str(a) for a, b in runs
    )
