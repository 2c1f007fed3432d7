"""The shards of this node: files on disk, loading and unloading, and the events of it.

LOADED means that llama.cpp holds the weights. Loading runs in a worker thread and reports its
progress; one shard loads at a time, because two would only fight for the disk.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from node import events as ev
from node.clean import clean
from node.errors import PlainError
from node.shards.inspect import ShardFile, inspect_shard, shard_filename, shard_id_of
from node.torrent.files import FileHash, shard_files

if TYPE_CHECKING:
    from node.shards.engine import LoadedShard

Emit = Callable[[ev.Event], None]
PROGRESS_STEP = 0.05


class Shards:
    """The files and loaded shards of one node. Methods run in the node's trio loop."""

    def __init__(
        self,
        emit: Emit,
        *,
        folder: Path,
        total_shards: int,
        threads: int | None,
        use_mmap: bool,
    ) -> None:
        self._emit = emit
        self.folder = folder
        self._total = total_shards
        self._threads = threads
        self._use_mmap = use_mmap
        self._loaded: dict[int, LoadedShard] = {}
        self._info: dict[int, ShardFile] = {}
        self._files: dict[str, FileHash] = {}
        self._turn = trio.Lock()
        self._scanning = trio.Lock()
        self._wanted: set[int] = set()
        self.changed: Callable[[int], None] = lambda shard_id: None

    # ------------------------------------------------------------ files

    @property
    def files(self) -> list[FileHash]:
        """The GGUF files found on disk with their info hashes."""
        return sorted(self._files.values(), key=lambda item: item.filename)

    def info(self, shard_id: int) -> ShardFile | None:
        """What is known of the shard's file here."""
        return self._info.get(shard_id)

    def lacks_file(self, shard_id: int) -> bool:
        """Whether a valid shard id has neither a file in the folder nor weights in memory."""
        return (
            0 <= shard_id < self._total
            and shard_id not in self._loaded
            and not (self.folder / shard_filename(shard_id)).is_file()
        )

    def is_loaded(self, shard_id: int) -> bool:
        return shard_id in self._loaded

    @property
    def loaded_ids(self) -> list[int]:
        return sorted(self._loaded)

    async def scan(self) -> None:
        """Look at the shards folder: which files there are, and what their headers say."""
        async with self._scanning:
            await self._scan()

    async def _scan(self) -> None:
        found = await trio.to_thread.run_sync(shard_files, self.folder)
        before, self._files = self._files, {item.filename: item for item in found}
        for name, item in self._files.items():
            shard_id = shard_id_of(name)
            if before.get(name) != item and shard_id is not None and shard_id < self._total:
                await self._inspect(shard_id)
        for name in before.keys() - self._files.keys():
            shard_id = shard_id_of(name)
            if shard_id is not None and self._info.pop(shard_id, None) is not None:
                self._gone(shard_id)

    def _gone(self, shard_id: int) -> None:
        """A file vanished. What is loaded stays loaded: the weights are in memory or mapped."""
        if not self.is_loaded(shard_id):
            self.say_missing(shard_id)
            self.changed(shard_id)

    def say_missing(self, shard_id: int) -> None:
        """Tell that there is no file for a shard."""
        error = self.missing_message(shard_id)
        self._emit(
            ev.ShardFileMissing(
                at=time.time(),
                shard_id=shard_id,
                looked_in=str(self.folder),
                sentence=error.sentence,
                next_step=error.next_step,
            )
        )

    async def _inspect(self, shard_id: int) -> ShardFile | None:
        """Read the header of a shard file; says in an event what is wrong with a bad one."""
        path = self.folder / shard_filename(shard_id)
        try:
            info = await trio.to_thread.run_sync(inspect_shard, path)
            self._check(shard_id, info)
        except PlainError as error:
            self._info.pop(shard_id, None)
            if not self.is_loaded(shard_id):
                self._emit(
                    ev.ShardFileMissing(
                        at=time.time(),
                        shard_id=shard_id,
                        looked_in=str(self.folder),
                        sentence=error.sentence,
                        next_step=error.next_step,
                    )
                )
            return None
        self._info[shard_id] = info
        if not self.is_loaded(shard_id):
            self._emit(
                ev.ShardFileFound(
                    at=time.time(),
                    shard_id=shard_id,
                    path=str(path),
                    size=info.size,
                    layer_start=info.layer_start,
                    layer_end=info.layer_end,
                    model_name=clean(info.model_name, 96),
                )
            )
            self.changed(shard_id)
        return info

    def _check(self, shard_id: int, info: ShardFile) -> None:
        if info.total_shards is not None and info.total_shards != self._total:
            raise PlainError(
                f"{info.filename} belongs to a model cut into {info.total_shards} shards,"
                f" this node is set to {self._total}.",
                f"Start the node with --total-shards {info.total_shards}.",
            )
        if info.shard_id != shard_id:
            raise PlainError(
                f"{info.filename} holds shard {info.shard_id}, not shard {shard_id}.",
                "Give the file its right name, or get the right file.",
            )

    # ------------------------------------------------------------ loading

    def missing_message(self, shard_id: int) -> PlainError:
        """Where the file of a shard was looked for and how to get one."""
        return PlainError(
            f"There is no file for shard {shard_id}: looked for"
            f" {self.folder / shard_filename(shard_id)}.",
            "Start a node that has it, copy the file there, or cut a model: 'swarmtui split"
            f" MODEL.gguf --shards {self._total} --out {self.folder}'.",
        )

    async def load(self, shard_id: int) -> ShardFile:
        """Load a shard from its file; PlainError with the reason when that cannot be done.

        Loading a loaded shard is a no-op. The state hears of every step.
        """
        if not 0 <= shard_id < self._total:
            raise PlainError(
                f"There is no shard {shard_id}: this cluster's shards are 0 to {self._total - 1}.",
                "Name one of them.",
            )
        self._wanted.add(shard_id)
        async with self._turn:
            if shard_id in self._loaded:
                return self._loaded[shard_id].info
            path = self.folder / shard_filename(shard_id)
            try:
                if not await trio.Path(path).exists():
                    self.say_missing(shard_id)
                    raise self.missing_message(shard_id)
                return await self._load(shard_id, path)
            finally:
                self.changed(shard_id)

    async def _load(self, shard_id: int, path: Path) -> ShardFile:
        start = time.perf_counter()
        self._emit(ev.ShardLoading(at=time.time(), shard_id=shard_id, progress=0.0, path=str(path)))
        self.changed(shard_id)
        shown = 0.0

        def progress(fraction: float) -> None:
            nonlocal shown
            step = math.floor(fraction / PROGRESS_STEP) * PROGRESS_STEP
            if step > shown:
                shown = step
                trio.from_thread.run_sync(
                    self._emit,
                    ev.ShardLoading(
                        at=time.time(), shard_id=shard_id, progress=round(step, 2), path=str(path)
                    ),
                )

        try:
            info = await trio.to_thread.run_sync(inspect_shard, path)
            self._check(shard_id, info)
            shard = await trio.to_thread.run_sync(self._open, path, progress)
        except PlainError as error:
            self._emit(
                ev.ShardLoadFailed(
                    at=time.time(),
                    shard_id=shard_id,
                    sentence=error.sentence,
                    next_step=error.next_step,
                )
            )
            raise
        self._loaded[shard_id] = shard
        self._info[shard_id] = info
        self._emit(
            ev.ShardLoaded(
                at=time.time(),
                shard_id=shard_id,
                path=str(path),
                size=info.size,
                layer_start=info.layer_start,
                layer_end=info.layer_end,
                model_name=clean(info.model_name, 96),
                seconds=round(time.perf_counter() - start, 3),
            )
        )
        return info

    def _open(self, path: Path, progress: Callable[[float], None]) -> LoadedShard:
        from node.shards.engine import load_shard

        return load_shard(
            path, threads=self._threads, use_mmap=self._use_mmap, on_progress=progress
        )

    async def unload(self, shard_id: int, reason: str) -> None:
        """Release the weights of a shard; PlainError when it is not loaded."""
        self._wanted.discard(shard_id)
        async with self._turn:
            shard = self._loaded.pop(shard_id, None)
            if shard is None:
                raise PlainError(
                    f"Shard {shard_id} is not loaded on this node.",
                    "Use GET_STATUS to see what is.",
                )
            await trio.to_thread.run_sync(shard.close)
            self._emit(ev.ShardUnloaded(at=time.time(), shard_id=shard_id, reason=reason))
            self.changed(shard_id)

    async def close(self) -> None:
        """Release everything, at the node's end."""
        for shard in list(self._loaded.values()):
            await trio.to_thread.run_sync(shard.close)
        self._loaded.clear()
