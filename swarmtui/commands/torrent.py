"""`swarmtui torrent`: shard files, their transfers, and whether they are what they should be."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
from swarmtui.amounts import rate, size, took
from swarmtui.commands.options import json_option, name_option
from swarmtui.commands.torrent_verify import verify
from swarmtui.transfers import split_root

if TYPE_CHECKING:
    from node.door_client import SocketDoor
    from node.state import Torrent
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
@json_option
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
@json_option
@name_option
def get(what: str, no_load: bool, no_wait: bool, as_json: bool, name: str | None) -> int:
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
            if answer.get("status") == "here" or no_wait:
                here = answer.get("status") == "here" and not as_json
                _say(answer, filename, as_json, f"✓ {filename} is here already." if here else "")
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
            return _did_not_come(follower, error, as_json)
    if as_json:
        _print(_item_values(item, "complete"))
        return 0
    words = f"{filename} is complete and verified"
    if item.fetched and item.seconds > 0:
        speed = rate(item.fetched / item.seconds)
        words += f": {size(item.fetched)} fetched in {took(item.seconds)} ({speed})"
    click.echo(f"✓ {words}.")
    if item.root:
        click.echo(f"  root {clean(item.root, 128)}")
    return 0


def _did_not_come(follower: Follower, error: PlainError, as_json: bool) -> int:
    from swarmtui.torrent_list import offer_lines

    if as_json:
        known = {} if follower.item is None else _item_values(follower.item, "failed")
        parts = map(transfers.offer_parts, follower.item.offers if follower.item else ())
        offers = [{"root": root, "about": words} for root, words in parts]
        told = {"reason": error.sentence, "next_step": error.next_step or "", "offers": offers}
        _print({**_NO_ITEM, **known, **told})
    click.echo(f"✗ {error.sentence}", err=True)
    if error.next_step:
        click.echo(f"  {error.next_step}", err=True)
    if follower.item is not None:
        for line in offer_lines(clean(follower.item.filename, 255), follower.item):
            click.echo(f"  {line}", err=True)
    return 1


_NO_ITEM: dict[str, Any] = {
    "filename": "",
    "info_hash": "",
    "root": "",
    "size": 0,
    "status": "failed",
    "fetched": 0,
    "seconds": 0.0,
}


def _item_values(item: Torrent, status: str) -> dict[str, Any]:
    """A transfer that ended, for JSON: sizes in bytes; seconds without pauses."""
    pending = item.info_hash.startswith(transfers.PENDING)
    return {
        "filename": clean(item.filename, 255),
        "info_hash": "" if pending else clean(item.info_hash, 128),
        "root": clean(item.root, 128),
        "size": item.size,
        "status": status,
        "fetched": item.fetched,
        "seconds": item.seconds,
    }


def _print(values: dict[str, Any]) -> None:
    click.echo(json.dumps(values, ensure_ascii=False))


def _say(answer: dict[str, Any], filename: str, as_json: bool, words: str = "") -> None:
    """What the node answered, as one JSON object or as `words`, by default its status."""
    if as_json:
        status = clean(answer.get("status") or "", 80)
        found = clean(answer.get("info_hash") or "", 128)
        _print({"filename": filename, "status": status, "info_hash": found})
    else:
        click.echo(words or _answer_line(answer, filename))


def _answer_line(answer: dict[str, Any], filename: str) -> str:
    status = clean(answer.get("status") or "asked for", 80)
    found = clean(answer.get("info_hash") or "", 128)
    return f"{filename}: {status}{f'  (info hash {found})' if found else ''}"


def _change(request: str, what: str, name: str | None, as_json: bool, **more: Any) -> int:
    with _door(name) as door:
        answer = _answer(door, request, {"what": what, **more})
    _say(answer, clean(answer.get("filename") or what, 255), as_json)
    return 0


@command.command("pause")
@click.argument("what")
@json_option
@name_option
def pause(what: str, as_json: bool, name: str | None) -> int:
    """Pause the download of WHAT; nothing of it is lost."""
    return _change(PAUSE, what, name, as_json)


@command.command("resume")
@click.argument("what")
@json_option
@name_option
def resume(what: str, as_json: bool, name: str | None) -> int:
    """Let the paused download of WHAT go on."""
    return _change(RESUME, what, name, as_json)


@command.command("cancel")
@click.argument("what")
@click.option("--keep", is_flag=True, help="Keep what was fetched for a later start.")
@json_option
@name_option
def cancel(what: str, keep: bool, as_json: bool, name: str | None) -> int:
    """Give up the download of WHAT, and throw away what was fetched of it."""
    return _change(CANCEL, what, name, as_json, keep=keep)


# ---------------------------------------------------------------- publish


@command.command("publish")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@json_option
@name_option
def publish(files: tuple[str, ...], as_json: bool, name: str | None) -> int:
    """Have a running node offer files, and print what others need to get exactly these."""
    paths = [_publishable(text) for text in files]
    done = []
    with _door(name) as door:
        node = door.snapshot().state.node
        folder = Path(node.shards_dir) if node is not None else Path.cwd()
        for text, given in zip(files, paths, strict=True):
            path = given or _publishable(str(folder / text))
            assert path is not None
            answer = _published(door, path)
            filename = clean(answer.get("filename") or path.name, 255)
            root = clean(answer.get("root") or "", 128)
            found = clean(answer.get("info_hash") or "", 128)
            count, pin = int(answer.get("size") or 0), f"{filename}@{root}"
            if as_json:
                values = {"filename": filename, "size": count, "info_hash": found, "root": root}
                done.append({**values, "pin": pin})
                continue
            click.echo(f"✓ {filename}  {size(count)}")
            click.echo(f"  info hash  {found}")
            click.echo(f"  root       {root}")
            click.echo(f"  others     --pin {pin}")
    if as_json:
        _print({"files": done})
    return 0


def _publishable(text: str) -> Path | None:
    """The absolute path of a GGUF file; None where only a file of the node can be meant.

    Raises PlainError where it is none.
    """
    path, shown = Path(text), clean(text, 300)
    try:
        if not path.is_file():
            if path.is_dir():
                raise PlainError(f"{shown} is a folder, not a file.", "Name the GGUF files in it.")
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


command.add_command(verify)
