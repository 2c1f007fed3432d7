"""A short time of grace for clean-up after cancellation."""

from __future__ import annotations

import trio


def grace(seconds: float) -> trio.CancelScope:
    """A scope that outer cancellation does not enter, ending by itself after `seconds`."""
    scope = trio.move_on_after(seconds)
    scope.shield = True
    return scope
