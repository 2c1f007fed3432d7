"""`swarmtui bundle`: a bug report of a running node."""

from __future__ import annotations

from pathlib import Path

import click

from node import jobs
from node.settings import load_settings
from swarmtui.commands.options import name_option


@click.command("bundle")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder to write it to; by default the working folder.",
)
@name_option
def command(out: Path | None, name: str | None) -> int:
    """Write a bug report (a zip of log, state, settings without secrets and versions)."""
    from swarmtui.bundle import write_bundle

    door = jobs.open_door(load_settings(), name)
    try:
        click.echo(write_bundle(door, out or Path.cwd()))
    finally:
        door.close()
    return 0
