"""Cutting: what goes into which shard, and that a failure leaves nothing behind."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import given, strategies as st

from node.errors import PlainError
from node.shards import cutting, encode
from node.shards.files import directory_lock
from node.shards.header import read_header
from node.shards.inspect import inspect_shard
from node.shards.split import split_model
from node.shards.synth import synth_model
from node.torrent.files import info_hash


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synth_model(
        tmp_path_factory.mktemp("split") / "model.gguf",
        layers=5,
        embd=64,
        vocab=270,
        seed=2,
        quant="q4_0",
    )


def with_records(model: Path, target: Path, changes: dict[str, bytes]) -> Path:
    """Copy a model with some metadata records replaced or added."""
    header = read_header(model)
    raw = model.read_bytes()
    records = {key: raw[record.start : record.end] for key, record in header.metadata.items()}
    records.update(changes)
    plans = [encode.TensorPlan(t.name, t.shape, t.type) for t in header.tensors.values()]
    head = encode.header(list(records.values()), plans, header.alignment)
    target.write_bytes(head + raw[header.data_start :])
    return target


@given(layers=st.integers(1, 512), data=st.data())
def test_layer_ranges_cover_the_model_in_order(layers: int, data: st.DataObject) -> None:
    shards = data.draw(st.integers(1, layers))
    ranges = cutting.layer_ranges(layers, shards)
    assert len(ranges) == shards
    assert ranges[0][0] == 0 and ranges[-1][1] == layers
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(ranges))
    assert all(end - start == layers // shards for start, end in ranges[:-1])


def test_quantised_bytes_are_copied_unchanged(model: Path, tmp_path: Path) -> None:
    whole = {tensor.name: tensor for tensor in GGUFReader(model).tensors}
    seen = set()
    for result in split_model(model, 2, tmp_path):
        last = result.layer_end == 5
        for tensor in GGUFReader(result.path).tensors:
            name = tensor.name
            if name.startswith("blk."):
                _, layer, suffix = name.split(".", 2)
                name = f"blk.{int(layer) + result.layer_start}.{suffix}"
            elif name == "token_embd.weight" and last:
                name = "output.weight"
            elif name == "output_norm.weight" and not last:
                assert (tensor.data == 1).all()
                continue
            seen.add(name)
            assert tensor.tensor_type == whole[name].tensor_type
            np.testing.assert_array_equal(tensor.data, whole[name].data)
    assert seen == set(whole)


def test_each_shard_carries_only_what_it_needs(model: Path, tmp_path: Path) -> None:
    split_model(model, 3, tmp_path)
    first, middle, last = (GGUFReader(tmp_path / f"shard-{index}.gguf") for index in range(3))
    assert "tokenizer.ggml.tokens" in first.fields
    for reader, vocab in ((middle, 1), (last, 270)):
        assert reader.fields["tokenizer.ggml.model"].contents() == "no_vocab"
        assert reader.fields["llama.vocab_size"].contents() == vocab
        assert "tokenizer.ggml.tokens" not in reader.fields
    assert last.fields["tokenizer.ggml.eos_token_id"].contents() == 2
    assert "tokenizer.ggml.eos_token_id" not in middle.fields
    shapes = {tensor.name: tuple(tensor.shape) for tensor in middle.tensors}
    assert shapes["token_embd.weight"] == (64, 1)
    assert "output.weight" not in {tensor.name for tensor in last.tensors}


def test_an_array_with_one_item_per_layer_is_sliced(model: Path, tmp_path: Path) -> None:
    changed = with_records(
        model,
        tmp_path / "arrays.gguf",
        {
            "llama.attention.head_count_kv": encode.array("llama.attention.head_count_kv", [1] * 5),
            "llama.other": encode.array("llama.other", [10, 11, 12, 13, 14]),
            "llama.unrelated": encode.array("llama.unrelated", [1, 2]),
        },
    )
    split_model(changed, 2, tmp_path, verify=True)
    one, two = (GGUFReader(tmp_path / f"shard-{index}.gguf") for index in range(2))
    assert one.fields["llama.other"].contents() == [10, 11]
    assert two.fields["llama.other"].contents() == [12, 13, 14]
    assert two.fields["llama.attention.head_count_kv"].contents() == [1, 1, 1]
    assert two.fields["llama.unrelated"].contents() == [1, 2]


def test_the_manifest_lists_the_files(model: Path, tmp_path: Path) -> None:
    results = split_model(model, 5, tmp_path)
    document = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    assert document["total_shards"] == 5 and document["total_layers"] == 5
    info = inspect_shard(tmp_path / "shard-0.gguf")
    assert document["model_fingerprint"] == info.model_fingerprint
    assert document["model_name"] == info.model_name
    for entry, result in zip(document["shards"], results, strict=True):
        size = (tmp_path / entry["filename"]).stat().st_size
        expected = hashlib.sha256(entry["filename"].encode() + size.to_bytes(8, "little"))
        assert entry["size"] == result.size == size
        assert entry["info_hash"] == result.info_hash == expected.hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json",
        *(f"shard-{index}.gguf" for index in range(5)),
    ]


def test_the_info_hash_is_that_of_the_first_network() -> None:
    # From the mission's log: shard-0.gguf of 13,936,124,776 bytes was announced under this hash.
    assert info_hash("shard-0.gguf", 13_936_124_776).startswith("e40aeb34da87db79")


def test_the_fingerprint_follows_the_content(model: Path, tmp_path: Path) -> None:
    prints = []
    for index, flip in enumerate((None, None, -1)):
        copy = tmp_path / f"model-{index}.gguf"
        raw = bytearray(model.read_bytes())
        if flip is not None:
            last = list(read_header(model).tensors.values())[-1]
            raw[last.offset + last.nbytes - 1] ^= 1
        copy.write_bytes(raw)
        out = tmp_path / str(index)
        out.mkdir()
        split_model(copy, index % 2 + 2, out)
        prints.append(inspect_shard(out / "shard-0.gguf").model_fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_the_same_model_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    cuts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        split_model(model, 3, tmp_path / name)
        files = sorted((tmp_path / name).iterdir())
        cuts.append([(path.name, path.read_bytes()) for path in files])
    assert cuts[0] == cuts[1]


def test_progress_reaches_the_total(model: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    results = split_model(
        model, 3, tmp_path, on_progress=lambda done, total: calls.append((done, total))
    )
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1][0] == calls[-1][1] == sum(result.size for result in results)


@pytest.mark.parametrize("shards", [0, -1, 6, 10**9])
def test_a_number_of_shards_out_of_range(model: Path, tmp_path: Path, shards: int) -> None:
    with pytest.raises(PlainError, match="has 5 layers") as caught:
        split_model(model, shards, tmp_path)
    assert "1 to 5" in caught.value.next_step


@pytest.mark.parametrize("arch", ["gemma2", "mamba", "x\x1b[2J"])
def test_other_architectures_are_refused_by_name(model: Path, tmp_path: Path, arch: str) -> None:
    changed = with_records(
        model,
        tmp_path / "other.gguf",
        {"general.architecture": encode.text("general.architecture", arch)},
    )
    with pytest.raises(PlainError, match="cannot be cut exactly in this version") as caught:
        split_model(changed, 2, tmp_path)
    assert caught.value.sentence.isprintable()
    assert arch.isprintable() is (f"'{arch}'" in caught.value.sentence)


def test_parts_of_a_model_and_shards_are_refused(model: Path, tmp_path: Path) -> None:
    part = with_records(
        model, tmp_path / "part.gguf", {"split.count": encode.scalar("split.count", 3)}
    )
    with pytest.raises(PlainError, match="one part of a model in 3") as caught:
        split_model(part, 2, tmp_path)
    assert "llama-gguf-split --merge" in caught.value.next_step
    split_model(model, 2, tmp_path)
    with pytest.raises(PlainError, match="already a shard"):
        split_model(tmp_path / "shard-1.gguf", 2, tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("tokenizer.ggml.model", "rwkv", "tokenizer 'rwkv'"),
        ("tokenizer.ggml.tokens", ["a"] * 270, "two of its tokens are equal"),
        ("tokenizer.ggml.tokens", ["a", "b"], "2 tokens for 270"),
        ("tokenizer.ggml.scores", [0.0] * 3, "3 scores"),
        ("tokenizer.ggml.token_type", ["x"], "wrong type"),
    ],
)
def test_a_vocabulary_that_would_stop_llama_cpp(
    model: Path, tmp_path: Path, key: str, value: Any, words: str
) -> None:
    record = encode.text(key, value) if isinstance(value, str) else encode.array(key, value)
    changed = with_records(model, tmp_path / "changed.gguf", {key: record})
    with pytest.raises(PlainError, match=words):
        split_model(changed, 2, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["changed.gguf"]


def test_folders_that_cannot_be_used(model: Path, tmp_path: Path) -> None:
    with pytest.raises(PlainError, match="There is no folder") as caught:
        split_model(model, 2, tmp_path / "absent")
    assert "mkdir" in caught.value.next_step
    with pytest.raises(PlainError, match="not a folder"):
        split_model(model, 2, model)


def test_an_unwritable_folder(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:  # root may write anywhere, so the answer of the system is played
        monkeypatch.setattr(os, "access", lambda *_: False)
    else:
        tmp_path.chmod(0o500)
    with pytest.raises(PlainError, match="cannot be written to"):
        split_model(model, 2, tmp_path)


def test_existing_files_are_kept_unless_allowed(model: Path, tmp_path: Path) -> None:
    split_model(model, 3, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(PlainError, match="exists already") as caught:
        split_model(model, 3, tmp_path)
    assert "--overwrite" in caught.value.next_step
    with pytest.raises(PlainError, match="more than 2 shards"):
        split_model(model, 2, tmp_path, overwrite=True)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    split_model(model, 4, tmp_path, overwrite=True)
    assert inspect_shard(tmp_path / "shard-0.gguf").total_shards == 4


def test_the_model_is_never_overwritten(model: Path, tmp_path: Path) -> None:
    trap = tmp_path / "shard-1.gguf"
    shutil.copyfile(model, trap)
    with pytest.raises(PlainError, match="is the model itself"):
        split_model(trap, 2, tmp_path, overwrite=True)
    assert trap.read_bytes() == model.read_bytes()


def test_a_full_disk_is_noticed_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        total: int
        used: int
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 10, 1000))
    with pytest.raises(PlainError, match="are needed in"):
        split_model(model, 2, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fail_at", [1, 2, 3])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_write_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int, call: str
) -> None:
    original = getattr(os, call)
    calls = 0

    def failing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(PlainError, match="No space left on device"):
            split_model(model, 3, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing_and_the_next_cut_works(model: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        split_model(model, 3, tmp_path, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".shard-0.gguf.part").write_bytes(b"left by kill -9" * 100_000)
    split_model(model, 3, tmp_path)
    assert inspect_shard(tmp_path / "shard-0.gguf").total_shards == 3
    assert not list(tmp_path.glob(".*"))


def test_a_model_that_shrinks_meanwhile(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.gguf"
    shutil.copyfile(model, copy)

    def shrink(done: int, total: int) -> None:
        os.truncate(copy, 100_000)

    with pytest.raises(PlainError, match="became shorter"):
        split_model(copy, 2, tmp_path, on_progress=shrink)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_two_cuts_into_one_folder(model: Path, tmp_path: Path) -> None:
    with directory_lock(tmp_path), pytest.raises(PlainError, match="Another program"):
        split_model(model, 2, tmp_path)
    split_model(model, 2, tmp_path)


_MEASURE = """
import sys
from node.shards import cutting, files, header, inspect, manifest, split, vocabulary, writing
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
before = peak()
split.split_model(sys.argv[1], 3, sys.argv[2])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="VmHWM is read from /proc")
def test_memory_stays_flat(tmp_path: Path) -> None:
    model = synth_model(
        tmp_path / "model.gguf", layers=8, embd=1024, vocab=2048, seed=1, quant="f32", heads=8
    )
    assert model.stat().st_size > 300_000_000
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(model), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 16 * 1024, f"{done.stdout.strip()} KiB more than before the cut"
