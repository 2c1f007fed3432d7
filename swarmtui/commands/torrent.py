"""`swarmtui torrent`: shard files, their transfers, and whether they are what they should be."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, TimeoutError as FutureTimeout
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node import jobs
from node.clean import clean
from node.errors import PlainError
from node.requests import CANCEL, PAUSE, PUBLISH, RESUME
from node.settings import load_settings
from swarmtui import transfers
from swarmtui.amounts import percent, rate, size, took
from swarmtui.commands.options import name_option

if TYPE_CHECKING:
    from node.door_client import SocketDoor
    from swarmtui.following import Follower

ANSWER_TIMEOUT_S = 40.0


@click.group("torrent")
def command() -> None:
    """Shard files: list, download, verify and publish them.

    WHAT is a file name (shard-3.gguf), a shard number, or an info hash or the first eight digits
    of one.
    """


@contextmanager
def _door(name: str | None) -> Iterator[SocketDoor]:
    door = jobs.open_door(load_settings(), name)
    try:
        yield door
    finally:
        door.close()


def _answer(door: SocketDoor, request: str, params: dict[str, Any]) -> dict[str, Any]:
    try:
        return door.request(request, params).result(ANSWER_TIMEOUT_S)
    except (TimeoutError, FutureTimeout):
        raise PlainError(
            f"The node did not answer within {ANSWER_TIMEOUT_S:.0f} s.",
            "`swarmtui status` shows whether it still works.",
        ) from None


# ---------------------------------------------------------------- list


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as one JSON object.")
@name_option
def list_files(as_json: bool, name: str | None) -> int:
    """Show every file a running node knows: on its disk, on its way, and at peers."""
    from swarmtui.torrent_list import as_table, as_values

    with _door(name) as door:
        state = door.snapshot().state
    click.echo(json.dumps(as_values(state), ensure_ascii=False) if as_json else as_table(state))
    return 0


# ---------------------------------------------------------------- get, pause, resume, cancel


@command.command("get")
@click.argument("what", metavar="WHAT[@ROOT]")
@click.option("--no-load", is_flag=True, help="Do not load the shard afterwards.")
@click.option("--no-wait", is_flag=True, help="Ask for it and return at once.")
@name_option
def get(what: str, no_load: bool, no_wait: bool, name: str | None) -> int:
    """Have a running node download WHAT, and follow it until it is complete, verified and loaded.

    ROOT (64 hex digits) says which content is the right one where several have the same name.
    Ctrl-C stops following; the node goes on. Ends with 1 when the file does not come.
    """
    from swarmtui.following import Follower

    what, root = split_root(what)
    params: dict[str, Any] = {"what": what}
    if root:
        params["root"] = root
    if no_load:
        params["load"] = False
    with _door(name) as door:
        follower = Follower(door, what, load=not no_load)
        try:
            answer = follower.ask(params)
            filename = clean(answer.get("filename") or what, 255)
            if answer.get("status") == "here":
                click.echo(f"✓ {filename} is here already.")
                return 0
            if no_wait:
                click.echo(_answer_line(answer, filename))
                return 0
            item = follower.run()
        except KeyboardInterrupt:
            click.echo(
                f"The download of {clean(what, 255)} goes on without you: `swarmtui torrent list` "
                f"shows how it stands, `swarmtui torrent cancel {clean(what, 255)}` ends it.",
                err=True,
            )
            return 130
        except PlainError as error:
            if not follower.begun:
                raise
            return _did_not_come(follower, error)
    words = f"{filename} is complete and verified"
    if item.fetched and item.seconds > 0:
        speed = rate(item.fetched / item.seconds)
        words += f": {size(item.fetched)} fetched in {took(item.seconds)} ({speed})"
    click.echo(f"✓ {words}.")
    if item.root:
        click.echo(f"  root {clean(item.root, 128)}")
    return 0


def _did_not_come(follower: Follower, error: PlainError) -> int:
    from swarmtui.torrent_list import offer_lines

    click.echo(f"✗ {error.sentence}", err=True)
    if error.next_step:
        click.echo(f"  {error.next_step}", err=True)
    if follower.item is not None:
        for line in offer_lines(clean(follower.item.filename, 255), follower.item):
            click.echo(f"  {line}", err=True)
    return 1


def split_root(what: str) -> tuple[str, str]:
    """`WHAT@ROOT` in its two parts; the root is empty where there is none.

    Raises PlainError for an empty WHAT and for a root that is not 64 hex digits.
    """
    head, at, tail = what.rpartition("@")
    root = ""
    if at and not what.lower().endswith(".gguf"):
        what, root = head, tail.lower()
        if not transfers.HASH.fullmatch(root):
            raise PlainError(
                f"'{clean(tail, 80)}' is not a root.", "A root is 64 hex digits after the '@'."
            )
    if not what.strip():
        raise PlainError(
            "No file is named.", "Give a file name, a shard number or an info hash."
        )
    return what, root


def _answer_line(answer: dict[str, Any], filename: str) -> str:
    status = clean(answer.get("status") or "asked for", 80)
    found = clean(answer.get("info_hash") or "", 128)
    return f"{filename}: {status}{f'  (info hash {found})' if found else ''}"


def _change(request: str, what: str, name: str | None, **more: Any) -> int:
    with _door(name) as door:
        answer = _answer(door, request, {"what": what, **more})
    click.echo(_answer_line(answer, clean(answer.get("filename") or what, 255)))
    return 0


@command.command("pause")
@click.argument("what")
@name_option
def pause(what: str, name: str | None) -> int:
    """Pause the download of WHAT; nothing of it is lost."""
    return _change(PAUSE, what, name)


@command.command("resume")
@click.argument("what")
@name_option
def resume(what: str, name: str | None) -> int:
    """Let the paused download of WHAT go on."""
    return _change(RESUME, what, name)


@command.command("cancel")
@click.argument("what")
@click.option("--keep", is_flag=True, help="Keep what was fetched for a later start.")
@name_option
def cancel(what: str, keep: bool, name: str | None) -> int:
    """Give up the download of WHAT, and throw away what was fetched of it."""
    return _change(CANCEL, what, name, keep=keep)


# ---------------------------------------------------------------- verify


@command.command("verify")
@click.argument("files", metavar="[FILE[@ROOT]]...", nargs=-1)
@click.option("--root", metavar="HEX", help="The root the file must have, 64 hex digits.")
@click.option(
    "--name",
    metavar="NAME",
    help="Compare with what this node remembers; by default with what any of yours does.",
)
@click.option(
    "--shards-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of the files; by default the shards folder.",
)
def verify(
    files: tuple[str, ...], root: str | None, name: str | None, shards_dir: Path | None
) -> int:
    """Hash files and say whether they are what they should be. No node needs to run.

    Without FILE all files of the shards folder. Each is compared with the root given, else with
    the one pinned in the settings, else with the one a node remembers. Ends with 1 when one
    differs.
    """
    flags = {"name": name, "shards_dir": None if shards_dir is None else str(shards_dir)}
    settings = load_settings(flags)
    chosen = _chosen(files, root, settings.shards_dir)
    differ = []
    progress = _HashProgress(sum(path.stat().st_size for path, _ in chosen))
    try:
        for result in jobs.verify(settings, chosen, name=name, on_progress=progress.add):
            progress.clear()
            word = {True: "ok", False: "DIFFERS", None: "not known"}[result.ok]
            told = f"  ({_who(result.matches)})" if result.matches else ""
            click.echo(f"{word:<9}  {clean(result.path, 300)}  {result.root}{told}")
            if result.ok is False:
                differ.append(result.path.name)
                for other in dict.fromkeys(root for _, root in result.differs):
                    who = _who(name for name, root in result.differs if root == other)
                    click.echo(f"{'':<9}  from {other} ({who})")
    finally:
        progress.clear()
    if not differ:
        return 0
    click.echo(
        f"Not what it should be: {', '.join(clean(item, 100) for item in differ[:8])}. Move it "
        f"away, then fetch it again: swarmtui torrent get {clean(differ[0], 255)}",
        err=True,
    )
    return 1


def _who(names: Iterable[str]) -> str:
    """Who knows a root: `given`, `pinned`, or `remembered by alice, bob`."""
    found = [clean(name, 64) for name in names]
    return found[0] if found in (["given"], ["pinned"]) else f"remembered by {', '.join(found)}"


def _chosen(
    files: tuple[str, ...], root: str | None, folder: Path
) -> list[tuple[Path, str | None]]:
    """The files meant, each with the root given for it."""
    if root is not None:
        root = root.lower()
        if not transfers.HASH.fullmatch(root):
            raise PlainError(f"'{clean(root, 80)}' is not a root.", "A root is 64 hex digits.")
        if len(files) != 1:
            raise PlainError(
                "--root is about one file.", "Name one FILE, or give each as FILE@ROOT."
            )
    found: list[tuple[Path, str | None]] = []
    for text in files:
        given = root
        path = _existing(text, folder)
        if path is None and "@" in text:
            text, given = split_root(text)
            path = _existing(text, folder)
        if path is None:
            raise PlainError(
                f"There is no file {clean(text, 300)}.",
                f"Give its path, or the name of a file in {clean(folder, 300)}.",
            )
        found.append((path, given or None))
    if not files:
        found = [(path, None) for path in jobs.shard_files(folder)]
        if not found:
            raise PlainError(
                f"There is no shard file in {clean(folder, 300)}.",
                "Name files, or another folder with --shards-dir.",
            )
    return found


def _existing(text: str, folder: Path) -> Path | None:
    for path in (Path(text), folder / text):
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):
            continue  # a name no file can have
    return None


class _HashProgress:
    """A percentage on standard error, where that is a terminal."""

    def __init__(self, total: int) -> None:
        import threading

        from swarmtui.following import ProgressLine

        self._line = ProgressLine()
        self._lock = threading.Lock()
        self._total = total
        self._done = 0
        self._began = time.monotonic()

    def add(self, path: Path, count: int) -> None:
        """Another `count` bytes are hashed; called from the hashing threads."""
        with self._lock:
            self._done += count
            took = max(time.monotonic() - self._began, 0.001)
            done = percent(self._done / self._total) if self._total else percent(1)
            speed = rate(self._done / took)
            self._line.show(f"hashing {clean(path.name, 60)}  {done}  {speed}")

    def clear(self) -> None:
        with self._lock:
            self._line.clear()


# ---------------------------------------------------------------- publish


@command.command("publish")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@name_option
def publish(files: tuple[str, ...], name: str | None) -> int:
    """Have a running node offer files, and print what others need to get exactly these."""
    paths = [_publishable(text) for text in files]
    with _door(name) as door:
        node = door.snapshot().state.node
        folder = Path(node.shards_dir) if node is not None else Path.cwd()
        for text, given in zip(files, paths, strict=True):
            path = given or _publishable(str(folder / text))
            assert path is not None
            answer = _published(door, path)
            filename = clean(answer.get("filename") or path.name, 255)
            root = clean(answer.get("root") or "", 128)
            click.echo(f"✓ {filename}  {size(int(answer.get('size') or 0))}")
            click.echo(f"  info hash  {clean(answer.get('info_hash') or '', 128)}")
            click.echo(f"  root       {root}")
            click.echo(f"  others     --pin {filename}@{root}")
    return 0


def _publishable(text: str) -> Path | None:
    """The absolute path of a GGUF file; None where only a file of the node can be meant.

    Raises PlainError where it is none.
    """
    path, shown = Path(text), clean(text, 300)
    try:
        if not path.is_file():
            if path.name == text and not path.exists():
                return None
            raise PlainError(f"There is no file {shown}.", "Give the path of a GGUF file.")
        with open(path, "rb") as file:
            magic = file.read(4)
    except (OSError, ValueError) as error:
        raise PlainError(
            f"The file {shown} cannot be read: {clean(getattr(error, 'strerror', error))}.",
            "It must be a regular file that this user may read.",
        ) from None
    if magic != b"GGUF":
        raise PlainError(
            f"{shown} is not a GGUF file.", "Cut a model with `swarmtui split`, or name another."
        )
    return path.absolute()


def _published(door: SocketDoor, path: Path) -> dict[str, Any]:
    """The node's answer; a large file takes a while to hash, which is shown meanwhile."""
    from swarmtui.following import ProgressLine, progress_text

    line = ProgressLine()
    future: Future[dict[str, Any]] = door.request(PUBLISH, {"path": str(path)})
    try:
        while True:
            try:
                return future.result(0.25)
            except (TimeoutError, FutureTimeout):
                if future.done():
                    raise
            for item in door.snapshot().state.torrents.values():
                if item.filename == path.name and item.phase == "hashing":
                    line.show(progress_text(item), int(item.progress * 10))
    finally:
        line.clear()
