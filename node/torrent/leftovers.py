"""What earlier downloads left in the folder: a proven piece layer, and names to clean up."""

from __future__ import annotations

from node.torrent.folder import Folder
from node.torrent.merkle import layer_matches
from node.torrent.names import part_name, state_name
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
