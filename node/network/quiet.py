"""libp2p's loggers, taken over: nothing of theirs may reach a terminal.

py-libp2p logs a warning on nearly every DHT call and calls the root logger, which would write to
stderr, over the console. Records go to one bounded sink instead: the same place is reported at
most once per interval, as a debug event, so that a bug report still has them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from node.clean import clean

INTERVAL_S = 30.0
MAX_PLACES = 512


class _Sink(logging.Handler):
    def __init__(self, report: Callable[[str, str, str], None]) -> None:
        super().__init__(level=logging.WARNING)
        self._report = report
        self._seen: dict[tuple[str, int], float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        place = (record.name, record.lineno)
        now = time.monotonic()
        if now - self._seen.get(place, -INTERVAL_S) < INTERVAL_S:
            return
        if len(self._seen) >= MAX_PLACES:
            self._seen.clear()
        self._seen[place] = now
        try:
            text = record.getMessage()
        except Exception:  # whatever a library hands over, logging it must not hurt
            text = clean(record.msg, 300)
        self._report(record.levelname.lower(), clean(record.name, 80), clean(text, 300))


def take_over_loggers(report: Callable[[str, str, str], None]) -> Callable[[], None]:
    """Send warnings of libp2p and the root logger to `report(level, logger, text)`.

    Returns a function that gives the loggers back as they were.
    """
    sink = _Sink(report)
    taken: list[tuple[logging.Logger, list[logging.Handler], int, bool]] = []
    for name in ("", "libp2p", "aioquic", "quic", "zeroconf", "async_service", "asyncio"):
        logger = logging.getLogger(name)
        taken.append((logger, list(logger.handlers), logger.level, logger.propagate))
        logger.handlers = [sink]
        logger.propagate = False
        logger.setLevel(logging.WARNING)

    def give_back() -> None:
        for logger, handlers, level, propagate in taken:
            logger.handlers = handlers
            logger.setLevel(level)
            logger.propagate = propagate

    return give_back
