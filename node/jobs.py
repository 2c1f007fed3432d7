"""What the console and the command line may ask of the runtime. Every import is made when needed.

swarmtui imports nothing deeper than this module, so that a command which needs no libp2p, no
llama.cpp and no trio never pays for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.settings import Settings

if TYPE_CHECKING:
    from node.door import Door, NodeDoor
    from node.door_client import SocketDoor
    from node.events import Event
    from node.log_writer import LogWriter
    from node.logs import LogLine
    from node.shards.split import SplitResult
    from node.state import State
    from node.torrent.verifying import Verified as Verified

OnEvent = Callable[["Event", "State", "State"], None]


def start_node(settings: Settings) -> NodeDoor:
    """Start the node in a thread of its own and return its door.

    Raises PlainError where it cannot start (a busy port, an unwritable folder).
    """
    from node.runtime import start_in_thread

    return start_in_thread(settings)


def run_headless(settings: Settings, on_event: OnEvent | None = None) -> int:
    """Run the node in this thread until SIGTERM, SIGINT or a stop request; the exit code."""
    from node.runtime import run_headless as run

    return run(settings, on_event)


def write_log(settings: Settings, *, stdout: bool) -> LogWriter:
    """A running log writer (node.log_writer)."""
    from node.log_writer import LogWriter

    return LogWriter(settings, stdout=stdout)


def log_lines(event: Event, before: State, after: State) -> list[LogLine]:
    """The log lines of one event (node.logs)."""
    from node.logs import lines

    return lines(event, before, after)


def open_door(settings: Settings, name: str | None, timeout_s: float = 5.0) -> SocketDoor:
    """The door of a running node on this machine; the only one where `name` is None.

    Raises PlainError where there is none, or several and no name.
    """
    from node.door_client import SocketDoor, find_socket

    return SocketDoor(find_socket(settings, name), timeout_s=timeout_s)


def status_report(state: State, now: float) -> dict[str, Any]:
    """The status report as JSON-ready values (node.report)."""
    from node.report import status_report_dict

    return status_report_dict(state, now)


def status_text(report: dict[str, Any]) -> str:
    """The status report for a person, several lines."""
    from node.report import render

    return render(report)


def split(
    model: Path,
    shards: int,
    out: Path,
    *,
    verify: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[SplitResult]:
    """Cut a model (node.shards.split.split_model)."""
    from node.shards.split import split_model

    return split_model(
        model, shards, out, verify=verify, overwrite=overwrite, on_progress=on_progress
    )


def synth(out: Path, **shape: Any) -> Path:
    """Write a random model (node.shards.synth.synth_model)."""
    from node.shards.synth import synth_model

    return synth_model(out, **shape)


def stopped(door: Door) -> bool:
    """Whether the node behind the door is down."""
    node = door.snapshot().state.node
    return node is not None and node.stopped


def socket_path(settings: Settings, name: str | None) -> Path:
    """The socket of a running node; PlainError as `open_door`."""
    from node.door_client import find_socket

    return find_socket(settings, name)


def connect(path: Path, timeout_s: float = 5.0) -> SocketDoor:
    """The door at a socket's path; PlainError where nothing answers there."""
    from node.door_client import SocketDoor

    return SocketDoor(path, timeout_s=timeout_s)


def shard_files(folder: Path) -> list[Path]:
    """The GGUF files directly in a shards folder, by name; empty where it is missing."""
    from node.torrent.files import shard_files as find

    return [folder / item.filename for item in find(folder)]


def verify(
    settings: Settings,
    files: Sequence[tuple[Path, str | None]],
    *,
    name: str | None = None,
    on_progress: Callable[[Path, int], None] | None = None,
) -> Iterator[Verified]:
    """Hash files one by one and compare them with the roots given, pinned or remembered.

    files: pairs of a path and the root in hex it must have, None where that is not given.
    name:  compare only with what this node remembers; None: with what any of this user's does.
    on_progress(path, bytes) is called from the hashing threads for what was hashed since. Raises
    PlainError where a file cannot be read.
    """
    from functools import partial

    from node.torrent.verifying import remembered, verify_file

    known = remembered(settings.data_dir, None if name is None else [name])
    pins = dict(item.rsplit("@", 1) for item in settings.pins)
    for path, given in files:
        progress = partial(on_progress, path) if on_progress is not None else None
        yield verify_file(path, given=given, pins=pins, known=known, progress=progress)
