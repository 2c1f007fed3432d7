"""Fetching: the downloads of this node, from the wish to the seeded (and loaded) file.

    RESOLVING <-> WAITING -> QUEUED -> the transfer's own states -> DONE | FAILED | CANCELLED

What the plan (--shard) asks for waits until somebody has it; what an operator or a peer asks for
fails when nobody does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from node import events as ev
from node.clean import clean
from node.errors import PlainError
from node.network.bulk import BulkStreams
from node.shards.inspect import shard_filename, shard_id_of
from node.swarm.fetch_events import changed_event, finished_event, looking_event
from node.swarm.seeding import Seeding
from node.swarm.sources import Sources
from node.torrent.choosing import Chosen, NotYet, choose
from node.torrent.disk_errors import DiskFullError
from node.torrent.folder import RealFolder
from node.torrent.hashing import FileHashes
from node.torrent.leftovers import unfinished
from node.torrent.library import Library
from node.torrent.limits import MAX_PEERS
from node.torrent.manifest import Manifest
from node.torrent.names import check_name, part_name
from node.torrent.own_manifests import ManifestStore
from node.torrent.transfer.blame import Bans, Verdict
from node.torrent.transfer.download import CancelledError, Download, Plan
from node.torrent.transfer.progress import TransferProgress
from node.torrent.transfer.shared import ArrivingFile
from node.torrent.transfer.streams import Stream
from node.torrent.transfer.upload import TokenBucket, Uploads
from node.torrent.trust import KnownRoots, Stopped

Emit = Callable[[ev.Event], None]
AT_ONCE = 2
"""Downloads that move at the same time; more would only share the same disk and line."""
LOOK_AGAIN_S = 12.0
GIVE_UP_S = 10.0
"""How long one that is not in the plan looks for somebody who has the file."""
RETRY_S = 60.0
HASH_DIGITS = 8
RESUMED = "resumed"
"""`wanted_by` of a download that an earlier run left unfinished."""


class Unfound(PlainError):
    """Nobody offers the file."""


@dataclass
class Job:
    """One file this node is to have.

    resolved: set once the content is chosen, or the job failed; ended: set at the end
    """

    filename: str
    shard_id: int | None
    wanted_by: str
    root: str | None
    load: bool
    patient: bool
    info_hash: str = ""
    size: int = 0
    manifest: Manifest | None = None
    download: Download | None = None
    paused: bool = False
    error: PlainError | None = None
    offers: tuple[str, ...] = ()
    began: float = 0.0
    resolved: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    cancelled: bool = False

    @property
    def status(self) -> str:
        """One word for an answer."""
        if self.ended.is_set():
            return "failed" if self.error is not None else "done"
        return "paused" if self.paused else "downloading"


class Fetching:
    """The downloads of one node. Methods run in its loop."""

    def __init__(
        self,
        sources: Sources,
        seeding: Seeding,
        library: Library,
        streams: BulkStreams,
        roots: KnownRoots,
        kept: ManifestStore,
        uploads: Uploads,
        emit: Emit,
        *,
        folder: Path,
        pins: dict[str, str],
        trusted: frozenset[str],
        max_down: float | None,
        resume: bool,
    ) -> None:
        """`max_down` in bytes per second; `pins` maps file names to roots in hex.

        resume: go on with downloads that an earlier run left unfinished
        """
        self._sources = sources
        self._seeding = seeding
        self._library = library
        self._streams = streams
        self._roots = roots
        self._kept = kept
        self._uploads = uploads
        self._emit = emit
        self._folder = folder
        self._pins = pins
        self._trusted = trusted
        self._resume = resume
        self._bans = Bans(trio.current_time)
        self._down = TokenBucket(max_down)
        self._slots = trio.Semaphore(AT_ONCE)
        self._jobs: dict[str, Job] = {}
        self._nursery: trio.Nursery | None = None
        self.loaded: Callable[[Job], Awaitable[None]] = _nothing
        """Told of every job that ended, to load what came and to tell who asked."""
        self.provide: Callable[[str], Awaitable[object]] = _nothing
        """Tell the DHT that this node serves pieces of a root (in hex)."""
        self.moved: Callable[[int], None] = lambda shard_id: None
        """Told when a shard's download began or went on by a tenth."""

    async def run(self) -> None:
        """Carry the downloads until cancelled; what was fetched stays for the next start."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for name, root in (await trio.to_thread.run_sync(self._unfinished)).items():
                    self.want(name, wanted_by=RESUMED, root=root, patient=True)
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def _unfinished(self) -> dict[str, str]:
        if not self._resume or not self._folder.is_dir():
            return {}
        try:
            folder = RealFolder(self._folder)
        except (PlainError, OSError):
            return {}  # the first download will say what is wrong with it
        try:
            return unfinished(folder, os.listdir(self._folder))
        finally:
            folder.close_folder()

    # ------------------------------------------------------------ asked from outside

    def want(
        self,
        filename: str,
        *,
        wanted_by: str,
        root: str | None = None,
        load: bool = False,
        patient: bool = False,
    ) -> Job:
        """Have a file fetched; the job already running for that name if there is one.

        `patient`: wait until somebody offers it, for ever. Raises PlainError for a bad name.
        """
        check_name(filename)
        job = self._jobs.get(filename)
        if job is not None and not job.ended.is_set():
            job.load |= load
            job.patient |= patient
            if job.wanted_by == RESUMED:
                job.wanted_by = wanted_by
            return job
        if self._nursery is None:
            raise PlainError("The node is stopping.", "Start it again.")
        job = Job(
            filename=filename,
            shard_id=shard_id_of(filename),
            wanted_by=wanted_by,
            root=root or self._pins.get(filename),
            load=load,
            patient=patient,
            began=trio.current_time(),
        )
        self._jobs[filename] = job
        self._nursery.start_soon(self._run_job, job)
        return job

    def name_of(self, what: str) -> str:
        """The file name meant by a name, a shard id or (the beginning of) an info hash.

        Raises PlainError when it means none or several.
        """
        text = what.strip()
        if text.isascii() and text.isdigit() and len(text) <= 4:
            return shard_filename(int(text))
        if len(text) >= HASH_DIGITS and all(char in "0123456789abcdef" for char in text):
            return self._by_hash(text)
        return check_name(text)

    def _by_hash(self, text: str) -> str:
        catalogue = self._sources.catalogue
        names = {
            item.manifest.filename
            for key in catalogue.files()
            if key.startswith(text)
            for item in catalogue.entries(key)
        }
        names |= {job.filename for job in self._jobs.values() if job.info_hash.startswith(text)}
        if len(names) == 1:
            return names.pop()
        shown = clean(text, 64)
        if names:
            raise PlainError(f"'{shown}' fits {len(names)} files.", "Give more of the info hash.")
        raise PlainError(
            f"No file with the info hash '{shown}' is known.",
            "`swarmtui torrent list` shows what is.",
        )

    def job(self, what: str) -> Job:
        """The running job that `what` names. Raises PlainError when there is none."""
        job = self._jobs.get(self.name_of(what))
        if job is None or job.ended.is_set():
            raise PlainError(
                f"{clean(what, 80)} is not being downloaded.",
                "`swarmtui torrent list` shows what is.",
            )
        return job

    def running(self, filename: str) -> Job | None:
        """The job for a file while it has not ended."""
        job = self._jobs.get(filename)
        return job if job is not None and not job.ended.is_set() else None

    def pause(self, job: Job) -> None:
        """Ask for nothing more; also one that has not begun yet."""
        job.paused = True
        if job.download is not None:
            job.download.pause()

    def resume(self, job: Job) -> None:
        """Go on after `pause`."""
        job.paused = False
        if job.download is not None:
            job.download.resume()

    async def cancel(self, job: Job, *, keep: bool) -> None:
        """End a job; with `keep` what was fetched stays for a later start."""
        job.cancelled = True
        if job.download is not None:
            job.download.cancel(discard=not keep)
        else:
            job.scope.cancel()
        await job.ended.wait()

    # ------------------------------------------------------------ one job

    async def _run_job(self, job: Job) -> None:
        self._seeding.arriving.add(job.filename)
        try:
            with job.scope:
                await self._fetch(job)
            if job.cancelled and job.error is None and job.download is None:
                job.error = CancelledError(job.filename)
        except PlainError as error:
            job.error = error
        except Exception as error:
            # A fault of ours must not end the node: this file fails, the detail goes to the log.
            job.error = PlainError(
                f"The download of {job.filename} failed inside the node.",
                "Export a bug report with 'e' or `swarmtui bundle`.",
            )
            self._emit(
                ev.Problem(
                    at=time.time(),
                    level="error",
                    tag="DOWNLOAD",
                    sentence=job.error.sentence,
                    next_step=job.error.next_step,
                    detail=clean(repr(error), 2000),
                )
            )
        finally:
            self._seeding.arriving.discard(job.filename)
            job.resolved.set()
            job.ended.set()
        if job.error is not None:
            self._tell_failed(job, job.error)
        self._seeding.nudge()
        await self.loaded(job)

    def _tell_failed(self, job: Job, error: PlainError) -> None:
        self._emit(
            ev.TransferFailed(
                at=time.time(),
                info_hash=job.info_hash,
                filename=job.filename,
                shard_id=job.shard_id,
                sentence=error.sentence,
                next_step=error.next_step,
                offers=job.offers,
                cancelled=isinstance(error, CancelledError),
            )
        )

    async def _fetch(self, job: Job) -> None:
        self._emit(self._wanted(job))
        if job.shard_id is not None:
            self.moved(job.shard_id)
        chosen = await self._resolve(job)
        manifest = chosen.accepted.manifest
        assert manifest is not None
        job.info_hash, job.size, job.manifest = chosen.info_hash, manifest.size, manifest
        self._emit(self._wanted(job))
        await self._check_room(job)
        await trio.to_thread.run_sync(self._roots.remember, chosen.info_hash, manifest.root)
        job.resolved.set()
        self._emit(looking_event(job, "queued", ""))
        async with self._slots:
            await self._transfer(job, manifest)

    def _wanted(self, job: Job) -> ev.TransferWanted:
        return ev.TransferWanted(
            at=time.time(),
            filename=job.filename,
            shard_id=job.shard_id,
            wanted_by=job.wanted_by,
            info_hash=job.info_hash,
        )

    async def _resolve(self, job: Job) -> Chosen:
        """Look until one content is chosen. Raises PlainError when a person must decide."""
        reason = ""
        while True:
            found = await self._sources.look_for(job.filename, job.shard_id)
            catalogue = self._sources.catalogue
            decision = choose(
                {key: catalogue.offers(key) for key in found},
                pinned=job.root,
                trusted=self._trusted,
                known=self._roots.get,
            )
            if isinstance(decision, Chosen):
                return decision
            if isinstance(decision, Stopped):
                job.offers = tuple(
                    f"{offer.root} size {offer.manifests[0].size}, {offer.seeders} seeder(s), "
                    f"published by {', '.join(offer.publishers[:3])}, {offer.age_s:.0f} s ago"
                    for offer in decision.offers
                )
                raise decision.error(job.filename)
            assert isinstance(decision, NotYet)
            waited = trio.current_time() - job.began
            if not job.patient and waited >= GIVE_UP_S:
                raise Unfound(
                    f"{job.filename} cannot be fetched: {decision.reason}.",
                    "Start a node that has the file, or put it into its shards folder.",
                )
            if decision.reason != reason:
                reason = decision.reason
                self._emit(looking_event(job, "waiting", f"{reason[:1].upper()}{reason[1:]}."))
            left = LOOK_AGAIN_S if job.patient else min(LOOK_AGAIN_S, GIVE_UP_S - waited)
            await self._sources.news(max(left, 0.1))

    async def _check_room(self, job: Job) -> None:
        """Refuse what does not fit before the first byte; a part that is there counts."""

        def missing() -> int:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder = RealFolder(self._folder)
            try:
                part = folder.facts_of(part_name(job.filename))
                have = part.allocated if part is not None else 0
                return job.size - have - folder.free()
            finally:
                folder.close_folder()

        try:
            lacking = await trio.to_thread.run_sync(missing)
        except OSError as error:
            raise PlainError(
                f"The shards folder cannot be used ({error.strerror}).",
                "Check its rights, or name another with --shards-dir.",
            ) from error
        if lacking > 0:
            raise DiskFullError(job.filename, lacking)

    # ------------------------------------------------------------ the transfer

    async def _transfer(self, job: Job, manifest: Manifest) -> None:
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
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._feed, job, download)
                try:
                    await download.run()
                except PlainError as caught:
                    error = caught
                nursery.cancel_scope.cancel()
        finally:
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
        while True:
            for peer_id in self._sources.catalogue.peers_with(job.info_hash, root):
                self._add(download, peer_id)
            if trio.current_time() >= asked:
                asked = trio.current_time() + LOOK_AGAIN_S
                for peer_id in await self._sources.seeders(job.info_hash, root):
                    self._add(download, peer_id)
            if not provided and download.snapshot.pieces_done:
                provided = True
                await self.provide(root)
            await self._sources.news(LOOK_AGAIN_S)

    def _add(self, download: Download, peer_id: str) -> None:
        if len(download.snapshot.sources) >= MAX_PEERS:
            return

        async def open_stream() -> Stream:
            return await self._streams.open(peer_id)

        download.add_source(peer_id, open_stream)


async def _nothing(_: object) -> None:
    """The default of what a job tells."""
