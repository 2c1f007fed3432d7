"""The split model is the model: the same logits, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from node.errors import PlainError
from node.shards import verify
from node.shards.engine import BATCH_ROWS, LoadedShard, load_model, load_shard
from node.shards.header import read_header
from node.shards.split import split_model
from node.shards.synth import synth_model
from node.shards.verify import verify_shards

LAYERS = 5


def small(path: Path, arch: str, quant: str, *, tied: bool = False, vocab: int = 264) -> Path:
    return synth_model(
        path, layers=LAYERS, embd=64, vocab=vocab, seed=11, quant=quant, arch=arch, tied=tied
    )


@pytest.mark.parametrize("quant", ["f32", "q8_0", "q4_0"])
@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_cut_is_exact(tmp_path: Path, arch: str, quant: str, tied: bool) -> None:
    model = small(tmp_path / "model.gguf", arch, quant, tied=tied)
    for shards in (1, 2, 3, LAYERS):
        out = tmp_path / str(shards)
        out.mkdir()
        results = split_model(model, shards, out)
        report = verify_shards(model, [result.path for result in results])
        assert report.max_delta == 0.0
        assert report.positions == verify.PROMPT_TOKENS + verify.GREEDY_TOKENS


def test_rows_that_llama_cpp_repacks_are_exact(tmp_path: Path) -> None:
    """Matrices large enough for the interleaved kernels, an untied head among them."""
    model = synth_model(
        tmp_path / "model.gguf", layers=4, embd=256, vocab=1024, seed=7, quant="q4_0", heads=4
    )
    split_model(model, 4, tmp_path, verify=True)


def run_chain(shards: list[LoadedShard], rows: list[int], position: int) -> NDArray[np.float32]:
    flow: list[int] | NDArray[np.float32] = rows
    for shard in shards:
        flow = shard.forward(flow, position)
    return np.asarray(flow)


def test_a_prompt_longer_than_a_batch_and_only_the_last_row(tmp_path: Path) -> None:
    model = small(tmp_path / "model.gguf", "llama", "f32")
    results = split_model(model, 2, tmp_path)
    prompt = [(7 * i + 3) % 264 for i in range(2 * BATCH_ROWS + 5)]
    paths = [result.path for result in results]
    with load_model(model) as whole, load_shard(paths[0]) as a, load_shard(paths[1]) as b:
        logits = whole.forward(prompt, 0)
        assert logits.shape == (len(prompt), 264)
        np.testing.assert_array_equal(run_chain([a, b], prompt, 0), logits)
        for shard in (whole, a, b):
            shard.reset()
        last = whole.forward(prompt, 0, last_only=True)
        assert last.shape == (1, 264)
        hidden = a.forward(prompt, 0, last_only=True)
        assert hidden.shape == (len(prompt), 64), "a shard before the last gives every row"
        np.testing.assert_array_equal(b.forward(hidden, 0, last_only=True), last)


def test_one_wrong_bit_is_found(tmp_path: Path) -> None:
    model = small(tmp_path / "model.gguf", "llama", "f32")
    paths = [result.path for result in split_model(model, 3, tmp_path)]
    tensor = read_header(paths[1]).tensors["blk.0.ffn_down.weight"]
    raw = bytearray(paths[1].read_bytes())
    raw[tensor.offset + 2] ^= 0x40
    paths[1].write_bytes(raw)
    with pytest.raises(PlainError, match="do not compute what the model computes"):
        verify_shards(model, paths)


def test_shards_in_the_wrong_order_are_found(tmp_path: Path) -> None:
    model = small(tmp_path / "model.gguf", "qwen3", "f32")
    one, two, three, four, five = (r.path for r in split_model(model, 5, tmp_path))
    with pytest.raises(PlainError, match="do not compute"):
        verify_shards(model, [one, three, two, four, five])


def test_a_cut_that_does_not_prove_exact_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(tmp_path / "model.gguf", "llama", "q8_0")
    original = verify.verify_shards

    def damage_first(model_path: Path, parts: list[Path]) -> verify.VerifyReport:
        tensor = read_header(parts[0]).tensors["blk.0.attn_v.weight"]
        with parts[0].open("r+b") as file:
            file.seek(tensor.offset)
            file.write(bytes(64))
        return original(model_path, parts)

    monkeypatch.setattr(verify, "verify_shards", damage_first)
    with pytest.raises(PlainError, match="do not compute what the model computes"):
        split_model(model, 2, tmp_path, verify=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_the_prompt_is_not_trivial(tmp_path: Path) -> None:
    """Guards the proof itself: logits differ from token to token and all are finite."""
    with load_model(small(tmp_path / "model.gguf", "llama", "q8_0"), n_ctx=64) as whole:
        logits = whole.forward(list(range(40)), 0)
    assert np.isfinite(logits).all()
    assert len(np.unique(logits.argmax(axis=1))) > 10
    assert logits.std() > 0.1
