"""`swarmtui split`: cut a model into shard files."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from node import jobs


@click.command("split")
@click.argument("model", type=click.Path(path_type=Path), envvar="LLAMA_GGUF_PATH")
@click.option("--shards", required=True, type=click.IntRange(1, 1000), help="How many shards.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder to write shard-0.gguf … and manifest.json to.",
)
@click.option("--verify", is_flag=True, help="Prove that the chain of shards computes the same.")
@click.option("--overwrite", is_flag=True, help="Replace shards that are already there.")
def command(model: Path, shards: int, out: Path, verify: bool, overwrite: bool) -> int:
    """Cut MODEL (a GGUF file) into shards of consecutive layers."""
    import humanize

    progress = _Progress()
    made = jobs.split(
        model, shards, out, verify=verify, overwrite=overwrite, on_progress=progress.show
    )
    progress.done()
    for shard in made:
        click.echo(
            f"{shard.path}  layers {shard.layer_start}-{shard.layer_end}  "
            f"{humanize.naturalsize(shard.size, binary=True)}"
        )
    if verify:
        click.echo("Verified: the chain of shards gives the whole model's logits, bit for bit.")
    return 0


class _Progress:
    """A percentage on standard error, where that is a terminal."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._last = -1

    def show(self, written: int, total: int) -> None:
        percent = written * 100 // total if total else 100
        if self._on and percent != self._last:
            self._last = percent
            print(f"\rcutting {percent:3d} %", end="", file=sys.stderr, flush=True)

    def done(self) -> None:
        if self._on and self._last >= 0:
            print("\r              \r", end="", file=sys.stderr, flush=True)
