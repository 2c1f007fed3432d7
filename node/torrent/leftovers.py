"""What earlier downloads left in the folder: a proven piece layer, and names to clean up."""

from __future__ import annotations

from collections.abc import Iterable

from node.errors import PlainError
from node.torrent.folder import Folder
from node.torrent.merkle import layer_matches
from node.torrent.names import STATE, check_name, part_name, state_name
from node.torrent.sizes import Layout
from node.torrent.starting import read_saved


def stored_layer(folder: Folder, name: str, *, root: bytes, layout: Layout) -> bytes | None:
    """The piece layer that an earlier download left, proven against `root`; None without one.

    Reads only and takes no lock. PlainError when the state file cannot be opened.
    """
    saved = read_saved(folder, name)
    if saved is None or saved.header.layout != layout:
        return None
    if not layer_matches(saved.layer, layout, root):
        return None
    return saved.layer


def tidy(folder: Folder, name: str) -> bool:
    """Remove what a crash in the last step left beside the finished file `name`.

    That is a part file which is the finished file itself under its old name, and a state file
    without a part. Anything else stays. Returns whether something was removed; OSError.
    """
    final = folder.facts_of(name)
    part = folder.facts_of(part_name(name))
    if final is None or not final.regular:
        return False
    if part is not None and (part.device, part.inode) != (final.device, final.inode):
        return False
    if part is None and folder.facts_of(state_name(name)) is None:
        return False
    folder.sync_names()
    folder.unlink(part_name(name))
    folder.unlink(state_name(name))
    folder.sync_names()
    return True


def unfinished(folder: Folder, names: Iterable[str]) -> dict[str, str]:
    """Of the names in a folder: files whose download was begun and not finished -> root in hex.

    Reads only and takes no lock; what cannot be read is left out.
    """
    found: dict[str, str] = {}
    present = set(names)
    for state in sorted(item for item in present if item.endswith(STATE)):
        name = state.removesuffix(STATE)
        if name in present or part_name(name) not in present:
            continue
        try:
            check_name(name)
            saved = read_saved(folder, name)
        except (PlainError, OSError):
            continue
        if saved is not None:
            found[name] = saved.header.root.hex()
    return found
