"""Fetching: the downloads of this node, from the wish to the seeded (and loaded) file.

    RESOLVING <-> WAITING -> QUEUED -> the transfer's own states -> DONE | FAILED | CANCELLED

What the plan (--shard) asks for waits until somebody has it; what an operator or a peer asks for
fails when nobody does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from node import events as ev
from node.clean import clean
from node.errors import PlainError
from node.shards.inspect import shard_filename, shard_id_of
from node.swarm.fetch_events import looking_event
from node.swarm.job import Job, Unfound
from node.swarm.seeding import Seeding
from node.swarm.sources import Sources
from node.swarm.transferring import Transferring
from node.torrent.choosing import Chosen, NotYet, choose
from node.torrent.disk_errors import DiskFullError
from node.torrent.folder import RealFolder
from node.torrent.leftovers import unfinished
from node.torrent.names import check_name, part_name
from node.torrent.transfer.download import CancelledError
from node.torrent.trust import KnownRoots, Stopped

Emit = Callable[[ev.Event], None]
AT_ONCE = 2
"""Downloads that move at the same time; more would only share the same disk and line."""
LOOK_AGAIN_S = 12.0
LOOK_PAUSE_S = 0.5
GIVE_UP_S = 10.0
"""How long one that is not in the plan looks for somebody who has the file."""
RETRY_S = 60.0
HASH_DIGITS = 8
RESUMED = "resumed"
"""`wanted_by` of a download that an earlier run left unfinished."""


class Fetching:
    """The downloads of one node. Methods run in its loop."""

    def __init__(
        self,
        sources: Sources,
        seeding: Seeding,
        transferring: Transferring,
        roots: KnownRoots,
        emit: Emit,
        *,
        folder: Path,
        pins: dict[str, str],
        trusted: frozenset[str],
        resume: bool,
    ) -> None:
        """`pins` maps file names to roots in hex.

        resume: go on with downloads that an earlier run left unfinished
        """
        self._sources = sources
        self._seeding = seeding
        self._transferring = transferring
        self._roots = roots
        self._emit = emit
        self._folder = folder
        self._pins = pins
        self._trusted = trusted
        self._resume = resume
        self._slots = trio.Semaphore(AT_ONCE)
        self._jobs: dict[str, Job] = {}
        self._nursery: trio.Nursery | None = None
        self.loaded: Callable[[Job], Awaitable[None]] = _nothing
        """Told of every job that ended, to load what came and to tell who asked."""
        self.moved: Callable[[int], None] = lambda shard_id: None
        """Told when a shard is wanted."""

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
        else:
            self._emit(looking_event(job, "paused", "Paused before it began."))

    def resume(self, job: Job) -> None:
        """Go on after `pause`."""
        job.paused = False
        if job.download is not None:
            job.download.resume()
        else:
            self._emit(looking_event(job, "queued" if job.resolved.is_set() else "resolving", ""))

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
        if not job.paused:
            self._emit(looking_event(job, "queued", ""))
        async with self._slots:
            await self._transferring.run(job, manifest)

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
            looked = trio.current_time()
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
            if decision.reason != reason and not job.paused:
                reason = decision.reason
                self._emit(looking_event(job, "waiting", f"{reason[:1].upper()}{reason[1:]}."))
            left = LOOK_AGAIN_S if job.patient else min(LOOK_AGAIN_S, GIVE_UP_S - waited)
            await self._sources.news(max(left, 0.1))
            # Announcements may come many a second; each look is several DHT queries.
            await trio.sleep_until(looked + LOOK_PAUSE_S)

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


async def _nothing(_: object) -> None:
    """The default of what a job tells."""
