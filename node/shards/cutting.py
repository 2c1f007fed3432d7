"""Plan which metadata and which tensors of a model go into which shard.

A shard is a complete model to llama.cpp: its block_count is the number of its own layers and
`blk.i` of the model becomes `blk.(i-a)`. What a shard does not need is replaced by the smallest
thing the loader accepts: no vocabulary but one dummy token, an embedding of one row of zeros, and
an output norm of ones. The last shard keeps the output head under the name of the embedding,
where llama.cpp looks for the head of a model that has no separate one, so that it carries one
vocabulary matrix instead of two.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from node.shards import encode
from node.shards.architectures import (
    OUTPUT,
    OUTPUT_BIAS,
    OUTPUT_NORM,
    ROPE_TENSORS,
    TOKEN_EMBD,
    Shape,
    layer_tensors,
    sliceable,
)
from node.shards.encode import TensorPlan
from node.shards.header import Header, KeyValue, Tensor
from node.shards.inspect import FORMAT, PREFIX, model_name, quantization
from node.shards.tensor_types import F32

FINGERPRINT_PLACEHOLDER = "0" * 64


@dataclass(frozen=True, slots=True)
class Source:
    """Where a planned tensor's bytes come from: a tensor of the model, or made-up bytes."""

    plan: TensorPlan
    tensor: Tensor | None
    made: bytes = b""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One shard: layers [start, end), its metadata in order, its tensors in order.

    records: encoded records, or records of the model to be copied byte for byte.
    """

    shard_id: int
    start: int
    end: int
    records: tuple[bytes | KeyValue, ...]
    sources: tuple[Source, ...]

    @property
    def tensors(self) -> tuple[TensorPlan, ...]:
        """The tensors to be written, in order."""
        return tuple(source.plan for source in self.sources)


def layer_ranges(layers: int, shards: int) -> list[tuple[int, int]]:
    """[start, end) per shard: floor(layers/shards) each, the last takes the rest."""
    step = layers // shards
    return [
        (index * step, layers if index == shards - 1 else (index + 1) * step)
        for index in range(shards)
    ]


def plan_shards(header: Header, shape: Shape, shards: int) -> list[ShardPlan]:
    """Plan the cut of a checked whole model into `shards` shards (1 ≤ shards ≤ layers)."""
    return [
        ShardPlan(
            shard_id,
            start,
            end,
            tuple(_records(header, shape, shard_id, shards, start, end)),
            tuple(_sources(header, shape, start, end)),
        )
        for shard_id, (start, end) in enumerate(layer_ranges(shape.layers, shards))
    ]


def _records(
    header: Header, shape: Shape, shard_id: int, shards: int, start: int, end: int
) -> Iterator[bytes | KeyValue]:
    arch = shape.architecture
    first, last = start == 0, end == shape.layers
    sliced = sliceable(header, arch, shape.layers)
    replaced = {f"{arch}.block_count"}
    if not first:
        replaced |= {"tokenizer.ggml.model", f"{arch}.vocab_size"}
    for key, record in header.metadata.items():
        if key in replaced or key.startswith(("split.", PREFIX)):
            continue
        if not first and key.startswith("tokenizer.") and not (last and _is_token_id(key)):
            continue
        if key in sliced and isinstance(record.value, tuple):
            yield encode.array(key, record.value[start:end], record.element_type)
        else:
            yield record
    yield encode.scalar(f"{arch}.block_count", end - start)
    if not first:
        yield encode.text("tokenizer.ggml.model", "no_vocab")
        yield encode.scalar(f"{arch}.vocab_size", shape.vocab if last else 1)
    yield encode.scalar(f"{PREFIX}format", FORMAT)
    yield encode.scalar(f"{PREFIX}shard_id", shard_id)
    yield encode.scalar(f"{PREFIX}total_shards", shards)
    yield encode.scalar(f"{PREFIX}layer_start", start)
    yield encode.scalar(f"{PREFIX}layer_end", end)
    yield encode.scalar(f"{PREFIX}total_layers", shape.layers)
    yield encode.scalar(f"{PREFIX}vocab_size", shape.vocab)
    yield encode.text(f"{PREFIX}name", model_name(header))
    yield encode.text(f"{PREFIX}quantization", quantization(header))
    # Last, so that the placeholder's place in the file is easy to tell.
    yield encode.text(f"{PREFIX}model_fingerprint", FINGERPRINT_PLACEHOLDER)


def _sources(header: Header, shape: Shape, start: int, end: int) -> Iterator[Source]:
    tensors = header.tensors
    first, last = start == 0, end == shape.layers

    def copy(name: str, new_name: str) -> Source:
        tensor = tensors[name]
        return Source(TensorPlan(new_name, tensor.shape, tensor.type), tensor)

    def make(name: str, dims: tuple[int, ...], made: bytes) -> Source:
        return Source(TensorPlan(name, dims, F32), None, made)

    head = OUTPUT if OUTPUT in tensors else TOKEN_EMBD
    if first:
        yield copy(TOKEN_EMBD, TOKEN_EMBD)
    elif last:
        yield copy(head, TOKEN_EMBD)
    else:
        yield make(TOKEN_EMBD, (shape.embd, 1), bytes(4 * shape.embd))
    if last:
        yield copy(OUTPUT_NORM, OUTPUT_NORM)
        if first and OUTPUT in tensors:
            yield copy(OUTPUT, OUTPUT)
        if OUTPUT_BIAS in tensors:
            yield copy(OUTPUT_BIAS, OUTPUT_BIAS)
    else:
        yield make(OUTPUT_NORM, (shape.embd,), struct.pack("<f", 1.0) * shape.embd)
    for name in ROPE_TENSORS:
        if name in tensors:
            yield copy(name, name)
    suffixes = tuple(layer_tensors(shape))
    for layer in range(start, end):
        for suffix in suffixes:
            if f"blk.{layer}.{suffix}" in tensors:
                yield copy(f"blk.{layer}.{suffix}", f"blk.{layer - start}.{suffix}")


def _is_token_id(key: str) -> bool:
    """The ids that end a generation: the last shard samples, so it keeps them."""
    return key.startswith("tokenizer.ggml.") and key.endswith(("_token_id", "_token_ids"))
