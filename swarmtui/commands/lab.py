"""`swarmtui lab`: a whole swarm on this machine."""

from __future__ import annotations

import click


@click.command("lab")
@click.option("--nodes", type=click.IntRange(1, 64), default=4, show_default=True)
@click.option("--shards", type=click.IntRange(1, 256), default=4, show_default=True)
@click.option(
    "--empty",
    type=click.IntRange(0, 63),
    default=0,
    show_default=True,
    help="How many of the nodes start without files and fetch their shards.",
)
@click.option("--no-ui", is_flag=True, help="Print the report and stop instead of a console.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, as last line.")
@click.option(
    "--timeout",
    type=click.FloatRange(1, 3600),
    default=60.0,
    show_default=True,
    help="Seconds to wait until the swarm is ready.",
)
@click.option(
    "--layers", type=click.IntRange(1, 4096), help="Layers of the model [default: 8, or shards]."
)
@click.option("--embd", type=click.IntRange(32, 65536), default=64, show_default=True)
@click.option("--vocab", type=click.IntRange(64, 1_000_000), default=512, show_default=True)
@click.option(
    "--transport", type=click.Choice(["dual", "quic", "tcp"]), default="dual", show_default=True
)
def command(
    nodes: int,
    shards: int,
    empty: int,
    no_ui: bool,
    as_json: bool,
    timeout: float,
    layers: int | None,
    embd: int,
    vocab: int,
    transport: str,
) -> int:
    """Run a rendezvous node and several nodes with a synthetic model, on loopback.

    Opens the console of node 0 when every node sees every shard; with --no-ui (or without a
    terminal) prints the report and stops everything. Leaves nothing behind.
    """
    from swarmtui.lab import Plan, run_lab

    plan = Plan(
        nodes=nodes,
        shards=shards,
        layers=max(8, shards) if layers is None else layers,
        embd=embd,
        vocab=vocab,
        timeout_s=timeout,
        transport=transport,
        empty=empty,
    )
    return run_lab(plan, console=not no_ui and not as_json, as_json=as_json)
