"""Seeded synthetic models: random weights, a byte-level vocabulary, real GGUF files.

They say nothing sensible, but they load, tokenise any text and generate like any other model, so
everything else can be tried without a download.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from node.clean import clean
from node.errors import PlainError
from node.shards import encode
from node.shards.architectures import (
    MAX_LAYERS,
    OUTPUT,
    OUTPUT_NORM,
    TOKEN_EMBD,
    Shape,
    layer_tensors,
    require_cuttable,
)
from node.shards.encode import TensorPlan, padding
from node.shards.files import require_folder, require_space
from node.shards.header import BOOL, DEFAULT_ALIGNMENT, FLOAT32
from node.shards.tensor_types import F32, Q4_0, Q8_0, TensorType, file_type_number
from node.shards.writing import write_all

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUANTS: dict[str, TensorType] = {"f32": F32, "q8_0": Q8_0, "q4_0": Q4_0}
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
MIN_VOCAB = len(SPECIAL_TOKENS) + 256
MAX_VOCAB = 1 << 20
MAX_EMBD = 16384
CONTEXT_LENGTH = 4096

# Token types of llama.cpp's `enum llama_token_type`.
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_CHUNK_ELEMENTS = 1 << 20


def synth_model(
    out: str | os.PathLike[str],
    *,
    layers: int,
    embd: int,
    vocab: int,
    seed: int,
    quant: str = "f32",
    arch: str = "llama",
    heads: int | None = None,
    heads_kv: int | None = None,
    tied: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a random model to `out` and return its path. The same arguments give the same bytes.

    quant: f32, q8_0 or q4_0, the encoding of every matrix. heads: by default as many as give a
    head size of 64, or of 32 in small models; heads_kv: by default half as many. tied: no output
    head of its own. Raises PlainError for arguments no model can have and for a file that exists.
    """
    path = Path(out)
    plan = _Plan(layers, embd, vocab, seed, quant, arch, heads, heads_kv, tied)
    require_folder(path.parent)
    if path.is_dir() or (path.exists() and not overwrite):
        raise PlainError(
            f"{clean(path, 300)} exists already.", "Choose another name, or remove it first."
        )
    head = encode.header(plan.records(), plan.tensors, DEFAULT_ALIGNMENT)
    require_space(path.parent, len(head) + sum(tensor.nbytes for tensor in plan.tensors))
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb", buffering=0) as file:
            write_all(file, head)
            for index, tensor in enumerate(plan.tensors):
                _write_tensor(file, plan, index, tensor)
        os.replace(part, path)
    except OSError as error:
        raise PlainError(
            f"{clean(path, 300)} cannot be written: {clean(error.strerror or error)}.",
            "Make room or choose another folder.",
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path


class _Plan:
    """Checked arguments, and what follows from them."""

    def __init__(
        self,
        layers: int,
        embd: int,
        vocab: int,
        seed: int,
        quant: str,
        arch: str,
        heads: int | None,
        heads_kv: int | None,
        tied: bool,
    ) -> None:
        require_cuttable(arch)
        _within("The number of layers", layers, 1, MAX_LAYERS)
        _within("The embedding length", embd, 32, MAX_EMBD)
        _within("The vocabulary", vocab, MIN_VOCAB, MAX_VOCAB)
        _within("The seed", seed, 0, (1 << 64) - 1)
        if quant not in QUANTS:
            raise PlainError(
                f"The quantisation '{clean(quant, 40)}' is not known here.",
                f"Choose one of {', '.join(QUANTS)}.",
            )
        if embd % 32:
            raise PlainError(
                f"The embedding length {embd} is not a multiple of 32.",
                f"Choose {embd // 32 * 32} or {(embd // 32 + 1) * 32}.",
            )
        if heads is None:
            heads = embd // (64 if embd % 64 == 0 and embd >= 512 else 32)
        _within("The number of heads", heads, 1, embd // 2)
        if embd % heads or (embd // heads) % 2:
            raise PlainError(
                f"An embedding of {embd} cannot be shared evenly by {heads} heads.",
                f"Choose a number of heads that divides {embd} into even parts.",
            )
        if heads_kv is None:
            heads_kv = heads // 2 if heads % 2 == 0 else heads
        _within("The number of key-value heads", heads_kv, 1, heads)
        if heads % heads_kv:
            raise PlainError(
                f"{heads} heads cannot share {heads_kv} key-value heads.",
                f"Choose a number of key-value heads that divides {heads}.",
            )
        ff = (embd * 8 // 3 + 31) // 32 * 32
        self.shape = Shape(arch, layers, embd, heads, heads_kv, embd // heads, ff, vocab)
        self.seed = seed
        self.quant = quant
        self.tensors = list(_tensors(self.shape, QUANTS[quant], tied))

    def records(self) -> list[bytes]:
        shape, arch = self.shape, self.shape.architecture
        name = f"synth-{arch}-{shape.layers}x{shape.embd}-{self.quant}-s{self.seed}"
        words = vocabulary(shape.vocab)
        kinds = [_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * 256
        kinds += [_NORMAL] * (shape.vocab - len(kinds))
        key = "tokenizer.ggml."
        return [
            encode.text("general.architecture", arch),
            encode.text("general.name", name),
            encode.scalar("general.file_type", file_type_number(self.quant.upper())),
            encode.scalar("general.quantization_version", 2),
            encode.scalar(f"{arch}.block_count", shape.layers),
            encode.scalar(f"{arch}.context_length", CONTEXT_LENGTH),
            encode.scalar(f"{arch}.embedding_length", shape.embd),
            encode.scalar(f"{arch}.feed_forward_length", shape.ff),
            encode.scalar(f"{arch}.attention.head_count", shape.heads),
            encode.scalar(f"{arch}.attention.head_count_kv", shape.heads_kv),
            encode.scalar(f"{arch}.attention.key_length", shape.head_dim),
            encode.scalar(f"{arch}.attention.value_length", shape.head_dim),
            encode.scalar(f"{arch}.attention.layer_norm_rms_epsilon", 1e-5, FLOAT32),
            encode.scalar(f"{arch}.rope.dimension_count", shape.head_dim),
            encode.scalar(f"{arch}.rope.freq_base", 10000.0, FLOAT32),
            encode.scalar(f"{arch}.vocab_size", shape.vocab),
            encode.text(f"{key}model", "llama"),
            encode.text(f"{key}pre", "default"),
            encode.array(f"{key}tokens", words),
            encode.array(f"{key}scores", [0.0] * shape.vocab),
            encode.array(f"{key}token_type", kinds),
            encode.scalar(f"{key}unknown_token_id", 0),
            encode.scalar(f"{key}bos_token_id", 1),
            encode.scalar(f"{key}eos_token_id", 2),
            encode.scalar(f"{key}add_bos_token", True, BOOL),
            encode.scalar(f"{key}add_space_prefix", False, BOOL),
        ]


def vocabulary(size: int) -> list[str]:
    """Three special tokens, the 256 bytes, then numbered words up to `size` entries."""
    words = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))]
    return words + [f"\u2581w{number}" for number in range(size - len(words))]


def _tensors(shape: Shape, matrix: TensorType, tied: bool) -> Iterator[TensorPlan]:
    def plan(name: str, dims: tuple[int, ...]) -> TensorPlan:
        return TensorPlan(name, dims, F32 if len(dims) == 1 else matrix)

    yield plan(TOKEN_EMBD, (shape.embd, shape.vocab))
    for layer in range(shape.layers):
        for suffix, (dims, required) in layer_tensors(shape).items():
            # qwen2 is the one of the three whose attention has biases by design.
            if required or (shape.architecture == "qwen2" and suffix.endswith(".bias")):
                yield plan(f"blk.{layer}.{suffix}", dims)
    yield plan(OUTPUT_NORM, (shape.embd,))
    if not tied:
        yield plan(OUTPUT, (shape.embd, shape.vocab))


def _write_tensor(file: FileIO, plan: _Plan, index: int, tensor: TensorPlan) -> None:
    """Draw, encode and write one tensor in blocks of whole rows, so that memory stays flat."""
    import numpy as np

    # One stream per tensor: a model with more layers begins with the same weights.
    random = np.random.Generator(np.random.PCG64([plan.seed, index]))
    row = tensor.shape[0]
    rows = math.prod(tensor.shape[1:])
    step = max(1, _CHUNK_ELEMENTS // row)
    for start in range(0, rows, step):
        block = random.standard_normal((min(step, rows - start), row), dtype=np.float32)
        if tensor.name.endswith("norm.weight"):
            block = np.float32(1) + block * np.float32(0.1)
        elif tensor.name.endswith(".bias"):
            block *= np.float32(0.1)
        elif tensor.name != TOKEN_EMBD:
            block *= np.float32(1 / math.sqrt(row))
        write_all(file, _encode(block, tensor.type).tobytes())
    write_all(file, bytes(padding(tensor.nbytes, DEFAULT_ALIGNMENT)))


def _encode(block: NDArray[np.float32], kind: TensorType) -> NDArray[np.generic]:
    if kind is F32:
        return block
    from gguf import GGMLQuantizationType, quants

    encoded: NDArray[np.generic] = quants.quantize(block, GGMLQuantizationType(kind.number))
    return encoded


def _within(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise PlainError(
            f"{what} cannot be {value}.",
            f"Choose one from {low} to {high}.",
        )
