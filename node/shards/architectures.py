"""Which architectures can be cut exactly, and what a file of each must hold.

llama.cpp stops the process on hyperparameters that contradict each other and refuses a file with
one tensor too many, so both are checked here, for whole models and for shards alike.
The tensor sets follow llama.cpp's `src/models/{llama,qwen2,qwen3}.cpp`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from node.clean import clean
from node.errors import PlainError
from node.shards.header import FLOAT32, FLOAT64, STRING, Header
from node.shards.tensor_types import NOT_WEIGHTS

CUTTABLE = ("llama", "qwen2", "qwen3")
MAX_LAYERS = 512

TOKEN_EMBD = "token_embd.weight"
OUTPUT_NORM = "output_norm.weight"
OUTPUT = "output.weight"
OUTPUT_BIAS = "output.bias"
# Factors of the rotary embedding: shared by all layers, so every shard gets them.
ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")

_NO_NEXT = "Convert the model again with llama.cpp's own converter, or choose another model."
# Present and not zero, each of these changes what a layer computes in a way no cut here knows.
_MUST_BE_ZERO = (
    "expert_count",
    "expert_used_count",
    "expert_group_count",
    "expert_shared_feed_forward_length",
    "nextn_predict_layers",
    "attention.sliding_window",
    "pooling_type",
    "attention.key_length_swa",
    "attention.value_length_swa",
    "rope.dimension_count_swa",
)
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")


@dataclass(frozen=True, slots=True)
class Shape:
    """The hyperparameters which fix a model's tensor shapes. Lengths are in elements."""

    architecture: str
    layers: int
    embd: int
    heads: int
    heads_kv: int
    head_dim: int
    ff: int
    vocab: int


def require_cuttable(architecture: str | None) -> str:
    """Return the architecture, or refuse it by name."""
    if architecture not in CUTTABLE:
        raise PlainError(
            f"The architecture '{clean(architecture or 'unknown', 60)}' cannot be cut exactly in "
            "this version; llama, qwen2 and qwen3 can.",
            "Choose a model of one of these architectures.",
        )
    return architecture


def read_shape(header: Header) -> Shape:
    """Read and cross-check the hyperparameters of a whole model or of a shard.

    Raises PlainError where llama.cpp would refuse the file or stop the process.
    """
    arch = require_cuttable(header.text("general.architecture"))
    problem = _Problem(header)
    layers = _number(header, problem, f"{arch}.block_count", 1, MAX_LAYERS)
    embd = _number(header, problem, f"{arch}.embedding_length", 2, 1 << 20)
    _number(header, problem, f"{arch}.context_length", 1, 1 << 31)
    heads = _uniform(header, problem, f"{arch}.attention.head_count", layers)
    heads_kv = _uniform(header, problem, f"{arch}.attention.head_count_kv", layers, heads)
    ff = _uniform(header, problem, f"{arch}.feed_forward_length", layers)
    if heads % heads_kv:
        problem.stop(f"its {heads} heads cannot share {heads_kv} key-value heads")
    head_dim = header.integer(f"{arch}.attention.key_length") or embd // heads
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        if header.integer(f"{arch}.{key}") not in (None, head_dim):
            problem.stop(f"'{arch}.{key}' differs from its head size {head_dim}")
    has_lengths = {f"{arch}.attention.key_length", f"{arch}.attention.value_length"}
    if not has_lengths <= header.metadata.keys() and head_dim != embd // heads:
        problem.stop("only one of its key length and value length is given")
    if not 2 <= head_dim <= 1024 or head_dim % 2:
        problem.stop(f"its head size {head_dim} is not an even number up to 1024")
    epsilon = header.metadata.get(f"{arch}.attention.layer_norm_rms_epsilon")
    if epsilon is None or epsilon.type != FLOAT32 or not 0 < float(str(epsilon.value)) < 1:
        problem.stop("the epsilon of its norms is missing or out of range")
    for key in _MUST_BE_ZERO:
        record = header.metadata.get(f"{arch}.{key}")
        if record is not None and record.value != 0:
            problem.stop(f"'{arch}.{key}' is set, and this version cannot cut such a model")
    causal = header.metadata.get(f"{arch}.attention.causal")
    if causal is not None and causal.value is not True:
        problem.stop("its attention is not causal")
    scaling = header.metadata.get(f"{arch}.rope.scaling.type")
    if scaling is not None and (scaling.type != STRING or scaling.value not in _ROPE_SCALINGS):
        problem.stop("its rope scaling is of an unknown kind")
    for key, record in header.metadata.items():
        number = record.value
        if record.type in (FLOAT32, FLOAT64) and not abs(float(str(number))) < 1e30:
            problem.stop(f"the value of '{clean(key, 60)}' is not a usable number")
    embedding = header.tensors.get(TOKEN_EMBD)
    if embedding is None or len(embedding.shape) != 2:
        problem.stop(f"the tensor '{TOKEN_EMBD}' is missing")
    return Shape(arch, layers, embd, heads, heads_kv, head_dim, ff, embedding.shape[1])


