"""`swarmtui rendezvous`: the node others join through."""

from __future__ import annotations

from typing import Any

import click

from swarmtui.commands.options import node_options, settings_from


@click.command("rendezvous")
@node_options("rendezvous")
def command(**options: Any) -> int:
    """Run a rendezvous node: a well-known address through which nodes join.

    It stores DHT records and answers commands on TCP and UDP; it holds no shard. Nodes that know
    each other go on without it.
    """
    from swarmtui.commands.run import run_node

    return run_node(settings_from(options, "rendezvous"))
