"""Which names a file of the swarm may have, and the names of its files while it is unfinished.

A name from a peer is checked here before it becomes a path. The rules hold on every platform, so
that a shard published on one machine can be stored on any other.
"""

from __future__ import annotations

import hashlib
import unicodedata

from node.clean import clean
from node.errors import PlainError
from node.torrent.limits import MAX_NAME_BYTES

SUFFIXES = (".gguf",)
PART = ".part"
STATE = ".part.state"
_LONGEST = ".part.state.tmp"
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789\u00b9\u00b2\u00b3"]
)
_REFUSED_CATEGORIES = frozenset(["Cc", "Cf", "Cs", "Co", "Zl", "Zp"])


def check_name(name: str, *, suffixes: tuple[str, ...] = SUFFIXES) -> str:
    """Return `name` unchanged when it may be a file's name; PlainError names what is wrong.

    One path component, NFC, 1 to 255 bytes of UTF-8, no `/`, `\\` or control, format or
    bidirectional character, not starting with `-` or `.`, not ending in a space or dot, no device
    name of Windows, ending in one of `suffixes`.
    """
    wrong = _wrong(name, suffixes)
    if wrong:
        raise PlainError(
            f"The file name '{clean(name, 80)}' {wrong}.",
            "Ask its publisher to rename it; nothing was written.",
        )
    return name


def _wrong(name: object, suffixes: tuple[str, ...]) -> str:
    if not isinstance(name, str) or not name:
        return "is empty"
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if size > MAX_NAME_BYTES:
        return f"has {size} bytes, {MAX_NAME_BYTES} are allowed"
    for mark in ("/", "\\"):
        if mark in name:
            return f"holds '{mark}', which would lead out of the folder"
    if name in (".", ".."):
        return "means a folder"
    for character in name:
        if unicodedata.category(character) in _REFUSED_CATEGORIES or clean(character) != character:
            return f"holds an invisible or control character (U+{ord(character):04X})"
    if unicodedata.normalize("NFC", name) != name:
        return "is not in Unicode's composed form (NFC)"
    if name[0] in "-.":
        return f"starts with '{name[0]}'"
    if name[-1] in " .":
        return "ends with a space or a dot"
    if name.split(".", 1)[0].rstrip(" ").casefold() in _DEVICES:
        return "is a device on Windows"
    if not name.endswith(suffixes):
        return f"does not end in {' or '.join(suffixes)}"
    return ""


def part_name(name: str) -> str:
    """The file that holds the data of `name` until it is complete."""
    return _stem(name) + PART


def state_name(name: str) -> str:
    """The file that remembers which pieces of `part_name(name)` are durable."""
    return _stem(name) + STATE


def _stem(name: str) -> str:
    # A name of 255 bytes is allowed but leaves no room for a suffix.
    if len(name.encode("utf-8")) + len(_LONGEST) <= MAX_NAME_BYTES:
        return name
    return hashlib.sha256(name.encode("utf-8")).hexdigest()
