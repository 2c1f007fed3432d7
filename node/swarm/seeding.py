"""Seeding: every GGUF file of the shards folder is hashed once and offered to the swarm.

The folder is watched; a file that appears is hashed (or found in the cache of hashes) and seeded,
one that vanishes or changes is withdrawn. A file whose content is not what was accepted under its
name before is not seeded until the operator publishes it: rot must not spread.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from node import events as ev
from node.clean import clean
from node.errors import PlainError
from node.shards.inspect import inspect_shard, shard_id_of
from node.torrent.bringing import bring
from node.torrent.files import FileHash, info_hash
from node.torrent.folder import RealFolder
from node.torrent.hash_cache import HashCache
from node.torrent.hashing import FileHashes, HashingStopped, hash_file, identity_of
from node.torrent.leftovers import tidy
from node.torrent.library import Library, Seeded
from node.torrent.names import check_name
from node.torrent.transfer.shared import OpenFile, SharedFile
from node.torrent.trust import KnownRoots

if TYPE_CHECKING:
    from node.shards.service import Shards
    from node.swarm.registering import Registering

Emit = Callable[[ev.Event], None]
SETTLE_S = 1.0
"""A file that appears is left alone until nobody wrote to it for so long: it may be a copy."""
PROGRESS_STEP = 0.1


class Seeding:
    """Keeps `library` what the folder holds. Methods run in the node's loop."""

    def __init__(
        self,
        shards: Shards,
        library: Library,
        registering: Registering,
        cache: HashCache,
        roots: KnownRoots,
        emit: Emit,
        *,
        total_shards: Callable[[], int],
        rescan_s: float,
    ) -> None:
        self._shards = shards
        self._library = library
        self._registering = registering
        self._cache = cache
        self._roots = roots
        self._emit = emit
        self._total = total_shards
        self._rescan_s = rescan_s
        self._folder = shards.folder
        self._first = True
        self._token = trio.lowlevel.current_trio_token()
        self._wake = trio.Event()
        self._looking = trio.Lock()
        self._stop = threading.Event()
        self._refused: dict[str, FileHash] = {}
        self.arriving: set[str] = set()
        """Names of downloads on their way: their files are adopted, not found."""
        self.scanned = trio.Event()
        self.changed: Callable[[], None] = lambda: None
        """Told after every look at the folder."""

    # ------------------------------------------------------------ running

    async def run(self) -> None:
        """Look, and look again when the folder changes, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                unwatch = trio.Event()
                nursery.start_soon(self._watch, unwatch)
                try:
                    while True:
                        self._wake = trio.Event()
                        pause = await self.look()
                        with trio.move_on_after(pause):
                            await self._wake.wait()
                finally:
                    # The watching thread looks at it; a cancelled task alone would not end it.
                    unwatch.set()
        finally:
            self._stop.set()

    def nudge(self) -> None:
        """Have the folder looked at again."""
        self._wake.set()

    async def _watch(self, unwatch: trio.Event) -> None:
        try:
            await trio.to_thread.run_sync(
                lambda: self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            )
            from watchfiles import awatch

            async for _ in awatch(
                self._folder,
                watch_filter=lambda change, path: path.endswith(".gguf"),
                recursive=False,
                step=400,
                debounce=800,
                stop_event=unwatch,
            ):
                self.nudge()
        except (OSError, RuntimeError, ImportError) as error:
            # Some file systems cannot be watched: the folder is looked at from time to time.
            self._emit(
                ev.Problem(
                    at=time.time(),
                    level="debug",
                    tag="TORRENT",
                    sentence="The shards folder cannot be watched; it is read now and then.",
                    detail=clean(f"{type(error).__name__}: {error}", 300),
                )
            )

    async def look(self) -> float:
        """Compare the folder with what is seeded; seconds until the next look is due."""
        async with self._looking:
            await self._shards.scan()
            current = {item.filename: item for item in self._shards.files}
            for item in self._library.seeded:
                name = item.file.filename
                if current.get(name) != item.file:
                    await self._withdraw(item, "changed" if name in current else "vanished")
            pause = self._rescan_s
            for name, found in current.items():
                if self._library.get(name) is not None or name in self.arriving:
                    continue
                if self._refused.get(name) == found:
                    continue
                age = time.time() - found.mtime_ns / 1e9
                if not self._first and 0 <= age < SETTLE_S:
                    pause = min(pause, SETTLE_S - age + 0.05)
                    continue
                await self._take_up(found)
            if self._first:
                self._first = False
                self._tell_scanned()
            self.changed()
        return pause

    def _tell_scanned(self) -> None:
        total = self._total()
        ids = {shard_id_of(item.file.filename) for item in self._library.seeded}
        primary = sum(item is not None and item < total for item in ids)
        self._emit(
            ev.TorrentsScanned(
                at=time.time(),
                files=len(self._library.seeded),
                primary=primary,
                total_shards=total,
            )
        )
        self.scanned.set()
        self._registering.scanned()

    # ------------------------------------------------------------ one file

    async def _take_up(self, found: FileHash, *, accept: bool = False) -> Seeded | None:
        """Hash and seed a file; None when that cannot be done, an event says why."""
        name = found.filename
        try:
            check_name(name)
            hashes, fresh = await self._hashes(found)
            self._check_root(name, found.info_hash, hashes.root.hex(), accept)
            shared = OpenFile(self._folder / name, hashes, checked=fresh)
        except PlainError as error:
            self._refused[name] = found
            self._emit(
                ev.TorrentWithdrawn(
                    at=time.time(),
                    info_hash=found.info_hash,
                    filename=clean(name, 255),
                    reason=error.sentence,
                )
            )
            self._emit(
                ev.Problem(
                    at=time.time(),
                    level="warning",
                    tag="TORRENT",
                    sentence=error.sentence,
                    next_step=error.next_step,
                )
            )
            if accept:
                raise
            return None
        self._refused.pop(name, None)
        await trio.to_thread.run_sync(self._tidy, name)
        return self._seed(Seeded(found, hashes, shared))

    def _seed(self, item: Seeded) -> Seeded:
        name = item.file.filename
        self._library.add(item)
        self._emit(
            ev.TorrentSeeded(
                at=time.time(),
                info_hash=item.file.info_hash,
                filename=clean(name, 255),
                size=item.file.size,
                shard_id=shard_id_of(name),
                root=item.root,
                piece_length=item.hashes.layout.piece_length,
                pieces=item.hashes.layout.pieces,
            )
        )
        self._registering.changed()
        return item

    async def _hashes(self, found: FileHash) -> tuple[FileHashes, bool]:
        """The hashes of a file, and whether they were made now."""
        path = self._folder / found.filename
        try:
            identity = identity_of(await trio.to_thread.run_sync(os.lstat, path))
        except OSError as error:
            raise PlainError(
                f"The file {clean(found.filename, 80)} cannot be read ({error.strerror}).",
                "Check its rights.",
            ) from error
        known = await trio.to_thread.run_sync(self._cache.get, identity)
        if known is not None:
            return known, False
        # Given up when the node stops: `run` then tells the thread to end.
        made = await trio.to_thread.run_sync(
            lambda: self._hash(path, found),
            abandon_on_cancel=True,  # type: ignore[call-arg]  # mypy loses it behind Unpack
        )
        await trio.to_thread.run_sync(self._cache.put, made)
        return made, True

    def _hash(self, path: Path, found: FileHash) -> FileHashes:
        done = 0
        told = 0.0
        lock = threading.Lock()

        def progress(size: int) -> None:
            nonlocal done, told
            with lock:
                done += size
                share = math.floor(done / max(found.size, 1) / PROGRESS_STEP) * PROGRESS_STEP
                if share <= told or share >= 1.0:
                    return
                told = share
            self._from_thread(found, round(share, 2))

        self._from_thread(found, 0.0)
        try:
            return hash_file(path, progress=progress, stop=self._stop)
        except HashingStopped as error:
            raise PlainError("The node is stopping.") from error

    def _from_thread(self, found: FileHash, share: float) -> None:
        event = ev.TorrentHashing(
            at=time.time(),
            info_hash=found.info_hash,
            filename=clean(found.filename, 255),
            size=found.size,
            shard_id=shard_id_of(found.filename),
            progress=share,
        )
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._emit, event)

    def _check_root(self, name: str, key: str, root: str, accept: bool) -> None:
        known = self._roots.get(key)
        if known is not None and known != root and not accept:
            raise PlainError(
                f"{clean(name, 80)} is not what it was: its root is {root[:16]}…, known is"
                f" {known[:16]}….",
                f"If you replaced it on purpose: swarmtui torrent publish {clean(name, 80)}."
                " Otherwise get it again from a peer.",
            )
        self._roots.remember(key, root)

    def _tidy(self, name: str) -> None:
        folder = RealFolder(self._folder)
        try:
            # What a crash left behind is no trouble; it is tried again at the next start.
            with contextlib.suppress(OSError, PlainError):
                tidy(folder, name)
        finally:
            folder.close_folder()

    async def _withdraw(self, item: Seeded, reason: str) -> None:
        name = item.file.filename
        self._library.remove(name)
        self._emit(
            ev.TorrentWithdrawn(
                at=time.time(),
                info_hash=item.file.info_hash,
                filename=clean(name, 255),
                reason=reason,
            )
        )
        await self._registering.withdraw(item)

    # ------------------------------------------------------------ asked from outside

    def corrupt(self, shared: SharedFile, reason: str) -> None:
        """A file on this disk is not what was hashed: found while serving it."""
        item = self._library.of(shared)
        if item is None:
            return
        name = item.file.filename
        self._library.remove(name)
        self._refused[name] = item.file
        self._emit(
            ev.TorrentWithdrawn(
                at=time.time(),
                info_hash=item.file.info_hash,
                filename=clean(name, 255),
                reason=clean(reason, 300),
            )
        )
        self._emit(
            ev.Problem(
                at=time.time(),
                level="error",
                tag="TORRENT",
                sentence=f"{clean(name, 80)} on this disk is damaged: {clean(reason, 200)}.",
                next_step="It is no longer offered. Remove it and get it again from a peer.",
            )
        )
        self._registering.changed()

    async def adopt(self, filename: str, hashes: FileHashes) -> Seeded:
        """Seed a file that was just downloaded, without reading it again. Raises PlainError."""
        path = self._folder / filename
        async with self._looking:
            try:
                found = await trio.to_thread.run_sync(os.lstat, path)
            except OSError as error:
                raise PlainError(f"{clean(filename, 80)} vanished after its download.") from error
            known = FileHashes(hashes.layout, hashes.root, hashes.layer, b"", identity_of(found))
            await trio.to_thread.run_sync(self._cache.put, known)
            file = FileHash(
                filename,
                found.st_size,
                found.st_mtime_ns,
                found.st_ino,
                info_hash(filename, found.st_size),
            )
            self._roots.remember(file.info_hash, hashes.root.hex())
            return self._seed(Seeded(file, known, OpenFile(path, known, checked=True)))

    async def publish(self, path: Path) -> dict[str, Any]:
        """Bring a file into the folder if it lies elsewhere, and seed it whatever was known.

        Raises PlainError.
        """
        name = check_name(path.name)
        await trio.to_thread.run_sync(inspect_shard, path)
        self.arriving.add(name)
        try:
            await trio.to_thread.run_sync(bring, path, self._folder / name)
            async with self._looking:
                await self._shards.scan()
                found = next((i for i in self._shards.files if i.filename == name), None)
                if found is None:
                    raise PlainError(
                        f"{clean(name, 80)} cannot be seeded: it is not a regular file.",
                        "Copy the file itself into the shards folder.",
                    )
                item = await self._take_up(found, accept=True)
        finally:
            self.arriving.discard(name)
        assert item is not None
        self.changed()
        return {
            "info_hash": found.info_hash,
            "filename": name,
            "size": found.size,
            "root": item.root,
            "piece_length": item.hashes.layout.piece_length,
        }
