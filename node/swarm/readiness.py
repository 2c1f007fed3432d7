"""Readiness: every shard, this node's own included, has a holder that answers."""

from __future__ import annotations

import random
import time

import trio

from node import events as ev
from node.door import NodeDoor
from node.state import State
from node.swarm.announcing import Announcer


class Readiness:
    """Watches the state and says when readiness changes, in an event and in the DHT."""

    def __init__(self, door: NodeDoor, announcer: Announcer, republish_s: float) -> None:
        self._door = door
        self._announcer = announcer
        self._republish_s = republish_s
        self._wake = trio.Event()
        self._told: tuple[bool, tuple[int, ...]] | None = None
        door.tap(self._notice)

    def _notice(self, event: ev.Event, before: State, after: State) -> None:
        if before.shards is not after.shards or before.peers is not after.peers:
            self._wake.set()

    async def run(self) -> None:
        """Emit each change; put it into the DHT when it changes and from time to time."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._republish)
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                state = self._door.state
                now = (state.complete, state.missing_shards)
                if now == self._told:
                    continue
                self._told = now
                self._door.emit(ev.ReadinessChanged(at=time.time(), ready=now[0], missing=now[1]))
                if now[0]:
                    nursery.start_soon(self._put)

    async def _put(self) -> None:
        state = self._door.state
        available = [i for i in state.shard_ids if state.status_of(i) != "OFFLINE"]
        await self._announcer.put_readiness(state.complete, available)

    async def _republish(self) -> None:
        while True:
            await trio.sleep(self._republish_s * random.uniform(0.85, 1.15))
            if self._door.state.complete:
                await self._put()
