"""Say what a GGUF file is, from its header alone: which shard of which model, and how large.

Quick for files of any size, and safe for files of any content: what passed here can be given to
llama.cpp without stopping the process.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import NoReturn

import msgspec

from node.clean import clean
from node.errors import PlainError
from node.shards import architectures
from node.shards.header import Header, read_header
from node.shards.tensor_types import file_type_name

# Keys of the metadata that makes a GGUF file a shard.
PREFIX = "swarmtui."
FORMAT = 1
MAX_SHARDS = architectures.MAX_LAYERS

_FILE_NAME = re.compile(r"shard-(\d{1,6})\.gguf")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class ShardFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a GGUF file holds. Text fields come from the file and were cleaned.

    size: bytes. shard_id and total_shards: None for a whole model. [layer_start, layer_end) are
    the model's layers in this file, total_layers the model's. n_embd: width of a hidden state.
    vocab: rows of the real vocabulary, whether or not this file holds it.
    model_fingerprint: SHA-256 of the whole model's content, hex; "" for a whole model.
    """

    path: Path
    filename: str
    size: int
    shard_id: int | None
    total_shards: int | None
    layer_start: int
    layer_end: int
    total_layers: int
    architecture: str
    model_name: str
    quantization: str
    has_embeddings: bool
    has_output: bool
    n_embd: int
    vocab: int
    tensor_bytes: int
    model_fingerprint: str

    @property
    def is_shard(self) -> bool:
        """False for a whole model."""
        return self.shard_id is not None


def shard_filename(shard_id: int) -> str:
    """The file name of a shard: `shard-3.gguf`."""
    return f"shard-{shard_id}.gguf"


def shard_id_of(filename: str) -> int | None:
    """The shard id in a name like `shard-3.gguf`, or None for any other name."""
    match = _FILE_NAME.fullmatch(filename)
    return int(match[1]) if match else None


def inspect_shard(path: str | os.PathLike[str]) -> ShardFile:
    """Describe the shard file at `path`.

    Reads the header only (milliseconds; tens of milliseconds where it holds a large vocabulary).
    Raises PlainError where the file is missing, not GGUF, truncated, damaged, a whole model, of
    an architecture that cannot be run in shards, or named after another shard.
    """
    info = inspect_gguf(path)
    name = clean(info.path.name, 120)
    if info.shard_id is None:
        raise PlainError(
            f"{name} is a whole model, not a shard of one.",
            f"Cut it first: swarmtui split {shlex.quote(clean(info.path, 300))} --shards 4 "
            "--out DIR",
        )
    named = shard_id_of(info.path.name)
    if named is not None and named != info.shard_id:
        raise PlainError(
            f"{name} holds shard {info.shard_id}, not shard {named} as its name says.",
            f"Rename it to {shard_filename(info.shard_id)}.",
        )
    return info


def inspect_gguf(path: str | os.PathLike[str]) -> ShardFile:
    """Describe the shard or whole model at `path`; raises PlainError as `inspect_shard` does."""
    return describe(read_header(path))


def describe(header: Header) -> ShardFile:
    """Check everything llama.cpp relies on in `header` and say what the file is."""
    shape = architectures.read_shape(header)
    architectures.check_tensors(header, shape)
    marks = _shard_marks(header, shape) if f"{PREFIX}format" in header.metadata else None
    start, end, total = marks[2:5] if marks else (0, shape.layers, shape.layers)
    return ShardFile(
        path=header.path,
        filename=clean(header.path.name, 255),
        size=header.size,
        shard_id=marks[0] if marks else None,
        total_shards=marks[1] if marks else None,
        layer_start=start,
        layer_end=end,
        total_layers=total,
        architecture=shape.architecture,
        model_name=model_name(header),
        quantization=quantization(header),
        has_embeddings=start == 0,
        has_output=end == total,
        n_embd=shape.embd,
        vocab=header.integer(f"{PREFIX}vocab_size") or shape.vocab,
        tensor_bytes=sum(tensor.nbytes for tensor in header.tensors.values()),
        model_fingerprint=header.text(f"{PREFIX}model_fingerprint") or "",
    )


def model_name(header: Header) -> str:
    """The model's name, cleaned: as the cut recorded it, as it names itself, or its file stem."""
    for key in (f"{PREFIX}name", "general.name"):
        name = clean(header.text(key) or "", 128).strip()
        if name:
            return name
    return clean(header.path.stem, 128)


def quantization(header: Header) -> str:
    """The usual label, such as "Q4_K_M"; else the encoding that most weight bytes are in."""
    label = file_type_name(header.integer("general.file_type"))
    if label is not None:
        return label
    weight: dict[str, int] = {}
    for tensor in header.tensors.values():
        weight[tensor.type.name] = weight.get(tensor.type.name, 0) + tensor.nbytes
    return max(weight, key=lambda name: weight[name])


def _shard_marks(header: Header, shape: architectures.Shape) -> tuple[int, int, int, int, int]:
    name = clean(header.path.name, 120)

    def stop(reason: str) -> NoReturn:
        raise PlainError(
            f"{name} does not describe itself as a shard should: {reason}.",
            "Copy or download it again, or cut the model again with swarmtui split.",
        )

    def number(key: str, low: int, high: int) -> int:
        value = header.integer(PREFIX + key)
        if value is None or not low <= value <= high:
            stop(f"'{PREFIX}{key}' is missing or out of range")
        return value

    if header.integer(f"{PREFIX}format") != FORMAT:
        stop("it was cut by another version of swarmtui")
    total_shards = number("total_shards", 1, MAX_SHARDS)
    shard_id = number("shard_id", 0, total_shards - 1)
    total_layers = number("total_layers", total_shards, architectures.MAX_LAYERS)
    start = number("layer_start", 0, total_layers - 1)
    end = number("layer_end", start + 1, total_layers)
    vocab = number("vocab_size", 1, 1 << 24)
    if end - start != shape.layers:
        stop(f"it holds {shape.layers} layers, not {end - start}")
    if (shard_id == 0) != (start == 0) or (shard_id == total_shards - 1) != (end == total_layers):
        stop("its layers do not belong to its place in the chain")
    if (start == 0 or end == total_layers) and shape.vocab != vocab:
        stop(f"its vocabulary has {shape.vocab} entries, not {vocab}")
    if not _FINGERPRINT.fullmatch(header.text(f"{PREFIX}model_fingerprint") or ""):
        stop("the model's fingerprint is missing")
    return shard_id, total_shards, start, end, total_layers
