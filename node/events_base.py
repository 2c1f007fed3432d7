"""What every event has, apart from the events so that each module of them can build on it."""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What every event has: the moment it happened, in unix seconds."""

    at: float
