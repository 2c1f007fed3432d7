"""One transfer of a node: the engine with its sources, its events, and the file at the end."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from node import events as ev
from node.clean import clean
from node.errors import PlainError
from node.network.bulk import BulkStreams
from node.swarm.fetch_events import changed_event, finished_event
from node.swarm.job import Job
from node.swarm.seeding import Seeding
from node.swarm.sources import Sources
from node.torrent.folder import RealFolder
from node.torrent.hashing import FileHashes
from node.torrent.library import Library
from node.torrent.limits import MAX_PEERS
from node.torrent.manifest import Manifest
from node.torrent.own_manifests import ManifestStore
from node.torrent.transfer.blame import Bans, Verdict
from node.torrent.transfer.download import Download, Plan
from node.torrent.transfer.progress import TransferProgress
from node.torrent.transfer.shared import ArrivingFile
from node.torrent.transfer.streams import Stream
from node.torrent.transfer.upload import TokenBucket, Uploads

Emit = Callable[[ev.Event], None]
LOOK_AGAIN_S = 12.0
"""Between two looks for more sources of a file on its way."""


class Transferring:
    """What all transfers of a node share. Used in the node's loop."""

    def __init__(
        self,
        sources: Sources,
        seeding: Seeding,
        library: Library,
        streams: BulkStreams,
        kept: ManifestStore,
        uploads: Uploads,
        emit: Emit,
        *,
        folder: Path,
        max_down: float | None,
    ) -> None:
        """`max_down` in bytes per second."""
        self._sources = sources
        self._seeding = seeding
        self._library = library
        self._streams = streams
        self._kept = kept
        self._uploads = uploads
        self._emit = emit
        self._folder = folder
        self._bans = Bans(trio.current_time)
        self._down = TokenBucket(max_down)
        self._running: set[Download] = set()
        self.provide: Callable[[str], Awaitable[object]] = _nothing
        """Tell the DHT that this node serves pieces of a root (in hex)."""
        self.moved: Callable[[int], None] = lambda shard_id: None
        """Told when a shard's download began or went on by a tenth."""

    def reconnected(self, peer_id: str) -> None:
        """A peer is connected again: downloads that lost it ask it at once."""
        for download in self._running:
            download.retry(peer_id)

    async def run(self, job: Job, manifest: Manifest) -> None:
        """Fetch the chosen content into the folder and seed it. Raises PlainError."""
        plan = Plan(
            info_hash=bytes.fromhex(manifest.info_hash),
            root=bytes.fromhex(manifest.root),
            size=manifest.size,
            piece_length=manifest.piece_length,
            filename=manifest.filename,
        )
        folder = RealFolder(self._folder)
        arriving: list[ArrivingFile] = []
        told = -1
        seen: set[str] = set()

        def progress(found: TransferProgress) -> None:
            nonlocal told
            seen.update(item.peer_id for item in found.sources if item.received)
            part = download.part
            self._emit(changed_event(job, found, part.written() if part is not None else None))
            tenth = found.done * 10 // max(found.size, 1)
            if tenth != told and job.shard_id is not None:
                told = tenth
                self.moved(job.shard_id)

        def wrote(pieces: list[int]) -> None:
            part = download.part
            if part is None:
                return
            if not arriving or arriving[0].part is not part:
                arriving[:] = [ArrivingFile(part)]
                self._library.arrives(plan.info_hash, plan.root, arriving[0])
            arriving[0].wrote(pieces)

        def blamed(verdict: Verdict) -> None:
            self._emit(
                ev.TransferSourceBlamed(
                    at=time.time(),
                    info_hash=job.info_hash,
                    filename=job.filename,
                    peer_id=clean(verdict.peer_id, 128),
                    piece=verdict.piece,
                    reason=clean(verdict.reason, 400),
                )
            )

        download = Download(
            plan,
            folder,
            emit_progress=progress,
            blamed=blamed,
            wrote=wrote,
            bans=self._bans,
            down=self._down,
            uploads=self._uploads,
        )
        job.download = download
        if job.paused:
            download.pause()
        began = trio.current_time()
        error: PlainError | None = None
        self._running.add(download)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._feed, job, download)
                try:
                    await download.run()
                except PlainError as caught:
                    error = caught
                nursery.cancel_scope.cancel()
        finally:
            self._running.discard(download)
            self._library.arrived(plan.info_hash, plan.root)
            folder.close_folder()
        if error is not None:
            raise error
        await self._finish(job, manifest, download, trio.current_time() - began, len(seen))

    async def _finish(
        self, job: Job, manifest: Manifest, download: Download, seconds: float, sources: int
    ) -> None:
        assert download.layer is not None
        hashes = FileHashes(download.layout, download.plan.root, download.layer, b"", (0, 0, 0, 0))
        raw = self._raw_manifest(manifest)
        if raw is not None:
            await trio.to_thread.run_sync(self._kept.put, manifest.root, raw)
        path = self._folder / job.filename
        self._emit(finished_event(job, download.snapshot, path, seconds, sources))
        await self._seeding.adopt(job.filename, hashes)

    def _raw_manifest(self, manifest: Manifest) -> bytes | None:
        for item in self._sources.catalogue.entries(manifest.info_hash):
            if item.manifest == manifest:
                return item.raw
        return None

    async def _feed(self, job: Job, download: Download) -> None:
        """Keep the download's sources what is known of seeders."""
        root = download.plan.root.hex()
        asked = 0.0
        provided = False
        dropped: set[str] = set()
        while True:
            for peer_id in self._sources.catalogue.peers_with(job.info_hash, root):
                self._add(download, peer_id, dropped)
            if trio.current_time() >= asked:
                asked = trio.current_time() + LOOK_AGAIN_S
                for peer_id in await self._sources.seeders(job.info_hash, root):
                    self._add(download, peer_id, dropped)
            if not provided and download.snapshot.pieces_done:
                provided = True
                await self.provide(root)
            await self._sources.news(LOOK_AGAIN_S)

    def _add(self, download: Download, peer_id: str, dropped: set[str]) -> None:
        """Make a peer a source. Where there are too many it takes the place of one that could not
        be reached: providers can be invented, and those would keep the honest ones out.
        """
        sources = download.snapshot.sources
        if any(item.peer_id == peer_id for item in sources):
            return
        if len(sources) >= MAX_PEERS:
            failed = [i.peer_id for i in sources if i.state == "backoff" and not i.received]
            if not failed or peer_id in dropped:
                return
            dropped.add(failed[0])
            download.remove_source(failed[0])

        async def open_stream() -> Stream:
            return await self._streams.open(peer_id)

        download.add_source(peer_id, open_stream)


async def _nothing(_: object) -> None:
    """The default of what a transfer tells."""
