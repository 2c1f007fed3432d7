"""`swarmtui status`: what a running node sees."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import TYPE_CHECKING

import click

from node import jobs
from node.errors import PlainError
from node.settings import load_settings
from swarmtui.commands.options import name_option

if TYPE_CHECKING:
    from node.door_client import SocketDoor

WATCH_PERIOD_S = 0.5


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.option("--watch", is_flag=True, help="Print it again whenever something changed.")
@name_option
def command(as_json: bool, watch: bool, name: str | None) -> int:
    """Show what a running node of this machine sees: shards, peers, readiness."""
    door = jobs.open_door(load_settings(), name)
    try:
        if not watch:
            click.echo(_text(door, as_json))
            return 0
        return _watch(door, as_json)
    finally:
        door.close()


def _text(door: SocketDoor, as_json: bool) -> str:
    report = jobs.status_report(door.snapshot().state, time.time())
    return json.dumps(report, ensure_ascii=False) if as_json else jobs.status_text(report)


def _watch(door: SocketDoor, as_json: bool) -> int:
    changed = threading.Event()
    unsubscribe = door.subscribe(changed.set)
    clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() and not as_json else ""
    try:
        while True:
            changed.clear()
            click.echo(clear + _text(door, as_json))
            if door.lost:
                raise PlainError(f"The node is gone: {door.lost}.", "Start it again.")
            pause = time.monotonic() + WATCH_PERIOD_S
            # A quiet swarm still shows its ages ("silent 12 s") moving, once in two seconds.
            changed.wait(4 * WATCH_PERIOD_S)
            # Many changes at once are one picture.
            threading.Event().wait(max(pause - time.monotonic(), 0))
    except KeyboardInterrupt:
        return 0
    finally:
        unsubscribe()
