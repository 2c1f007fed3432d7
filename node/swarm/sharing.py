"""Serving this node's files to peers, and telling how much goes out."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from node import events as ev
from node.clean import clean
from node.network.bulk import BulkStream, BulkStreams
from node.torrent.library import Library
from node.torrent.transfer.progress import RateMeter
from node.torrent.transfer.server import Limits, serve
from node.torrent.transfer.shared import SharedFile
from node.torrent.transfer.upload import Uploads

Emit = Callable[[ev.Event], None]
TICK_S = 1.0


class Sharing:
    """The serving side of `/llama-torrent/2.0` for one node."""

    def __init__(
        self,
        library: Library,
        uploads: Uploads,
        corrupt: Callable[[SharedFile, str], None],
        emit: Emit,
    ) -> None:
        self._library = library
        self._uploads = uploads
        self._corrupt = corrupt
        self._emit = emit
        self._limits = Limits()
        self._busy = trio.Event()
        self._streams_open = 0
        self._meters: dict[bytes, RateMeter] = {}
        self._told: dict[bytes, tuple[int, float, tuple[str, ...]]] = {}

    def attach(self, streams: BulkStreams) -> None:
        """Serve what peers open from now on."""
        streams.serve(self._serve)

    async def _serve(self, stream: BulkStream, peer_id: str) -> None:
        self._streams_open += 1
        self._busy.set()
        try:
            reason = await serve(
                stream,
                self._library,
                self._limits,
                self._uploads,
                peer_id=peer_id,
                on_corrupt=self._corrupt,
            )
        finally:
            self._streams_open -= 1
        self._emit(
            ev.Problem(
                at=time.time(),
                level="debug",
                tag="TORRENT_SERVER",
                sentence="A transfer stream of a peer ended.",
                detail=clean(f"{peer_id}: {reason}", 300),
            )
        )

    async def run(self) -> None:
        """Tell what goes out, once a second while streams are open, until cancelled."""
        while True:
            await self._busy.wait()
            self._busy = trio.Event()
            while self._tell() or self._streams_open:
                await trio.sleep(TICK_S)

    def _tell(self) -> bool:
        """Whether anything was told or is still to be told."""
        now = trio.current_time()
        peers: dict[bytes, set[str]] = {}
        for item in self._uploads.active:
            peers.setdefault(item.root, set()).add(item.peer_id)
        told = False
        for root in {*peers, *self._told}:
            key = self._info_hash(root)
            if key is None:
                continue
            sent = self._uploads.sent[root]
            rate = round(self._meters.setdefault(root, RateMeter()).sample(now, sent), 1)
            names = tuple(sorted(peers.get(root, ())))
            if self._told.get(root) == (sent, rate, names) and not rate:
                if not names:
                    del self._told[root]
                continue
            # The last rate told is 0: nobody looks again once all is quiet.
            told = True
            self._told[root] = (sent, rate, names)
            self._emit(
                ev.SeedingChanged(
                    at=time.time(),
                    info_hash=key,
                    uploaded=sent,
                    rate_up=rate,
                    peers=tuple(clean(name, 128) for name in names[:32]),
                )
            )
        return bool(peers) or told

    def _info_hash(self, root: bytes) -> str | None:
        item = self._library.by_root(root)
        return item.file.info_hash if item is not None else None
