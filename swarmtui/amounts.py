"""Amounts as text, in one style everywhere: sizes, rates, durations, shares, bars.

Imports no terminal library, so that the command line and the console share it.
"""

from __future__ import annotations

DASH = "—"
WIDEST = 8
_EIGHTHS = "▏▎▍▌▋▊▉"


def size(count: float) -> str:
    """Bytes in binary units, at most 8 characters: `940 B`, `1.9 GiB`, `512 MiB`, `—` for none."""
    if count <= 0:
        return DASH
    from humanize import naturalsize

    text = naturalsize(count, binary=True)
    if len(text) > WIDEST:
        text = naturalsize(count, binary=True, format="%.0f")
    return str(text).replace(" Bytes", " B").replace(" Byte", " B")


def of(done: float, whole: float) -> str:
    """`482 MiB of 1.0 GiB`; also when nothing is done yet: `0 B of 1.0 GiB`."""
    return f"{size(done) if done >= 1 else '0 B'} of {size(whole)}"


def rate(per_second: float) -> str:
    """Bytes per second as `94.2 MiB/s`, at most 10 characters; a dash for none."""
    return DASH if per_second < 1 else f"{size(per_second)}/s"


def duration(seconds: float) -> str:
    """`42s`, `3m`, `2h`, `4d`."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    if seconds < 3600:
        return f"{seconds // 60:.0f}m"
    if seconds < 86400:
        return f"{seconds // 3600:.0f}h"
    return f"{seconds // 86400:.0f}d"


def took(seconds: float) -> str:
    """How long something took: `0.3 s`, `42.0 s`, `3m`."""
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def left(seconds: float | None) -> str:
    """Time left as `42s`, `3m`, `2h`, `4d`; `>99d` beyond that, a dash while unknown."""
    if seconds is None:
        return DASH
    return duration(max(seconds, 0.0)) if seconds < 100 * 86400 else ">99d"


def percent(share: float) -> str:
    """A share of 1 as `47 %`; 100 only when nothing is left."""
    share = min(max(share, 0.0), 1.0)
    return f"{int(share * 100)} %"


def bar(share: float, width: int) -> tuple[str, str]:
    """A bar of `width` cells in eighths of a cell: what is filled, and what is not."""
    share = min(max(share, 0.0), 1.0)
    eighths = int(share * width * 8)
    full, part = divmod(eighths, 8)
    filled = "█" * full + (_EIGHTHS[part - 1] if part else "")
    return filled, "─" * (width - len(filled))


def plural(count: int, word: str) -> str:
    """`1 peer`, `3 peers`."""
    return f"{count} {word}{'s' * (count != 1)}"


def ratio(value: float) -> str:
    """Bytes sent / size, such as `0.12` or `31.4`; a dash for none."""
    if value <= 0:
        return DASH
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
