"""Taking up a download: whose part file it is, what of it is believed, and room for the rest."""

from __future__ import annotations

import contextlib
import random
import threading
from dataclasses import dataclass

from node.errors import PlainError
from node.torrent import resume
from node.torrent.disk_errors import (
    FULL,
    DiskFullError,
    InUseError,
    NameTakenError,
    OtherContentsError,
)
from node.torrent.folder import Facts, Folder
from node.torrent.hashing import Progress, hash_pieces
from node.torrent.limits import SAMPLE_PIECES
from node.torrent.merkle import node_at
from node.torrent.names import part_name, state_name
from node.torrent.resume import SavedState, StateDamagedError
from node.torrent.sizes import Layout


@dataclass(frozen=True, slots=True)
class Start:
    """An open, locked part file with room for the whole and the pieces of it that are believed."""

    handle: int
    identity: tuple[int, int]
    generation: int
    pieces: frozenset[int]
    restarted: bool
    recheck: str
    reason: str
    complete: bool = False


def read_saved(folder: Folder, name: str) -> SavedState | None:
    """The state file of `name`; None when it is missing, damaged or absurdly long.

    PlainError when something that is no regular file has its name; OSError.
    """
    try:
        handle = folder.open(state_name(name))
    except FileNotFoundError:
        return None
    try:
        size = folder.facts(handle).size
        if size > resume.MAX_STATE_BYTES:
            return None
        raw = bytearray(size)
        view = memoryview(raw)
        done = 0
        while done < size:
            count = folder.read(handle, view[done:], done)
            if count <= 0:
                break
            done += count
    finally:
        folder.close(handle)
    try:
        return resume.read_state(bytes(raw[:done]))
    except StateDamagedError:
        return None


def start(
    folder: Folder,
    name: str,
    *,
    info_hash: bytes,
    root: bytes,
    layout: Layout,
    layer: bytes,
    rng: random.Random,
    progress: Progress | None,
    stop: threading.Event | None,
) -> Start:
    """Open or create the part file; what `Part.open` documents, except for writing the state."""
    handle, created = _open_part(folder, name, layout)
    try:
        facts = _own(folder, name, handle)
        hasher = _Hasher(folder, handle, layout, layer, progress, stop)
        final = folder.facts_of(name)
        identity = (facts.device, facts.inode)
        if final is not None:
            # Both names on one inode: a crash fell between the last link and the cleaning up.
            if (final.device, final.inode) != identity or facts.size != layout.size:
                raise NameTakenError(name)
            if hasher.wrong(range(layout.pieces)):
                raise NameTakenError(name)
            pieces = frozenset(range(layout.pieces))
            reason = "the file was complete"
            return Start(handle, identity, 0, pieces, True, "full", reason, complete=True)
        if facts.links != 1:
            raise PlainError(
                f"The unfinished file {part_name(name)} has another name elsewhere.",
                "Remove it, so that writing to it changes nothing else.",
            )
        # Whose it is comes before any change to it.
        saved = None if created else read_saved(folder, name)
        ours = saved is not None and (saved.header.device, saved.header.inode) == identity
        if saved is not None and ours and saved.header.root != root:
            raise OtherContentsError(name, saved.header.root)
        _make_room(folder, name, handle, facts, layout, created)
        if created:
            return Start(handle, identity, 0, frozenset(), False, "none", "")
        reason = _doubt(saved, facts, info_hash, root, layout)
        if saved is not None and saved.header.flags & resume.BAD:
            folder.forget(handle)
        generation = saved.header.generation if saved is not None else 0
        if saved is not None and not reason:
            if not hasher.wrong(_sample(saved, rng)):
                return Start(handle, identity, generation, saved.pieces, True, "sample", "")
            reason = "a piece on disk does not match its hash"
        wrong = hasher.wrong(range(layout.pieces))
        pieces = frozenset(range(layout.pieces)) - wrong
        return Start(handle, identity, generation, pieces, True, "full", reason)
    except BaseException:
        folder.close(handle)
        raise


def _open_part(folder: Folder, name: str, layout: Layout) -> tuple[int, bool]:
    try:
        return folder.open(part_name(name)), False
    except FileNotFoundError:
        pass
    if folder.facts_of(name) is not None:
        raise NameTakenError(name)
    missing = layout.size + resume.max_bytes(layout) - folder.free()
    if missing > 0:
        raise DiskFullError(name, missing)
    try:
        return folder.create(part_name(name)), True
    except FileExistsError as error:
        raise InUseError(name) from error


def _own(folder: Folder, name: str, handle: int) -> Facts:
    """Lock the part; its facts. The name is looked up again: its owner may just have removed it."""
    if not folder.lock(handle):
        raise InUseError(name)
    facts = folder.facts(handle)
    named = folder.facts_of(part_name(name))
    if named is None or (named.device, named.inode) != (facts.device, facts.inode):
        raise InUseError(name)
    return facts


def _make_room(
    folder: Folder, name: str, handle: int, facts: Facts, layout: Layout, created: bool
) -> None:
    need = layout.size - facts.allocated
    try:
        if need > 0:
            missing = need - folder.free()
            if missing > 0:
                raise DiskFullError(name, missing)
        if need > 0 or facts.size < layout.size:
            try:
                folder.allocate(handle, layout.size)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                missing = layout.size - folder.facts(handle).allocated - folder.free()
                raise DiskFullError(name, max(missing, 1)) from error
        if facts.size > layout.size:
            folder.truncate(handle, layout.size)
        if created:
            folder.sync(handle)
    except BaseException:
        if created:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                folder.unlink(part_name(name))
        raise


def _doubt(
    saved: SavedState | None, facts: Facts, info_hash: bytes, root: bytes, layout: Layout
) -> str:
    """Why the state file cannot be believed for this part file; empty when it can."""
    if saved is None:
        return "its state file is missing or damaged"
    header = saved.header
    if (header.device, header.inode) != (facts.device, facts.inode):
        return "the unfinished file was replaced"
    if (header.info_hash, header.root, header.layout) != (info_hash, root, layout):
        return "its state file is of another file"
    if facts.size != layout.size:
        return f"the unfinished file has {facts.size} bytes instead of {layout.size}"
    if header.flags & resume.BAD:
        return "the disk had failed to confirm a write"
    return ""


def _sample(saved: SavedState, rng: random.Random) -> list[int]:
    last = set(saved.records[-1]) if saved.records else set()
    rest = sorted(saved.pieces - last)
    return sorted(last.union(rng.sample(rest, min(SAMPLE_PIECES, len(rest)))))


class _Hasher:
    """Reads pieces of the part file again and tells which are wrong."""

    def __init__(
        self,
        folder: Folder,
        handle: int,
        layout: Layout,
        layer: bytes,
        progress: Progress | None,
        stop: threading.Event | None,
    ) -> None:
        self._folder = folder
        self._handle = handle
        self._layout = layout
        self._layer = layer
        self._progress = progress
        self._stop = stop

    def wrong(self, pieces: range | list[int]) -> frozenset[int]:
        """Those of `pieces` that do not match the piece layer."""
        found = hash_pieces(
            lambda view, offset: self._folder.read(self._handle, view, offset),
            self._layout,
            pieces,
            progress=self._progress,
            stop=self._stop,
        )
        return frozenset(
            piece for piece in pieces if found.get(piece) != node_at(self._layer, piece)
        )
