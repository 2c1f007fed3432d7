"""The node runtime of swarmtui: everything that works without a terminal."""

from __future__ import annotations

__version__ = "0.1.0"
