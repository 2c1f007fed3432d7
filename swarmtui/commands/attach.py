"""`swarmtui attach`: the console of a node that runs already."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from node import jobs
from node.errors import PlainError
from node.requests import STOP
from node.settings import load_settings
from swarmtui.commands.options import config_option, name_option

if TYPE_CHECKING:
    from pathlib import Path

    from node.door_client import SocketDoor

STOP_TIMEOUT_S = 3.0


@click.command("attach")
@name_option
@click.option("--theme", metavar="NAME", help="Colours of the console.")
@config_option
def command(name: str | None, theme: str | None, config: Path | None) -> int:
    """Open the console of a node that runs on this machine. Closing it leaves the node running."""
    from swarmtui.commands.run import terminal, theme_dirs

    settings = load_settings({"theme": theme}, config=config)
    path = jobs.socket_path(settings, name)
    if not terminal():
        raise PlainError(
            "The console needs a terminal.", "`swarmtui status --watch` works without one."
        )
    from swarmtui.console import run_console

    opened = False

    def connect() -> SocketDoor:
        nonlocal opened
        door = jobs.connect(path)
        opened = True
        return door

    outcome = run_console(
        connect,
        theme=settings.theme,
        theme_dirs=theme_dirs(settings),
        attached=True,
        title=name or path.parent.name,
    )
    if outcome == "stop":
        if not opened:
            return 2
        _stop(path)
    return 0


def _stop(path: Path) -> None:
    door = jobs.connect(path)
    try:
        asked = door.request(STOP, {"reason": "stopped from an attached console"})
        asked.result(STOP_TIMEOUT_S)
    except PlainError:
        # A node that stops closes its door, perhaps before the answer is out.
        if not door.lost:
            raise
    finally:
        door.close()
