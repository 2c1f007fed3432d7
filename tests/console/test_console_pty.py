"""The console in a real terminal: what bytes it writes, and how it ends."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte
import pytest

HERE = Path(__file__).parent
PATIENCE_S = 30.0
# What Textual itself writes: CSI sequences, the alternate screen's modes, the pointer's shape.
ALLOWED = re.compile(rb"\x1b\[[0-9;:?>=<]*[ $]?[A-Za-z]|\x1b\]22;[a-z]*(?:\x1b\\|\x07)")


class Terminal:
    """A console in a pseudo-terminal, and a screen that reads it."""

    def __init__(self, result: Path, mode: str, size: tuple[int, int], **env: str) -> None:
        columns, rows = size
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.result = result
        self.bytes = b""
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        root = str(HERE.parents[1])
        base = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "pty_child.py"), str(result), mode],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={
                **base, "PYTHONPATH": root, "TERM": "xterm-256color", "COLORTERM": "truecolor",
                **env,
            },
        )
        os.close(slave)

    def read(self, wait: float = 0.05) -> None:
        if not select.select([self.master], [], [], wait)[0]:
            return
        try:
            chunk = os.read(self.master, 65536)
        except OSError:
            return
        self.bytes += chunk
        # pyte knows neither private markers nor intermediates in CSI; they draw nothing.
        self._stream.feed(re.sub(rb"\x1b\[[>=<][0-9;]*[A-Za-z]|\x1b\[\?[0-9;]*\$p", b"", chunk))

    @property
    def text(self) -> str:
        # Not screen.display: it trips over half of a wide character in a frame not yet complete.
        screen = self.screen
        return "\n".join(
            "".join(screen.buffer[y][x].data for x in range(screen.columns))
            for y in range(screen.lines)
        )

    def until(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < end, f"never became true; the screen is:\n{self.text}"
            assert self.process.poll() is None or true(), f"ended:\n{self.text}"
            self.read()

    def key(self, text: str, then: str) -> None:
        """Type, and wait until the screen holds `then`."""
        os.write(self.master, text.encode())
        self.until(lambda: then in self.text)

    def ended(self) -> str:
        """Wait for the end; the ending the console was left with."""
        end = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it never ended:\n{self.text}"
            self.read()
        self.read(0)
        return self.result.read_text()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.master >= 0:
            os.close(self.master)


@pytest.fixture
def start(tmp_path: Path):  # type: ignore[no-untyped-def]
    opened: list[Terminal] = []

    def make(mode: str, size: tuple[int, int] = (120, 40), **env: str) -> Terminal:
        terminal = Terminal(tmp_path / "ending", mode, size, **env)
        opened.append(terminal)
        return terminal

    yield make
    for terminal in opened:
        terminal.close()


Start = Callable[..., Terminal]


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 50)])
def test_nothing_a_peer_wrote_reaches_the_terminal_raw(start: Start, size: tuple[int, int]) -> None:
    terminal = start("hostile", size)
    terminal.until(lambda: "LOCAL" in terminal.text)
    terminal.key("4z", "markup[/foo]")
    terminal.key("z", "5 Log")
    terminal.key("2", "answering")

    def look(key: str, title: str) -> None:
        """Open a full screen, go to its end, and come back."""
        terminal.key(key, title)
        terminal.until(lambda: "esc Back" in terminal.text and "q Quit" not in terminal.text)
        os.write(terminal.master, b"G")
        terminal.until(lambda: "end ─╯" in terminal.text)
        terminal.key("\x1b", "q Quit")
        terminal.until(lambda: "esc Back" not in terminal.text)

    for pane in ("3", "1", "2", "4"):
        look(pane + "\r", "Why: ")
    look("!", "Problems")
    look("5\r", "Log lines in full")
    terminal.key("I", "✓ success")
    look("o", "Answer to GET_STATUS")
    look("?", "Small letters look")
    terminal.key("L", "Which node loads it")
    terminal.key("\x1b", "was not sent")
    terminal.key("q", "Quit?")
    os.write(terminal.master, b"s")
    assert terminal.ended() == "stop"
    stream = terminal.bytes
    assert b"\x1b]52" not in stream
    assert b"\x1b]0;" not in stream
    assert b"\x1b[6n" not in stream
    for raw in (b"\xc2\x9b", b"\xc2\x9d", b"\xe2\x80\xae", b"\xe2\x81\xa6", b"\xe2\x80\x8b"):
        assert raw not in stream
    rest = ALLOWED.sub(b"", stream)
    assert b"\x1b" not in rest, rest[max(rest.find(b"\x1b") - 40, 0) :][:120]
    assert not re.search(rb"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f]", rest)
    assert b"x" * 400 not in stream


def test_no_colour_means_no_colour_code(start: Start) -> None:
    terminal = start("plain", NO_COLOR="1")
    terminal.until(lambda: "LOCAL" in terminal.text)
    terminal.key("L", "Which node loads it")
    terminal.key("\x1b", "was not sent")
    terminal.key("t", "NO_COLOR is set")
    terminal.key("q", "Quit?")
    os.write(terminal.master, b"h")
    assert terminal.ended() == "headless"
    for codes in re.findall(rb"\x1b\[([0-9;]*)m", terminal.bytes):
        for code in codes.split(b";"):
            assert code in (b"", b"0", b"1", b"2", b"3", b"4", b"7"), codes


def test_with_colour_there_is_colour(start: Start) -> None:
    terminal = start("plain")
    terminal.until(lambda: "LOCAL" in terminal.text)
    assert b"38;2;" in terminal.bytes


@pytest.mark.parametrize(
    ("number", "mode", "ending"),
    [
        (signal.SIGTERM, "plain", "stop"),
        (signal.SIGINT, "plain", "stop"),
        (signal.SIGHUP, "plain", "lost"),
        (signal.SIGTERM, "attached", "detached"),
    ],
)
def test_signals_end_it_politely(start: Start, number: int, mode: str, ending: str) -> None:
    terminal = start(mode)
    terminal.until(lambda: "LOCAL" in terminal.text)
    terminal.process.send_signal(number)
    assert terminal.ended() == ending
    assert b"\x1b[?1049l" in terminal.bytes
    assert b"\x1b[?25h" in terminal.bytes


def test_a_terminal_that_goes_away_ends_only_the_console(start: Start) -> None:
    terminal = start("plain")
    terminal.until(lambda: "LOCAL" in terminal.text)
    os.close(terminal.master)
    terminal.master = -1
    assert terminal.process.wait(PATIENCE_S) == 0
    assert terminal.result.read_text() == "lost"


def test_a_failing_pane_ends_only_the_console_with_one_sentence(start: Start) -> None:
    terminal = start("crash")
    assert terminal.ended() == "lost"
    text = terminal.bytes.decode(errors="replace")
    assert "The console failed (ValueError: broken pane 7). The node goes on without it." in text
    assert "Traceback" not in text and "hunter2" not in text


def test_stray_writes_stay_off_the_screen_and_come_after_it(start: Start) -> None:
    terminal = start("stray")
    terminal.until(lambda: "LOCAL" in terminal.text)
    assert b"STRAY" not in terminal.bytes
    terminal.key("q", "Quit?")
    os.write(terminal.master, b"s")
    assert terminal.ended() == "stop"
    after = terminal.bytes.split(b"\x1b[?1049l")[-1]
    assert b"STRAY LINE one" in after and b"STRAY LINE two" in after
    assert b"\x1b]0;title" not in terminal.bytes
