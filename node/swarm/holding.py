"""Holding: the shards this node is to hold come from its disk or from peers, and are loaded."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from node import events as ev
from node.errors import PlainError
from node.shards.inspect import shard_filename
from node.shards.service import Shards
from node.swarm.fetching import GIVE_UP_S, RETRY_S, Fetching
from node.swarm.job import Job
from node.swarm.serving import Commands
from node.torrent.transfer.download import CancelledError

Emit = Callable[[ev.Event], None]
ANSWER_S = GIVE_UP_S + 5.0


class Holding:
    """Sees to it that the plan's shards are loaded, and does LOAD_SHARD. In the node's loop."""

    def __init__(
        self,
        shards: Shards,
        fetching: Fetching,
        emit: Emit,
        *,
        plan: tuple[int, ...],
        fetch: bool,
        retry_s: float,
        cluster: str,
    ) -> None:
        self._shards = shards
        self._fetching = fetching
        self._emit = emit
        self._plan = set(plan)
        self._fetch = fetch
        self._retry_s = retry_s
        self._cluster = cluster
        self._wake = trio.Event()
        self._asked: dict[str, set[str]] = {}
        self._retry_at: dict[str, float] = {}
        self._nursery: trio.Nursery | None = None
        self._commands: Commands
        fetching.loaded = self.ended

    def attach(self, commands: Commands) -> None:
        """Give it the way to tell a peer how its LOAD_SHARD ended; before `run`."""
        self._commands = commands

    @property
    def missing(self) -> tuple[int, ...]:
        """Shards of the plan that are not loaded and have no file here."""
        return tuple(i for i in sorted(self._plan) if self._shards.lacks_file(i))

    def look(self) -> None:
        """The folder changed: something may be loadable now."""
        self._wake.set()

    async def run(self) -> None:
        """Load what the plan asks for as soon as it can be, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await self._shards.scan()
                while self._plan:
                    self._wake = trio.Event()
                    await self._round()
                    with trio.move_on_after(self._retry_s):
                        await self._wake.wait()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def _round(self) -> None:
        for shard_id in sorted(self._plan):
            if self._shards.is_loaded(shard_id):
                self._plan.discard(shard_id)
            elif not self._shards.lacks_file(shard_id) or not self._fetch:
                try:
                    await self._shards.load(shard_id)
                    self._plan.discard(shard_id)
                except PlainError:
                    continue  # the event says why; a file may still appear
            else:
                self._want(shard_id)

    def _want(self, shard_id: int) -> None:
        name = shard_filename(shard_id)
        if self._fetching.running(name) is not None:
            return
        if trio.current_time() < self._retry_at.get(name, 0.0):
            return
        self._shards.say_missing(shard_id)
        self._fetching.want(name, wanted_by="plan", load=True, patient=True)

    # ------------------------------------------------------------ LOAD_SHARD

    @property
    def fetches(self) -> bool:
        """Whether this node downloads shards at all."""
        return self._fetch

    async def fetch(self, shard_id: int, requester: str) -> Job:
        """Start to download a shard and load it then; returns once its content is chosen.

        requester: "operator", or the peer that is told of the end. Raises PlainError.
        """
        name = shard_filename(shard_id)
        job = self._fetching.want(name, wanted_by=requester, load=True)
        if requester != "operator":
            self._asked.setdefault(name, set()).add(requester)
        with trio.move_on_after(ANSWER_S):
            await job.resolved.wait()
        if job.error is not None:
            self._asked.pop(name, None)
            raise job.error
        if not job.resolved.is_set():
            raise PlainError(
                f"No peer offers shard {shard_id} so far; this node goes on looking.",
                "Start a node that has the file.",
            )
        return job

    async def ended(self, job: Job) -> None:
        """A download ended: load the shard, and tell those who asked."""
        error = job.error
        if error is not None:
            self._note_failure(job, error)
        elif job.load and job.shard_id is not None:
            try:
                await self._shards.load(job.shard_id)
                self._plan.discard(job.shard_id)
            except PlainError as caught:
                error = caught
        self.look()
        asked = self._asked.pop(job.filename, set())
        if self._nursery is not None and job.shard_id is not None:
            for peer_id in asked:
                self._nursery.start_soon(self._report, peer_id, job.shard_id, error)

    def _note_failure(self, job: Job, error: PlainError) -> None:
        if job.shard_id is None:
            return
        if isinstance(error, CancelledError) or job.offers:
            # Cancelled, or a person must choose: only somebody's word starts it again.
            self._plan.discard(job.shard_id)
        self._retry_at[job.filename] = trio.current_time() + RETRY_S

    async def _report(self, peer_id: str, shard_id: int, error: PlainError | None) -> None:
        params = {
            "shard_id": shard_id,
            "cluster_name": self._cluster,
            "status": "loaded" if error is None else "failed",
            "error": "" if error is None else str(error)[:400],
        }
        await self._commands.send(peer_id, "SHARD_LOADED", params)

    def remote_load_ended(self, peer_id: str, shard_id: int, error: str) -> None:
        """A peer says how the LOAD_SHARD that this node sent it ended."""
        sentence = f"shard_id={shard_id} status={'failed: ' + error if error else 'loaded'}"
        self._emit(
            ev.RemoteLoadEnded(
                at=time.time(),
                peer_id=peer_id,
                shard_id=shard_id,
                ok=not error,
                sentence=sentence[:400],
            )
        )
