"""The console and the command line of swarmtui. The runtime is the package `node`."""

from __future__ import annotations

from node import __version__

__all__ = ["__version__"]
