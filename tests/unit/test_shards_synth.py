"""Synthetic models: the same bytes for the same seed, and only possible shapes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from node.errors import PlainError
from node.shards.inspect import inspect_gguf
from node.shards.synth import synth_model

SMALL: dict[str, Any] = {"layers": 2, "embd": 64, "vocab": 270, "seed": 5, "heads": 4}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("quant", ["f32", "q8_0", "q4_0"])
def test_the_seed_fixes_every_byte(tmp_path: Path, quant: str) -> None:
    one = synth_model(tmp_path / "one.gguf", **SMALL, quant=quant)
    two = synth_model(tmp_path / "two.gguf", **SMALL, quant=quant)
    other = synth_model(tmp_path / "other.gguf", **{**SMALL, "seed": 6}, quant=quant)
    assert digest(one) == digest(two) != digest(other)
    assert inspect_gguf(one).quantization == quant.upper()


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_another_reader_agrees(tmp_path: Path, arch: str, tied: bool) -> None:
    path = synth_model(tmp_path / "model.gguf", **SMALL, arch=arch, tied=tied)
    reader = GGUFReader(path)
    names = {tensor.name for tensor in reader.tensors}
    assert ("output.weight" in names) != tied
    assert ("blk.0.attn_q.bias" in names) == (arch == "qwen2")
    assert ("blk.1.attn_q_norm.weight" in names) == (arch == "qwen3")
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == len(set(tokens)) == 270
    assert tokens[3:259] == [f"<0x{byte:02X}>" for byte in range(256)]
    for tensor in reader.tensors:
        assert np.isfinite(tensor.data).all() and tensor.data.std() > 0.01


def test_a_longer_model_begins_with_the_same_weights(tmp_path: Path) -> None:
    short = GGUFReader(synth_model(tmp_path / "a.gguf", **SMALL))
    long = GGUFReader(synth_model(tmp_path / "b.gguf", **{**SMALL, "layers": 3}))
    theirs = {tensor.name: tensor.data for tensor in long.tensors}
    for tensor in short.tensors:
        if tensor.name.startswith("blk."):
            np.testing.assert_array_equal(tensor.data, theirs[tensor.name])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 0}, "number of layers cannot be 0"),
        ({"layers": 513}, "number of layers cannot be 513"),
        ({"embd": 0}, "embedding length"),
        ({"embd": 100}, "not a multiple of 32"),
        ({"vocab": 258}, "vocabulary cannot be 258"),
        ({"seed": -1}, "seed cannot be -1"),
        ({"heads": 3}, "shared evenly by 3 heads"),
        ({"heads": 0}, "number of heads"),
        ({"heads_kv": 3}, "cannot share 3"),
        ({"quant": "q9"}, "quantisation 'q9'"),
        ({"arch": "gemma2"}, "architecture 'gemma2' cannot be cut exactly"),
    ],
)
def test_impossible_shapes_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(PlainError, match=words) as caught:
        synth_model(tmp_path / "model.gguf", **{**SMALL, **change})
    assert caught.value.next_step
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_text("mine")
    with pytest.raises(PlainError, match="exists already"):
        synth_model(path, **SMALL)
    assert path.read_text() == "mine"
    synth_model(path, **SMALL, overwrite=True)
    assert inspect_gguf(path).n_embd == 64
    with pytest.raises(PlainError, match="There is no folder"):
        synth_model(tmp_path / "absent" / "model.gguf", **SMALL)


@pytest.mark.parametrize("embd", [32, 64, 96, 512, 768, 1024])
def test_default_heads_fit(tmp_path: Path, embd: int) -> None:
    path = synth_model(tmp_path / "model.gguf", layers=1, embd=embd, vocab=259, seed=1)
    assert inspect_gguf(path).n_embd == embd
