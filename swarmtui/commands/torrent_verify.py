"""`swarmtui torrent verify`: whether files are what they should be."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node import jobs
from node.clean import clean
from node.errors import PlainError
from node.settings import load_settings
from swarmtui.amounts import percent, rate
from swarmtui.commands.options import json_option
from swarmtui.transfers import HASH, split_root

if TYPE_CHECKING:
    from node.jobs import Verified

_WORDS = {True: "ok", False: "DIFFERS", None: "not known"}


@click.command("verify")
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
@json_option
def verify(
    files: tuple[str, ...],
    root: str | None,
    name: str | None,
    shards_dir: Path | None,
    as_json: bool,
) -> int:
    """Hash files and say whether they are what they should be. No node needs to run.

    Without FILE all files of the shards folder. Each is compared with the root given, else with
    the one pinned in the settings, else with the one a node remembers. Ends with 1 when one
    differs.
    """
    flags = {"name": name, "shards_dir": None if shards_dir is None else str(shards_dir)}
    settings = load_settings(flags)
    chosen = _chosen(files, root, settings.shards_dir)
    results = []
    progress = _HashProgress(sum(path.stat().st_size for path, _ in chosen))
    try:
        for result in jobs.verify(settings, chosen, name=name, on_progress=progress.add):
            progress.clear()
            results.append(result)
            if not as_json:
                click.echo("\n".join(_lines(result)))
    finally:
        progress.clear()
    differ = [result.path.name for result in results if result.ok is False]
    if as_json:
        told = {"ok": not differ, "files": [_values(result) for result in results]}
        click.echo(json.dumps(told, ensure_ascii=False))
    if not differ:
        return 0
    click.echo(
        f"Not what it should be: {', '.join(clean(item, 100) for item in differ[:8])}. Move it "
        f"away, then fetch it again: swarmtui torrent get {clean(differ[0], 255)}",
        err=True,
    )
    return 1


def _lines(result: Verified) -> list[str]:
    told = f"  ({_who(result.matches)})" if result.matches else ""
    lines = [f"{_WORDS[result.ok]:<9}  {clean(result.path, 300)}  {result.root}{told}"]
    if result.ok is False:
        for other in dict.fromkeys(root for _, root in result.differs):
            who = _who(name for name, root in result.differs if root == other)
            lines.append(f"{'':<9}  from {other} ({who})")
    return lines


def _values(result: Verified) -> dict[str, Any]:
    """For JSON: ok is None where nothing is known; size in bytes, root and info_hash in hex."""
    return {
        "path": str(result.path),
        "filename": result.path.name,
        "size": result.size,
        "root": result.root,
        "info_hash": result.info_hash,
        "ok": result.ok,
        "matches": list(result.matches),
        "differs": [{"who": who, "root": root} for who, root in result.differs],
    }


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
        if not HASH.fullmatch(root):
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
        if path is None and _folder(text):
            raise PlainError(
                f"{clean(text, 300)} is a folder, not a file.",
                "Name the files in it, or give the folder with --shards-dir.",
            )
        if path is None:
            raise PlainError(
                f"There is no file {clean(text, 300)}.",
                f"Give its path, or the name of a file in {clean(folder, 300)}.",
            )
        try:
            path.name.encode()
        except UnicodeEncodeError:
            raise PlainError(
                f"The file name {clean(ascii(path.name), 300)} is not valid text.", "Rename it."
            ) from None
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


def _folder(text: str) -> bool:
    try:
        return Path(text).is_dir()
    except (OSError, ValueError):
        return False


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
