"""Serving files: one stream, one peer, one file at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from node.torrent import messages
from node.torrent.messages import ErrorCode, WireError
from node.torrent.transfer.guarding import Ended, RunSync
from node.torrent.transfer.link import LAST_WORDS_S, Link
from node.torrent.transfer.serving import Limits, Refused, Serving
from node.torrent.transfer.shared import CorruptError, SharedFile
from node.torrent.transfer.streams import Stream, StreamEndedError
from node.torrent.transfer.upload import TooManyError, Uploads

__all__ = ["Library", "Limits", "serve"]


class Library(Protocol):
    """The files this node serves."""

    def find(self, info_hash: bytes, root: bytes) -> SharedFile | None:
        """The file with this root; None when it is not here (or no longer)."""
        ...


async def serve(
    stream: Stream,
    library: Library,
    limits: Limits,
    uploads: Uploads,
    *,
    peer_id: str = "",
    on_corrupt: Callable[[SharedFile, str], None] | None = None,
    run_sync: RunSync = trio.to_thread.run_sync,
) -> str:
    """Serve a stream that `peer_id` opened, until it ends; it is closed or reset then.

    Returns why it ended, for the log. Never raises for what the peer does.
    `on_corrupt(file, reason)` is told when the file on this disk is not what it was: the library
    should withdraw it. `run_sync` runs what may block.
    """
    link = Link(stream)
    orderly = False
    try:
        uploads.connect(peer_id)
    except TooManyError as error:
        await _tell(link, ErrorCode.BUSY, str(error))
        await _quietly(stream.close)
        return str(error)
    serving = Serving(link, library.find, limits, uploads, peer_id, run_sync)
    try:
        await serving.run()
        orderly = True
        return "the peer said goodbye"
    except CorruptError as error:
        if on_corrupt is not None and serving.file is not None:
            on_corrupt(serving.file, str(error))
        await _tell(link, ErrorCode.GONE, "the file changed on disk")
        orderly = True
        return str(error)
    except (WireError, Refused) as error:
        await _tell(link, error.code, error.text)
        orderly = isinstance(error, Refused)
        return error.text
    except (StreamEndedError, Ended) as error:
        return str(error)
    finally:
        serving.close()
        uploads.disconnect(peer_id)
        await _quietly(stream.close if orderly else stream.reset)


async def _tell(link: Link, code: ErrorCode, text: str) -> None:
    with trio.move_on_after(LAST_WORDS_S):
        try:
            await link.last(messages.Failure(code, text))
        except StreamEndedError:
            return  # nobody is left to tell


async def _quietly(end: Callable[[], Awaitable[None]]) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_WORDS_S):
        await end()
