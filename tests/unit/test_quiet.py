"""The library's loggers: nothing of theirs reaches a terminal, warnings become reports."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.network import quiet

ROOT = Path(__file__).resolve().parents[2]
NOISY = """
import logging
import libp2p, libp2p.kad_dht.kad_dht, libp2p.pubsub.pubsub  # installs handlers of its own
from node.network.quiet import take_over_loggers
said = []
give_back = take_over_loggers(lambda *what: said.append(what))
logging.warning("root %s", "warning")
logging.error("\\x1b[2Jroot error")
logging.getLogger("libp2p.kad_dht").warning("dht")
logging.getLogger("libp2p.transport.quic.listener").error("quic")
logging.getLogger("some.other.library").critical("other")
logging.getLogger("aioquic").warning("aioquic")
logging.getLogger("libp2p.x").warning("%d of %s", "wrong")
logging.getLogger("libp2p.x").info("not a warning")
try:
    raise ValueError("a traceback to print")
except ValueError:
    logging.getLogger("libp2p.y").exception("with a traceback")
assert len(said) == 8, said
assert not any("\\x1b" in text for what in said for text in what), said
print("done")
"""


def test_nothing_reaches_stdout_or_stderr() -> None:
    """Stock py-libp2p warns on nearly every DHT call, and over a terminal interface."""
    run = subprocess.run(
        [sys.executable, "-c", NOISY], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.stderr == ""
    assert run.stdout == "done\n"
    assert run.returncode == 0


@pytest.fixture
def said() -> Iterator[list[tuple[str, str, str]]]:
    heard: list[tuple[str, str, str]] = []
    give_back = quiet.take_over_loggers(lambda *what: heard.append(what))
    yield heard
    give_back()


def test_the_same_place_is_reported_once_per_interval(
    said: list[tuple[str, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(quiet.time, "monotonic", lambda: now)
    log = logging.getLogger("libp2p.test")
    for moment in (1000.0, 1001.0, 1000.0 + quiet.INTERVAL_S):
        now = moment
        log.warning("here %s", moment)
    assert [text for _, _, text in said] == ["here 1000.0", "here 1030.0"]


def test_places_are_forgotten_instead_of_piling_up(said: list[tuple[str, str, str]]) -> None:
    for number in range(3 * quiet.MAX_PLACES):
        logging.getLogger(f"libp2p.{number}").warning("x")
    sinks = logging.getLogger("libp2p").handlers
    assert len(sinks) == 1
    assert isinstance(sinks[0], quiet._Sink)
    assert len(sinks[0]._seen) <= quiet.MAX_PLACES
    assert len(said) == 3 * quiet.MAX_PLACES


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("%d", ("x",)),
        ("%s %s", ("x",)),
        ("%(missing)s", ({"other": 1},)),
        ("%s", (Unprintable(),)),
        ("%s", (10**5000,)),
        (Unprintable(), ()),
    ],
    ids=["type", "count", "key", "argument", "huge", "message"],
)
def test_a_log_call_that_cannot_be_formatted_does_not_raise(
    said: list[tuple[str, str, str]], message: object, arguments: tuple[object, ...]
) -> None:
    logging.getLogger("libp2p.broken").warning(message, *arguments)
    assert len(said) == 1


def test_loggers_are_given_back_as_they_were() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.getLogger("libp2p").propagate)
    quiet.take_over_loggers(lambda *what: None)()
    assert (list(root.handlers), root.level, logging.getLogger("libp2p").propagate) == before
