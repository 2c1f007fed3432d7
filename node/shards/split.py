"""Cut a GGUF model into shard files, streaming, in constant memory.

Quantised bytes are copied unchanged. The files appear under their names only when all of them are
complete (and, if asked for, proven), so that a failure leaves nothing that looks like a shard.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from node.clean import clean
from node.errors import PlainError
from node.shards.architectures import Shape, check_tensors, read_shape
from node.shards.cutting import plan_shards
from node.shards.files import directory_lock, require_folder, require_space
from node.shards.header import Header, read_header
from node.shards.inspect import (
    PREFIX,
    inspect_gguf,
    model_name,
    quantization,
    shard_filename,
    shard_id_of,
)
from node.shards.manifest import MANIFEST_NAME, SplitResult, manifest_bytes
from node.shards.vocabulary import check_vocabulary
from node.shards.writing import Progress, ShardWriter
from node.torrent.files import info_hash

__all__ = ["SplitResult", "split_model"]


def split_model(
    model_path: str | os.PathLike[str],
    shards: int,
    out_dir: str | os.PathLike[str],
    *,
    verify: bool = False,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> list[SplitResult]:
    """Cut the model into `shards` files in `out_dir`, with `manifest.json` beside them.

    verify: also run the whole model and the chain of shards and require the same logits, bit for
    bit. on_progress(written, total): called with bytes, at least once per shard.
    Raises PlainError, leaving no file behind, for a model that cannot be cut, a number of shards
    out of 1…layers, a folder that is missing, full, unwritable or already holds shards, or a cut
    that does not prove exact.
    """
    header = read_header(model_path)
    _refuse_parts(header)
    shape = read_shape(header)
    check_tensors(header, shape)
    check_vocabulary(header, shape.vocab)
    if not 1 <= shards <= shape.layers:
        raise PlainError(
            f"{clean(header.path.name, 120)} has {shape.layers} layers and cannot be cut into "
            f"{shards} shards.",
            f"Choose a number of shards from 1 to {shape.layers}.",
        )
    out = require_folder(out_dir)
    with directory_lock(out):
        _refuse_existing(out, shards, header.path, overwrite=overwrite)
        cut = _Cut(header, shape, shards, out)
        try:
            return cut.run(verify=verify, overwrite=overwrite, on_progress=on_progress)
        except OSError as error:
            raise PlainError(
                f"The shards cannot be written to {clean(out, 300)}: "
                f"{clean(error.strerror or error)}.",
                "Make room or choose another folder with --out.",
            ) from error
        finally:
            cut.clean_up()


class _Cut:
    """One cut under way: which files exist for now, and which names they will get."""

    def __init__(self, header: Header, shape: Shape, shards: int, out: Path) -> None:
        self._header = header
        self._shape = shape
        self._plans = plan_shards(header, shape, shards)
        self._targets = [out / shard_filename(plan.shard_id) for plan in self._plans]
        self._parts = [_part(target) for target in self._targets]
        self._manifest = out / MANIFEST_NAME
        self._fresh: list[Path] = []

    def run(
        self, *, verify: bool, overwrite: bool, on_progress: Progress | None
    ) -> list[SplitResult]:
        with self._header.path.open("rb", buffering=0) as model:
            writer = ShardWriter(self._header, self._plans, model)
            require_space(self._manifest.parent, sum(writer.sizes))
            fingerprint = writer.write(self._parts, on_progress)
        for part in self._parts:
            inspect_gguf(part)
        if verify:
            from node.shards import verify as proof

            proof.verify_shards(self._header.path, self._parts)
        results = [
            SplitResult(
                shard_id=plan.shard_id,
                path=target,
                filename=target.name,
                size=size,
                layer_start=plan.start,
                layer_end=plan.end,
                info_hash=info_hash(target.name, size),
            )
            for plan, target, size in zip(self._plans, self._targets, writer.sizes, strict=True)
        ]
        _part(self._manifest).write_bytes(
            manifest_bytes(
                model_name=model_name(self._header),
                fingerprint=fingerprint,
                architecture=self._shape.architecture,
                quantization=quantization(self._header),
                total_layers=self._shape.layers,
                shards=results,
            )
        )
        for target in (*self._targets, self._manifest):
            os.replace(_part(target), target)
            if not overwrite:
                self._fresh.append(target)
        self._fresh.clear()
        return results

    def clean_up(self) -> None:
        """Remove what a failure left: unfinished files, and new ones of an incomplete set."""
        for path in (*self._parts, _part(self._manifest), *self._fresh):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _part(target: Path) -> Path:
    """The name a file has until it is complete."""
    return target.with_name(f".{target.name}.part")


def _refuse_parts(header: Header) -> None:
    name = clean(header.path.name, 120)
    if f"{PREFIX}format" in header.metadata:
        raise PlainError(
            f"{name} is already a shard of a model.", "Name the whole model's file instead."
        )
    if (header.integer("split.count") or 1) > 1:
        raise PlainError(
            f"{name} is one part of a model in {header.integer('split.count')} parts.",
            "Merge them first: llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf",
        )


def _refuse_existing(out: Path, shards: int, model: Path, *, overwrite: bool) -> None:
    for path in sorted(out.iterdir()):
        shard_id = shard_id_of(path.name)
        if shard_id is None and path.name != MANIFEST_NAME:
            continue
        shown = clean(path, 300)
        if path.exists() and path.samefile(model):
            raise PlainError(
                f"{shown} is the model itself and a shard would replace it.",
                "Choose another folder with --out.",
            )
        if shard_id is not None and shard_id >= shards and overwrite:
            raise PlainError(
                f"{shown} belongs to a cut into more than {shards} shards.",
                "Remove it first, or choose another folder with --out.",
            )
        if not overwrite:
            raise PlainError(
                f"{shown} exists already.",
                "Choose another folder with --out, or allow replacing it with --overwrite.",
            )
