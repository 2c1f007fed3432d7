"""One source of a download over time: connecting, backing off, banned."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import trio

from node.clean import clean
from node.torrent.limits import BACKOFF_CAP_S, BACKOFF_JITTER, BACKOFF_START_S
from node.torrent.messages import ErrorCode, WireError
from node.torrent.transfer.blame import MAX_STRIKES, BannedError, Bans
from node.torrent.transfer.guarding import Ended
from node.torrent.transfer.peer_session import PeerSession, RefusedError
from node.torrent.transfer.progress import RateMeter
from node.torrent.transfer.streams import OpenStream, Stream, StreamEndedError

CONNECT_TIMEOUT_S = 20.0
NOT_HERE_S = 60.0
"""A peer without the file may get it; it is asked again after this, doubling."""


class Source:
    """A peer that may have the file. `state` and `reason` are for people."""

    def __init__(self, peer_id: str, open_stream: OpenStream) -> None:
        self.peer_id = peer_id
        self.open_stream = open_stream
        self.state = "waiting"
        self.reason = ""
        self.session: PeerSession | None = None
        self.scope = trio.CancelScope()
        self.meter = RateMeter()
        self.earlier = 0
        self.failures = 0
        self.strikes = 0
        self._lost = False
        self._again = trio.Event()

    def retry(self) -> None:
        """The peer can be reached again: end the pause after a lost stream, not a refusal."""
        if self._lost:
            self.failures = 0
            self._again.set()

    @property
    def received(self) -> int:
        """Bytes of blocks, over all its streams."""
        return self.earlier + (self.session.received if self.session is not None else 0)

    async def run(
        self,
        start: Callable[[Source, Stream], PeerSession],
        ended: Callable[[PeerSession], None],
        allowed: Callable[[], trio.Event],
        bans: Bans,
        root: bytes,
        rng: Random,
    ) -> None:
        """Keep a session open until the source is removed or banned.

        `start` makes a session of a stream, `ended` is told when it is over, `allowed` gives an
        event to wait for before connecting.
        """
        with self.scope:
            while True:
                self.reason = bans.banned(self.peer_id, root)
                if self.reason:
                    self.state = "banned"
                    return
                await allowed().wait()
                delay = await self._once(start, ended, bans, root)
                if self.state == "banned":
                    return
                self.state = "backoff"
                self._again = trio.Event()
                with trio.move_on_after(delay * (1 + BACKOFF_JITTER * rng.uniform(-1, 1))):
                    await self._again.wait()
        self.state = "removed"

    async def _once(
        self,
        start: Callable[[Source, Stream], PeerSession],
        ended: Callable[[PeerSession], None],
        bans: Bans,
        root: bytes,
    ) -> float:
        """One stream from opening to its end; how long to wait before the next."""
        self.state = "connecting"
        self._lost = True
        try:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                stream = await self.open_stream()
        except trio.TooSlowError:
            return self._later(f"no stream within {CONNECT_TIMEOUT_S:.0f} s")
        except Exception as error:
            return self._later(clean(error, 120) or type(error).__name__)
        session = self.session = start(self, stream)
        self.state = "hello"
        base = BACKOFF_START_S
        try:
            await session.run()
            reason = "the peer said goodbye" if session.said_bye else "the stream was closed"
        except BannedError as error:
            self.state, self.reason = "banned", str(error)
            return 0.0
        except WireError as error:
            self._lost = False
            strikes = self.strikes = bans.strike(self.peer_id, root, error.text)
            reason = f"it broke the protocol ({strikes} of {MAX_STRIKES}): {error.text}"
        except RefusedError as error:
            self._lost = False
            reason = error.text
            if error.code in (ErrorCode.UNKNOWN_FILE, ErrorCode.GONE):
                base = NOT_HERE_S
        except (Ended, StreamEndedError) as error:
            reason = str(error)
        finally:
            self.earlier += session.received
            if session.received:
                self.failures = 0
            self.session = None
            ended(session)
        return self._later(reason, base)

    def _later(self, reason: str, base: float = BACKOFF_START_S) -> float:
        self.reason = reason
        delay = min(base * 2.0**self.failures, BACKOFF_CAP_S)
        self.failures = min(self.failures + 1, 16)
        return delay
