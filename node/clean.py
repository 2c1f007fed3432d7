"""One cleaner for every string that came from a peer or a file.

A terminal obeys escape sequences, bidirectional overrides and markup, so a remote string is
cleaned once, where it enters the node, and again where it is about to be printed (cheap, and a
second wall). Whatever could move a cursor or reorder text becomes U+FFFD; newlines become U+240A.
"""

from __future__ import annotations

import re

REPLACEMENT = "\ufffd"
NEWLINE = "\u240a"

# C0, DEL, C1, soft hyphen, grapheme joiner, Arabic letter mark, zero-width and bidi controls,
# line separators, invisible operators, variation selectors, byte order mark, interlinear marks,
# surrogates, tags, and noncharacters.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\ud800-\udfff"
    "\U000e0000-\U000e0fff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a]"
)


def clean(text: object, limit: int = 256) -> str:
    """Return `text` as a single printable line of at most `limit` characters.

    Total: any object is accepted and no input raises. The result holds no control, bidi or
    invisible character, so it can be shown on any terminal; it may still hold markup brackets,
    which the console never interprets in remote text.
    """
    if not isinstance(text, str):
        try:
            text = str(text)
        except Exception:  # an integer of 5,000 digits is enough
            text = f"<{type(text).__name__}>"
    if len(text) > limit:
        text = text[: limit - 1] + "\u2026" if limit > 0 else ""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(
        lambda match: NEWLINE if match.group() == "\n" else REPLACEMENT,
        text.replace("\r\n", "\n"),
    )


def clean_tree(value: object, *, limit: int = 256, depth: int = 6, items: int = 64) -> object:
    """Clean every string inside a decoded JSON value, bounding depth and the items per level."""
    if isinstance(value, str):
        return clean(value, limit)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth <= 0:
        return "\u2026"
    if isinstance(value, dict):
        return {
            clean(key, 64): clean_tree(item, limit=limit, depth=depth - 1, items=items)
            for key, item in list(value.items())[:items]
        }
    if isinstance(value, list | tuple):
        return [
            clean_tree(item, limit=limit, depth=depth - 1, items=items) for item in value[:items]
        ]
    return clean(value, limit)


def short_id(peer_id: str) -> str:
    """A peer id as a person tells peers apart: `12D3…Kq4f`; short strings stay as they are."""
    text = clean(peer_id, 128)
    return text if len(text) <= 12 else f"{text[:4]}\u2026{text[-4:]}"
