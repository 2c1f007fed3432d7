"""Loading: weights in memory, progress, silence, and errors instead of dying."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from node.errors import PlainError
from node.shards import encode
from node.shards.engine import load_model, load_shard
from node.shards.header import read_header
from node.shards.split import split_model
from node.shards.synth import synth_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    model = synth_model(
        folder / "model.gguf", layers=3, embd=64, vocab=264, seed=4, quant="q8_0", heads=4
    )
    split_model(model, 3, folder)
    return folder


@pytest.mark.parametrize("use_mmap", [True, False])
def test_loading_reports_progress_and_weights(folder: Path, use_mmap: bool) -> None:
    seen: list[float] = []
    with load_shard(folder / "shard-1.gguf", use_mmap=use_mmap, on_progress=seen.append) as shard:
        assert shard.weight_bytes == shard.info.tensor_bytes
        assert shard.info.shard_id == 1 and not shard.closed
    assert seen == sorted(seen) and seen[0] >= 0.0 and seen[-1] == 1.0
    assert shard.closed


def test_an_exception_from_progress_ends_the_load(folder: Path) -> None:
    class Cancelled(Exception):
        pass

    def cancel(fraction: float) -> None:
        raise Cancelled(f"at {fraction}")

    with pytest.raises(Cancelled):
        load_shard(folder / "shard-1.gguf", on_progress=cancel)
    load_shard(folder / "shard-1.gguf").close()


def test_loading_and_closing_twice(folder: Path) -> None:
    one, two = (load_shard(folder / "shard-0.gguf") for _ in range(2))
    hidden = one.forward([1, 2, 3], 0)
    one.close()
    one.close()
    np.testing.assert_array_equal(two.forward([1, 2, 3], 0), hidden)
    two.close()
    for call in (lambda: one.forward([1], 0), one.reset):
        with pytest.raises(PlainError, match="no longer loaded"):
            call()


def test_loading_in_several_threads(folder: Path) -> None:
    results: list[float] = []

    def work(index: int) -> None:
        with load_shard(folder / f"shard-{index}.gguf", threads=1) as shard:
            rows = [1, 2] if index == 0 else np.ones((2, 64), np.float32)
            results.append(float(np.abs(shard.forward(rows, 0)).sum()))

    threads = [threading.Thread(target=work, args=(index % 3,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6 and len(set(results)) == 3


def test_reset_starts_the_sequence_again(folder: Path) -> None:
    with load_shard(folder / "shard-0.gguf", n_ctx=16) as shard:
        once = shard.forward([5, 6, 7], 0)
        shard.reset()
        np.testing.assert_array_equal(shard.forward([5, 6, 7], 0), once)


def test_an_earlier_position_forgets_what_came_after(folder: Path) -> None:
    with load_shard(folder / "shard-0.gguf", n_ctx=16) as shard:
        first = shard.forward([5, 6, 7, 8], 0)
        again = np.concatenate([shard.forward([9], 2), shard.forward([8], 3)])
        replayed = np.concatenate([shard.forward([7], 2), shard.forward([8], 3)])
    assert not np.array_equal(again, first[2:])
    np.testing.assert_allclose(replayed, first[2:], rtol=1e-4, atol=1e-4)


def test_inputs_out_of_range_are_refused(folder: Path) -> None:
    with load_shard(folder / "shard-0.gguf", n_ctx=16) as first:
        for rows, position in (([264], 0), ([-1], 0), ([], 0), ([1], -1), ([1] * 17, 0), ([1], 16)):
            with pytest.raises(ValueError, match="must lie in"):
                first.forward(rows, position)
        first.forward([1, 2], 0)
        with pytest.raises(ValueError, match="leaves a gap after 2 rows"):
            first.forward([1], 3)
    with load_shard(folder / "shard-1.gguf") as middle:
        for bad in (np.ones((2, 63), np.float32), np.ones(64, np.float32)):
            with pytest.raises(ValueError, match="shape"):
                middle.forward(bad, 0)


def test_files_are_checked_before_llama_cpp_sees_them(folder: Path, tmp_path: Path) -> None:
    """Two equal tokens would make llama.cpp end the process."""
    source = folder / "shard-0.gguf"
    raw = source.read_bytes()
    assert read_header(source).metadata["tokenizer.ggml.tokens"].count == 264
    path = tmp_path / "shard-0.gguf"
    path.write_bytes(raw.replace(b"<0x41>", b"<0x42>"))
    with pytest.raises(PlainError, match="two of its tokens are equal"):
        load_shard(path)
    path.write_bytes(raw[:-200])
    with pytest.raises(PlainError, match="ends at"):
        load_shard(path)
    with pytest.raises(PlainError, match="whole model"):
        load_shard(folder / "model.gguf")


def test_what_llama_cpp_says_is_passed_on(folder: Path, tmp_path: Path) -> None:
    """A number of the wrong type is refused by llama.cpp itself, which ends no process for it."""
    source = folder / "model.gguf"
    header, raw = read_header(source), source.read_bytes()
    records = {key: raw[record.start : record.end] for key, record in header.metadata.items()}
    records["llama.rope.freq_base"] = encode.scalar("llama.rope.freq_base", 10000)
    plans = [encode.TensorPlan(t.name, t.shape, t.type) for t in header.tensors.values()]
    path = tmp_path / "odd.gguf"
    path.write_bytes(
        encode.header(list(records.values()), plans, header.alignment) + raw[header.data_start :]
    )
    with pytest.raises(PlainError, match=r"could not load odd\.gguf: .*freq_base has wrong type"):
        load_model(path)


def test_nothing_is_printed(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "shard-0.gguf"
    raw = (folder / "shard-0.gguf").read_bytes()
    broken.write_bytes(raw.replace(b"<0x41>", b"<0x42>"))
    code = f"""
from node.errors import PlainError
from node.shards import encode
from node.shards.engine import load_shard
with load_shard({str(folder / "shard-0.gguf")!r}) as shard:
    shard.forward([1, 2], 0)
try:
    load_shard({str(broken)!r})
except PlainError:
    raise SystemExit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"", b"")
