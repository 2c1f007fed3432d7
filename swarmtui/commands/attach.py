"""`swarmtui attach`: the console of a node that runs already."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from node import jobs
from node.errors import PlainError
from node.settings import load_settings
from swarmtui.commands.options import config_option, name_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command("attach")
@name_option
@click.option("--theme", metavar="NAME", help="Colours of the console.")
@config_option
def command(name: str | None, theme: str | None, config: Path | None) -> int:
    """Open the console of a node that runs on this machine. Leaving it does not stop the node."""
    from swarmtui.commands.run import terminal, theme_dirs

    settings = load_settings({"theme": theme}, config=config)
    path = jobs.socket_path(settings, name)
    if not terminal():
        raise PlainError(
            "The console needs a terminal.", "`swarmtui status --watch` works without one."
        )
    from swarmtui.console import run_console

    run_console(
        lambda: jobs.connect(path),
        theme=settings.theme,
        theme_dirs=theme_dirs(settings),
        attached=True,
        title=name or path.parent.name,
    )
    return 0
