"""What a shard file says about itself, and the files that are refused."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from node.errors import PlainError
from node.shards import encode
from node.shards.header import read_header
from node.shards.inspect import inspect_gguf, inspect_shard
from node.shards.split import split_model
from node.shards.synth import synth_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    model = synth_model(
        folder / "model.gguf", layers=5, embd=64, vocab=270, seed=3, quant="q8_0", arch="qwen2"
    )
    split_model(model, 3, folder)
    return folder


def edited(source: Path, target: Path, edit: Callable[[dict[str, bytes]], None]) -> Path:
    """Copy a GGUF file with its metadata records changed by `edit` (key → encoded record)."""
    header = read_header(source)
    raw = source.read_bytes()
    records = {key: raw[record.start : record.end] for key, record in header.metadata.items()}
    edit(records)
    plans = [encode.TensorPlan(t.name, t.shape, t.type) for t in header.tensors.values()]
    head = encode.header(list(records.values()), plans, header.alignment)
    target.write_bytes(head + raw[header.data_start :])
    return target


def test_a_shard_describes_itself(folder: Path) -> None:
    infos = [inspect_shard(folder / f"shard-{index}.gguf") for index in range(3)]
    assert [(i.shard_id, i.total_shards) for i in infos] == [(0, 3), (1, 3), (2, 3)]
    assert [(i.layer_start, i.layer_end) for i in infos] == [(0, 1), (1, 2), (2, 5)]
    assert [(i.has_embeddings, i.has_output) for i in infos] == [
        (True, False),
        (False, False),
        (False, True),
    ]
    for info in infos:
        assert info.filename == info.path.name
        assert info.size == info.path.stat().st_size
        assert (info.total_layers, info.n_embd, info.vocab) == (5, 64, 270)
        assert (info.architecture, info.quantization) == ("qwen2", "Q8_0")
        assert info.model_name == "synth-qwen2-5x64-q8_0-s3"
        assert len(info.model_fingerprint) == 64
        assert info.is_shard
    assert len({info.model_fingerprint for info in infos}) == 1


def test_a_whole_model_is_described_but_is_no_shard(folder: Path) -> None:
    info = inspect_gguf(folder / "model.gguf")
    assert not info.is_shard and info.shard_id is None
    assert info.has_embeddings and info.has_output
    with pytest.raises(PlainError, match="whole model") as caught:
        inspect_shard(folder / "model.gguf")
    assert "swarmtui split" in caught.value.next_step


def test_a_shard_under_another_shards_name_is_refused(folder: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "shard-2.gguf"
    wrong.write_bytes((folder / "shard-1.gguf").read_bytes())
    with pytest.raises(PlainError, match=r"holds shard 1, not shard 2"):
        inspect_shard(wrong)
    free = tmp_path / "mine.gguf"
    free.write_bytes(wrong.read_bytes())
    assert inspect_shard(free).shard_id == 1


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("swarmtui.format", 2, "another version"),
        ("swarmtui.shard_id", 3, "shard_id"),
        ("swarmtui.total_shards", 0, "total_shards"),
        ("swarmtui.total_shards", 2, "place in the chain"),
        ("swarmtui.total_layers", 1 << 31, "total_layers"),
        ("swarmtui.layer_start", 2, "layer_end"),
        ("swarmtui.layer_end", 3, "1 layers, not 2"),
        ("qwen2.block_count", 0, "block_count"),
        ("qwen2.block_count", 2, "missing"),
        ("qwen2.attention.head_count", 0, "head_count"),
        ("qwen2.attention.head_count", 3, "heads"),
        ("qwen2.attention.key_length", 16, "head size|key_length|value_length"),
        ("qwen2.rope.dimension_count", 8, "rope.dimension_count"),
        ("qwen2.embedding_length", 128, "head|shape"),
        ("qwen2.expert_count", 4, "expert_count"),
        ("qwen2.context_length", 0, "context_length"),
    ],
)
def test_metadata_that_contradicts_itself_is_refused(
    folder: Path, tmp_path: Path, key: str, value: int, words: str
) -> None:
    path = edited(
        folder / "shard-1.gguf",
        tmp_path / "shard-1.gguf",
        lambda records: records.update({key: encode.scalar(key, value)}),
    )
    with pytest.raises(PlainError, match=words):
        inspect_shard(path)


def test_a_missing_tensor_is_named(folder: Path, tmp_path: Path) -> None:
    raw = (folder / "shard-1.gguf").read_bytes()
    path = tmp_path / "shard-1.gguf"
    path.write_bytes(raw.replace(b"blk.0.ffn_up.weight", b"blk.0.ffn_xx.weight"))
    with pytest.raises(PlainError, match=r"'blk\.0\.ffn_up\.weight' is missing"):
        inspect_shard(path)


def test_a_name_from_the_file_is_cleaned(folder: Path, tmp_path: Path) -> None:
    path = edited(
        folder / "shard-1.gguf",
        tmp_path / "shard-1.gguf",
        lambda r: r.update(
            {"swarmtui.name": encode.text("swarmtui.name", "a\x1b[2Jb\u202ec" * 99)}
        ),
    )
    name = inspect_shard(path).model_name
    assert name.isprintable() and len(name) <= 128


def test_a_value_that_is_not_a_number_is_refused(folder: Path, tmp_path: Path) -> None:
    for value in (float("nan"), float("inf")):
        record = encode.scalar("qwen2.rope.freq_base", value, encode.FLOAT32)
        path = edited(
            folder / "shard-1.gguf",
            tmp_path / "shard-1.gguf",
            lambda records, record=record: records.update({"qwen2.rope.freq_base": record}),
        )
        with pytest.raises(PlainError, match="not a usable number"):
            inspect_shard(path)


def test_the_size_of_the_weights_does_not_matter(tmp_path: Path, folder: Path) -> None:
    """A shard of 200 MB (sparse, all holes) is described from its header alone."""
    header = read_header(folder / "shard-1.gguf")
    raw = (folder / "shard-1.gguf").read_bytes()
    records = [raw[record.start : record.end] for record in header.metadata.values()]
    records[list(header.metadata).index("qwen2.feed_forward_length")] = encode.scalar(
        "qwen2.feed_forward_length", 1 << 20
    )
    wide = {"ffn_gate": (64, 1 << 20), "ffn_up": (64, 1 << 20), "ffn_down": (1 << 20, 64)}
    plans = []
    for tensor in header.tensors.values():
        shape = next((s for part, s in wide.items() if part in tensor.name), tensor.shape)
        plans.append(encode.TensorPlan(tensor.name, shape, tensor.type))
    head = encode.header(records, plans, header.alignment)
    path = tmp_path / "shard-1.gguf"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + sum(plan.nbytes + 32 for plan in plans))
    begin = time.perf_counter()
    info = inspect_shard(path)
    assert time.perf_counter() - begin < 1.0
    assert info.tensor_bytes > 200_000_000


def test_importing_is_cheap() -> None:
    code = (
        "import sys, node.shards, node.shards.inspect, node.shards.split, node.shards.engine\n"
        "print([m for m in ('llama_cpp', 'numpy', 'gguf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tensor_data_is_not_needed_to_be_valid_floats(folder: Path, tmp_path: Path) -> None:
    """Weights are llama.cpp's business: only where they lie is checked."""
    raw = bytearray((folder / "shard-1.gguf").read_bytes())
    start = read_header(folder / "shard-1.gguf").data_start
    raw[start : start + 4] = struct.pack("<f", float("nan"))
    path = tmp_path / "shard-1.gguf"
    path.write_bytes(raw)
    assert inspect_shard(path).shard_id == 1
