"""One file this node is to have: what is wanted, how it stands, how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from node.errors import PlainError
from node.torrent.manifest import Manifest
from node.torrent.transfer.download import Download


class Unfound(PlainError):
    """Nobody offers the file."""


@dataclass
class Job:
    """One file this node is to have.

    resolved: set once the content is chosen, or the job failed; ended: set at the end
    """

    filename: str
    shard_id: int | None
    wanted_by: str
    root: str | None
    load: bool
    patient: bool
    info_hash: str = ""
    size: int = 0
    manifest: Manifest | None = None
    download: Download | None = None
    paused: bool = False
    error: PlainError | None = None
    offers: tuple[str, ...] = ()
    began: float = 0.0
    resolved: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    cancelled: bool = False

    @property
    def status(self) -> str:
        """One word for an answer."""
        if self.ended.is_set():
            return "failed" if self.error is not None else "done"
        return "paused" if self.paused else "downloading"
