"""Running a node in this process: with its console, headless, or first one and then the other."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from node import jobs
from node.errors import PlainError
from node.requests import STOP
from swarmtui.crash import write_crash
from swarmtui.lifeline import LIFELINE, hold_lifeline

if TYPE_CHECKING:
    from node.door import Door
    from node.log_writer import LogWriter
    from node.settings import Settings

STOP_TIMEOUT_S = 3.0


def run_node(settings: Settings) -> int:
    """Run the node until it is stopped; the exit code."""
    if settings.no_ui or settings.role == "rendezvous" or not terminal():
        return run_headless(settings)
    return _run_console(settings)


def run_headless(settings: Settings) -> int:
    """Log lines on standard output until SIGTERM or SIGINT."""
    if os.environ.get(LIFELINE):
        hold_lifeline()
    writer = jobs.write_log(settings, stdout=True)
    try:
        return jobs.run_headless(settings, writer.tap)
    finally:
        writer.close()


def terminal() -> bool:
    """Whether a console can be drawn: both ends are a terminal."""
    try:
        return sys.stdin.isatty() and sys.stdout.isatty()
    except (AttributeError, ValueError):
        return False


def theme_dirs(settings: Settings) -> list[Path]:
    """Where the operator's own themes lie, beside the shipped ones."""
    folder = settings.config_dir / "themes"
    return [folder] if folder.is_dir() else []


def _run_console(settings: Settings) -> int:
    # Imported here: a headless node must never load a terminal library.
    from swarmtui.console import run_console

    # Without this the end of the terminal would end the node with it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    node = _OwnNode(settings)
    try:
        outcome = run_console(
            node.start,
            theme=settings.theme,
            theme_dirs=theme_dirs(settings),
            attached=False,
            title=settings.name,
        )
    except PlainError:
        raise
    except Exception as error:
        if node.door is None:
            raise
        # The console failed, or its terminal went away in mid-write: the node does not care.
        write_crash(error)
        outcome = "lost"
    if node.error is not None:
        raise node.error
    if node.door is None or node.writer is None:
        return 0
    if outcome == "stop":
        return stop(node.door, node.writer, "stopped from the console")
    return _go_on(node.door, node.writer, settings, lost=outcome == "lost")


class _OwnNode:
    """The node this process runs beside its console, once it is started."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.door: Door | None = None
        self.writer: LogWriter | None = None
        self.error: BaseException | None = None

    def start(self) -> Door:
        """Start the node; called by the console after its first paint, in a thread."""
        try:
            door = jobs.start_node(self._settings)
        except BaseException as error:
            self.error = error
            raise
        self.writer = jobs.write_log(self._settings, stdout=False)
        self.writer.follow(door)
        self.door = door
        return door


def _go_on(door: Door, writer: LogWriter, settings: Settings, *, lost: bool) -> int:
    """Keep the node running without its console until a signal or a stop request."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if not lost:
        print(
            f"The node {settings.name} goes on without its console (process {os.getpid()}), log "
            f"in {settings.log_path}.\n"
            f"`swarmtui attach --name {settings.name}` opens the console again; Ctrl-C stops it.",
            flush=True,
        )
        writer.use_stdout()
    wanted = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: wanted.set())

    def look() -> None:
        if jobs.stopped(door):
            wanted.set()

    forget = door.subscribe(look)
    look()
    wanted.wait()
    forget()
    return stop(door, writer, "stopped by a signal")


def stop(door: Door, writer: LogWriter, reason: str) -> int:
    """Have the node leave the swarm politely, within three seconds."""
    down = threading.Event()

    def look() -> None:
        if jobs.stopped(door):
            down.set()

    forget = door.subscribe(look)
    if not jobs.stopped(door):
        door.request(STOP, {"reason": reason})
    look()
    polite = down.wait(STOP_TIMEOUT_S)
    forget()
    writer.close()
    if not polite:
        # A worker thread deep in a native library cannot be interrupted: leave it behind.
        sys.stdout.flush()
        os._exit(1)
    return 0
