"""Noise and Yamux of our own: the standard wire protocols, several times faster than stock.

`install` puts them into a py-libp2p host. Where the time of the stock pair goes, and so what is
different here: large reads that yield many messages at once, frames that fill one Noise message,
writes without a lock or a scheduler step per frame, and window updates per half window.
"""

from __future__ import annotations

from node.network.fast.install import FastNoise, install, security
from node.network.fast.muxer import FastYamux, Limits
from node.network.fast.session import FastSession
from node.network.fast.suites import AES_GCM, CHACHA_POLY, Suite, offered

__all__ = [
    "AES_GCM",
    "CHACHA_POLY",
    "FastNoise",
    "FastSession",
    "FastYamux",
    "Limits",
    "Suite",
    "install",
    "offered",
    "security",
]
