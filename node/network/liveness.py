"""Who answers: pings, quarantine, and the moment when a peer counts as silent.

A dead peer must not slow anything down: with one killed QUIC peer a stock DHT operation takes
20 s. So the peers that matter are pinged on open streams every few seconds, one that fails twice
is quarantined (no DHT work is sent to it), and after the silence limit it counts as silent and
its shards go OFFLINE. Where a lost connection or an unanswered ping is followed by the proof
that nothing listens there any more, that is said at once.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection

import trio

from node import events as ev
from node.network.connecting import Connector
from node.network.known import QUARANTINE_FIRST_S, Emit, Known
from node.network.streams import StreamUnavailable

PING_TIMEOUT_S = 2.0
QUARANTINE_MAX_S = 60.0
LATE_S = 0.5


class Liveness:
    """Watches the peers of one table. Everything runs in the host's trio loop."""

    def __init__(
        self,
        connector: Connector,
        known: dict[str, Known],
        emit: Emit,
        *,
        ping_s: float,
        silence_s: float,
        connect: Callable[[str], Awaitable[bool]],
        disconnect: Callable[[str], Awaitable[None]],
    ) -> None:
        self._connector = connector
        self._known = known
        self._emit = emit
        self._ping_s = ping_s
        self._silence_s = silence_s
        self._connect = connect
        self._disconnect = disconnect
        self._lost: list[Callable[[str], None]] = []
        self._rotation = 0
        self._late_until = 0.0
        self._late: deque[tuple[float, float]] = deque()
        self.nursery: trio.Nursery | None = None
        self.watched: Callable[[], Collection[str]] = lambda: ()

    def on_lost(self, listener: Callable[[str], None]) -> None:
        """Have `listener(peer_id)` called when a peer falls silent."""
        self._lost.append(listener)

    # ------------------------------------------------------------ hearing

    def heard(self, peer_id: str, rtt_ms: float | None = None, transport: str = "tcp") -> None:
        """A peer proved that it is alive, by answering a ping or by speaking to us."""
        entry = self._known.get(peer_id)
        if entry is None:
            return
        now = trio.current_time()
        quiet = now - entry.heard
        entry.heard, entry.failures = now, 0
        if entry.quarantined_until:
            entry.quarantined_until, entry.quarantine_s = 0.0, QUARANTINE_FIRST_S
            self._emit(ev.PeerReleased(at=time.time(), peer_id=peer_id))
        if rtt_ms is not None or entry.silent or quiet > self._ping_s:
            entry.silent = False
            self._emit(
                ev.PeerHeard(
                    at=time.time(),
                    peer_id=peer_id,
                    rtt_ms=rtt_ms,
                    transport="quic" if transport == "quic" else "tcp",
                )
            )

    def fall_silent(self, entry: Known, reason: str) -> None:
        """From now on the peer counts as silent, for a plain reason."""
        self._quarantine(entry, reason)
        if entry.silent:
            return
        entry.silent = True
        since = trio.current_time() - entry.heard if entry.heard else 0.0
        self._emit(
            ev.PeerSilent(
                at=time.time(), peer_id=entry.peer_id, silent_s=round(since, 1), reason=reason
            )
        )
        for listener in self._lost:
            listener(entry.peer_id)

    def _quarantine(self, entry: Known, reason: str) -> None:
        now = trio.current_time()
        if entry.quarantined_until > now:
            return
        entry.quarantined_until = now + entry.quarantine_s
        until = time.time() + entry.quarantine_s
        entry.quarantine_s = min(entry.quarantine_s * 2, QUARANTINE_MAX_S)
        self._emit(
            ev.PeerQuarantined(at=time.time(), peer_id=entry.peer_id, until=until, reason=reason)
        )

    # ------------------------------------------------------------ asking

    async def check(self, peer_id: str) -> bool:
        """Ping a peer now; returns whether it answered. Failures lead to quarantine, silence."""
        entry = self._known.get(peer_id)
        if entry is None or entry.busy:
            return False
        entry.busy = True
        try:
            if not self._connector.live_transports(entry) and not await self._connect(peer_id):
                self._suspect(entry, "not connected")
                return False
            try:
                rtt_ms, transport = await entry.ping.measure(PING_TIMEOUT_S)
            except StreamUnavailable as error:
                await self._unanswered(entry, str(error))
                return False
            self.heard(peer_id, rtt_ms, transport)
            return True
        finally:
            entry.busy = False

    async def _unanswered(self, entry: Known, reason: str) -> None:
        entry.failures += 1
        if entry.failures >= 2 and trio.current_time() >= self._late_until:
            self._quarantine(entry, reason)
        self._suspect(entry, reason)
        if self._connector.live_transports(entry) == ("quic",):
            before = entry.heard
            proof = await self._connector.refused(entry)
            if proof is not None and entry.heard == before:
                self.fall_silent(entry, proof)
                await self._disconnect(entry.peer_id)

    async def tcp_lost(self, entry: Known) -> None:
        """A killed process closes its TCP connections and leaves QUIC open: dial TCP to know."""
        if self._connector.live_transports(entry) and self._connector.transport == "dual":
            proof = await self._connector.refused(entry)
            if proof is not None:
                self.fall_silent(entry, proof)
                await self._disconnect(entry.peer_id)
                return
        await self.check(entry.peer_id)

    # ------------------------------------------------------------ silence

    def _patience(self, entry: Known) -> float:
        """When the peer counts as silent unless it is heard before, in trio's seconds.

        A node that was itself too busy to hear waits longer, twice as long at most.
        """
        late = sum(max(0.0, end - max(begin, entry.heard)) for begin, end in self._late)
        return entry.heard + self._silence_s + min(late, self._silence_s)

    def _suspect(self, entry: Known, reason: str) -> None:
        """Have the silence limit kept to the second, not to the next ping."""
        if trio.current_time() >= self._patience(entry):
            self._give_up(entry, reason)
        elif not entry.suspected and not entry.silent and self.nursery is not None:
            entry.suspected = True
            self.nursery.start_soon(self._until_heard, entry, reason)

    async def _until_heard(self, entry: Known, reason: str) -> None:
        heard = entry.heard
        try:
            while entry.heard == heard and not entry.silent:
                due = self._patience(entry)
                await trio.sleep_until(due)
                self._note_lateness(due)
                if trio.current_time() >= self._patience(entry):
                    break
        finally:
            entry.suspected = False
        if entry.heard == heard and self._known.get(entry.peer_id) is entry:
            self._give_up(entry, reason)

    def _give_up(self, entry: Known, reason: str) -> None:
        self.fall_silent(entry, reason)
        if self.nursery is not None and self._connector.live_transports(entry):
            self.nursery.start_soon(self._disconnect, entry.peer_id)

    def _note_lateness(self, due: float) -> None:
        """This node does now what was due at `due`: meanwhile it heard nobody."""
        now = trio.current_time()
        if now - due > LATE_S:
            self._late.append((due, now))
            self._late_until = now + 2 * self._ping_s
        while self._late and self._late[0][1] < now - 2 * self._silence_s:
            self._late.popleft()

    # ------------------------------------------------------------ running

    async def run(self) -> None:
        """Ping the watched peers every `ping_s`, and one other peer in rotation."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            try:
                await self._sweep(nursery)
            finally:
                self.nursery = None  # a closed one takes no more tasks: others ask before

    async def _sweep(self, nursery: trio.Nursery) -> None:
        while True:
            watched = set(self.watched())
            others = [
                item.peer_id
                for item in self._known.values()
                if item.peer_id not in watched and item.transports
            ]
            if others:
                self._rotation = (self._rotation + 1) % len(others)
                watched.add(others[self._rotation])
            for peer_id in watched:
                nursery.start_soon(self.check, peer_id)
            due = trio.current_time() + self._ping_s * random.uniform(0.85, 1.15)
            await trio.sleep_until(due)
            self._note_lateness(due)