def layer_tensors(shape: Shape) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Every tensor one layer may hold: suffix → (shape, whether it must be there)."""
    embd, ff = shape.embd, shape.ff
    q = shape.heads * shape.head_dim
    kv = shape.heads_kv * shape.head_dim
    tensors: dict[str, tuple[tuple[int, ...], bool]] = {
        "attn_norm.weight": ((embd,), True),
        "attn_q.weight": ((embd, q), True),
        "attn_k.weight": ((embd, kv), True),
        "attn_v.weight": ((embd, kv), True),
        "attn_q.bias": ((q,), False),
        "attn_k.bias": ((kv,), False),
        "attn_v.bias": ((kv,), False),
        "attn_output.weight": ((q, embd), True),
        "ffn_norm.weight": ((embd,), True),
        "ffn_gate.weight": ((embd, ff), True),
        "ffn_down.weight": ((ff, embd), True),
        "ffn_up.weight": ((embd, ff), True),
    }
    if shape.architecture == "llama":
        tensors["attn_output.bias"] = ((embd,), False)
        tensors["ffn_gate.bias"] = ((ff,), False)
        tensors["ffn_down.bias"] = ((embd,), False)
        tensors["ffn_up.bias"] = ((ff,), False)
    if shape.architecture == "qwen3":
        tensors["attn_q_norm.weight"] = ((shape.head_dim,), True)
        tensors["attn_k_norm.weight"] = ((shape.head_dim,), True)
    return tensors


def model_tensors(shape: Shape) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Every tensor a file of this shape may hold: name → (shape, whether it must be there)."""
    tensors: dict[str, tuple[tuple[int, ...], bool]] = {
        TOKEN_EMBD: ((shape.embd, shape.vocab), True),
        OUTPUT_NORM: ((shape.embd,), True),
        OUTPUT: ((shape.embd, shape.vocab), False),
    }
    if shape.architecture == "qwen2":
        tensors[OUTPUT_BIAS] = ((shape.vocab,), False)
    if shape.architecture == "llama":
        for name in ROPE_TENSORS:
            tensors[name] = ((shape.head_dim // 2,), False)
    per_layer = layer_tensors(shape)
    for layer in range(shape.layers):
        for suffix, rule in per_layer.items():
            tensors[f"blk.{layer}.{suffix}"] = rule
    return tensors


def check_tensors(header: Header, shape: Shape) -> None:
    """Require exactly the tensors of this shape, each in an encoding llama.cpp can compute with.

    Raises PlainError naming the first tensor that is missing, unknown or of another shape.
    """
    problem = _Problem(header)
    rules = model_tensors(shape)
    if shape.architecture == "qwen2" and shape.heads * shape.head_dim != shape.embd:
        problem.stop("its heads do not add up to its embedding length")
    for name, (wanted, required) in rules.items():
        tensor = header.tensors.get(name)
        if tensor is None:
            if required:
                problem.stop(f"the tensor '{name}' is missing")
            continue
        if tensor.shape != wanted:
            problem.stop(f"the tensor '{name}' has the shape {tensor.shape}, not {wanted}")
        if len(wanted) == 1 and tensor.type.name != "F32":
            problem.stop(f"the tensor '{name}' is stored as {tensor.type.name}, not F32")
        if tensor.type.name in NOT_WEIGHTS:
            problem.stop(f"the tensor '{name}' is stored as {tensor.type.name}, not as weights")
    for name in header.tensors.keys() - rules.keys():
        problem.stop(f"this version does not know its tensor '{clean(name, 63)}'")


def sliceable(header: Header, architecture: str, layers: int) -> set[str]:
    """The keys of arrays with one number per layer: a shard gets only its layers' items."""
    return {
        key
        for key, record in header.metadata.items()
        if key.startswith(f"{architecture}.")
        and isinstance(record.value, tuple)
        and record.count == layers
    }


def _number(header: Header, problem: _Problem, key: str, low: int, high: int) -> int:
    value = header.integer(key)
    if value is None or not low <= value <= high:
        problem.stop(f"'{key}' is missing or out of range")
    return value


def _uniform(
    header: Header, problem: _Problem, key: str, layers: int, default: int | None = None
) -> int:
    """A count that may be written once or once per layer, but must be the same everywhere."""
    record = header.metadata.get(key)
    value = default if record is None else record.value
    if isinstance(value, tuple):
        if len(value) != layers or len(set(value)) != 1:
            problem.stop(f"'{key}' differs from layer to layer")
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1 << 20:
        problem.stop(f"'{key}' is missing or out of range")
    return value


class _Problem:
    """Raises PlainErrors about one file."""

    def __init__(self, header: Header) -> None:
        self._name = clean(header.path.name, 120)

    def stop(self, reason: str) -> NoReturn:
        raise PlainError(f"{self._name} cannot be used: {reason}.", _NO_NEXT)
