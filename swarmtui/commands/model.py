"""`swarmtui model synth`: random models, for tests and the lab."""

from __future__ import annotations

from pathlib import Path

import click

from node import jobs


@click.group("model")
def command() -> None:
    """Make synthetic models."""


@command.command("synth")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--layers", type=click.IntRange(1, 4096), default=8, show_default=True)
@click.option("--embd", type=click.IntRange(1, 65536), default=64, show_default=True)
@click.option("--vocab", type=click.IntRange(1, 1_000_000), default=512, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option(
    "--quant", type=click.Choice(["f32", "q8_0", "q4_0"]), default="f32", show_default=True
)
@click.option(
    "--arch", type=click.Choice(["llama", "qwen2", "qwen3"]), default="llama", show_default=True
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is already there.")
def synth(
    out: Path,
    layers: int,
    embd: int,
    vocab: int,
    seed: int,
    quant: str,
    arch: str,
    overwrite: bool,
) -> int:
    """Write a random model to OUT: it loads and runs, and says nothing of sense.

    The same arguments give the same bytes.
    """
    path = jobs.synth(
        out,
        layers=layers,
        embd=embd,
        vocab=vocab,
        seed=seed,
        quant=quant,
        arch=arch,
        overwrite=overwrite,
    )
    click.echo(f"{path}  {path.stat().st_size} bytes")
    return 0
