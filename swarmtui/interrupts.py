"""Signals as an exception, which can be put off while a process is being started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import FrameType


class Interrupted(BaseException):
    """A signal asked to stop."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Signals:
    """Turns signals into `Interrupted`; while held, they wait."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: int | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """A handler for `signal.signal`."""
        if self._held:
            self._waiting = number
        else:
            raise Interrupted(number)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Put signals off until the end of the block."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            raise Interrupted(waiting)
