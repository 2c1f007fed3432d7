"""Several tasks about one stream, which end together; what a peer may send in a second."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import trio

Task = Callable[[], Awaitable[None]]
RunSync = Callable[..., Awaitable[Any]]
"""`trio.to_thread.run_sync`, or something that does the same in a test."""


class Ended(Exception):
    """This side ends the stream; the text says why."""


class Group:
    """Tasks that end together. A task that returns ends the group in order."""

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._error: Exception | None = None

    def end(self, error: Exception | None = None) -> None:
        """End all tasks; `run` raises the first error it was given."""
        if self._error is None and not self._scope.cancel_called:
            self._error = error
        self._scope.cancel()

    async def run(self, *tasks: Task) -> None:
        """Run until one task returns or fails, or `end` is called; raises that error."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                for task in tasks:
                    nursery.start_soon(self._one, task)
        if self._error is not None:
            raise self._error

    async def _one(self, task: Task) -> None:
        try:
            await task()
        except Exception as error:
            self.end(error)
        else:
            self.end()


async def every(period: float, look: Callable[[], None]) -> None:
    """Call `look` each `period` seconds, for ever."""
    while True:
        await trio.sleep(period)
        look()


def late(since: float | None, limit: float) -> bool:
    """Whether more than `limit` seconds passed since `since` (None: not under way)."""
    return trio.current_time() - (math.inf if since is None else since) > limit


class Allowance:
    """How many frames of a kind a peer may send: `per_s`, and up to `most` of them at once."""

    def __init__(self, per_s: float, most: float) -> None:
        self._per_s = per_s
        self._most = most
        self._left = most
        self._at = trio.current_time()

    def take(self) -> bool:
        """Count one; False where it is one too many."""
        now = trio.current_time()
        self._left = min(self._most, self._left + (now - self._at) * self._per_s) - 1
        self._at = now
        return self._left >= 0

    def earn(self, count: int) -> None:
        """Allow `count` more, for something else the peer did."""
        self._left = min(self._most, self._left + count)
