"""Damaged and hostile GGUF headers end in one plain sentence, quickly and in little memory."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import pytest
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import HealthCheck, given, settings, strategies as st

from node.errors import PlainError
from node.shards import encode
from node.shards.header import (
    FLOAT32,
    MAX_KEYS,
    MAX_TENSORS,
    STRING,
    UINT8,
    UINT32,
    UINT64,
    read_header,
)
from node.shards.inspect import inspect_gguf
from node.shards.split import split_model
from node.shards.synth import synth_model
from node.shards.tensor_types import F32, TENSOR_TYPES


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def start(tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + u32(version) + u64(tensors) + u64(keys)


def key(name: bytes, kind: int) -> bytes:
    return u64(len(name)) + name + u32(kind)


def row(name: bytes, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    head = u64(len(name)) + name + u32(len(dims))
    return head + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("header")
    model = synth_model(
        folder / "model.gguf", layers=2, embd=32, vocab=259, seed=1, quant="q8_0", heads=2
    )
    return [model, *(result.path for result in split_model(model, 2, folder))]


def write(folder: Path, data: bytes, name: str = "file.gguf") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_the_table_of_encodings_is_that_of_the_gguf_package() -> None:
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}
    ours = {kind.number: (kind.name, kind.block, kind.nbytes) for kind in TENSOR_TYPES.values()}
    assert ours == theirs


def test_records_and_tensors_come_back_as_they_were_written(tmp_path: Path) -> None:
    records = [
        encode.text("general.architecture", "llama"),
        encode.scalar("a.number", 7),
        encode.scalar("a.ratio", 0.5, FLOAT32),
        encode.array("a.list", [1, 2, 3]),
        encode.array("a.words", ["x", "yy"]),
        encode.scalar("general.alignment", 64),
    ]
    tensors = [encode.TensorPlan("one", (4, 2), F32), encode.TensorPlan("two", (3,), F32)]
    head = encode.header(records, tensors, 64)
    path = write(tmp_path, head + bytes(64) + bytes(12))
    header = read_header(path)
    assert header.text("general.architecture") == "llama"
    assert header.integer("a.number") == 7
    assert header.metadata["a.ratio"].value == 0.5
    assert header.metadata["a.list"].value == (1, 2, 3)
    assert header.metadata["a.words"].value is None
    assert header.metadata["a.words"].count == 2
    assert header.data_start == len(head) and len(head) % 64 == 0
    assert header.tensors["one"].nbytes == 32
    assert header.tensors["two"].offset == len(head) + 64
    raw = path.read_bytes()
    for record, written in zip(header.metadata.values(), records, strict=True):
        assert raw[record.start : record.end] == written


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a GGUF file"),
        (b"GG", "not a GGUF file"),
        (b"PK\x03\x04" + bytes(100), "not a GGUF file"),
        (start(version=1), "version is 1"),
        (start(version=0x03000000), "version is"),
        (start(tensors=MAX_TENSORS + 1), "tensors"),
        (start(keys=MAX_KEYS + 1), "metadata keys"),
        (start(keys=1) + u64(1 << 60), "limit"),
        (start(keys=1) + u64(3) + b"\xff\xfe\xfd" + u32(UINT8) + b"\0", "not text"),
        (start(keys=1) + key(b"", UINT8) + b"\0", "empty"),
        (start(keys=2) + (key(b"k", UINT8) + b"\0") * 2, "twice"),
        (start(keys=1) + key(b"k", 13), "unknown type 13"),
        (start(keys=1) + key(b"k", 9) + u32(9) + u64(1), "unknown type 9"),
        (start(keys=1) + key(b"k", STRING) + u64(1 << 62), "limit"),
        (start(keys=1) + key(b"k", 9) + u32(UINT64) + u64(1 << 61), "ends at"),
        (start(keys=1) + key(b"k", 9) + u32(STRING) + u64(1 << 61), "ends at"),
        (start(keys=1) + key(b"k", 9) + u32(STRING) + u64(1) + u64(1 << 40), "declares"),
        (start(keys=1) + key(b"general.alignment", UINT32) + u32(24), "power of two"),
        (start(keys=1) + key(b"general.alignment", UINT32) + u32(0), "power of two"),
        (start(tensors=1) + row(b"x" * 64, (1,)), "tensor name"),
        (start(tensors=1) + row(b"t", ()), "0 dimensions"),
        (start(tensors=1) + row(b"t", (1, 1, 1, 1, 1)), "5 dimensions"),
        (start(tensors=1) + row(b"t", (0, 4)), "impossible shape"),
        (start(tensors=1) + row(b"t", (1 << 40, 1 << 40)), "impossible shape"),
        (start(tensors=1) + row(b"t", (32,), kind=4), "unknown type 4"),
        (start(tensors=1) + row(b"t", (33,), kind=8), "whole blocks"),
        (start(tensors=1) + row(b"t", (4,), offset=32), "predecessors"),
        (start(tensors=1) + row(b"t", (4,), offset=1 << 63), "predecessors"),
        (start(tensors=1) + row(b"t", (1 << 40,)), "tensors need"),
    ],
)
def test_each_kind_of_damage_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    path = write(tmp_path, data)
    with pytest.raises(PlainError, match=words) as caught:
        read_header(path)
    assert caught.value.next_step


def test_a_truncated_file_says_how_much_is_missing(shards: list[Path], tmp_path: Path) -> None:
    data = shards[1].read_bytes()
    path = write(tmp_path, data[: len(data) - 100])
    with pytest.raises(PlainError) as caught:
        read_header(path)
    assert f"ends at {len(data) - 100:,} bytes but its tensors need" in caught.value.sentence


def test_missing_files_folders_and_pipes_are_named(tmp_path: Path) -> None:
    with pytest.raises(PlainError, match="There is no file"):
        read_header(tmp_path / "absent.gguf")
    with pytest.raises(PlainError, match="is a folder"):
        read_header(tmp_path)
    with pytest.raises(PlainError, match="cannot be read"):
        read_header("a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PlainError, match="not a regular file"):
        read_header(tmp_path / "pipe")


def test_every_truncation_of_the_header_is_refused(shards: list[Path], tmp_path: Path) -> None:
    for source in shards:
        header = read_header(source)
        data = source.read_bytes()
        ends = {record.end for record in header.metadata.values()}
        cuts = {0, 3, 4, 8, 16, 23, 24, header.data_start, *ends, *(end - 1 for end in ends)}
        path = tmp_path / "cut.gguf"
        for cut in sorted(cuts):
            path.write_bytes(data[:cut])
            with pytest.raises(PlainError):
                inspect_gguf(path)


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_flipped_bytes_never_raise_anything_else(
    shards: list[Path], tmp_path: Path, data: st.DataObject
) -> None:
    source = data.draw(st.sampled_from(shards))
    raw = bytearray(source.read_bytes())
    limit = read_header(source).data_start
    flips = st.tuples(st.integers(0, limit - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(flips, min_size=1, max_size=6)):
        raw[place] = value
    path = write(tmp_path, bytes(raw))
    try:
        info = inspect_gguf(path)
    except PlainError as error:
        assert error.sentence.isprintable() and len(error.sentence) < 600
    else:
        assert info.size == len(raw)
        assert 0 <= info.layer_start < info.layer_end <= info.total_layers


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(noise=st.binary(max_size=400), tensors=st.integers(0, 3), keys=st.integers(0, 3))
def test_noise_after_a_good_start_never_raises_anything_else(
    tmp_path: Path, noise: bytes, tensors: int, keys: int
) -> None:
    path = write(tmp_path, start(tensors, keys) + noise)
    with pytest.raises(PlainError):
        inspect_gguf(path)


def test_declared_lengths_cost_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as file:
        file.write(start(keys=1) + key(b"k", 9) + u32(UINT8) + u64(1 << 34))
        file.truncate((1 << 34) + 100)  # sparse: 16 GiB which exist only on paper
    tracemalloc.start()
    try:
        with pytest.raises(PlainError, match="larger than 64 MiB"):
            read_header(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_file_names_and_keys_reach_no_sentence_raw(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2Jb\u202e.gguf"
    path.write_bytes(start(keys=1) + key(b"k\x1b[31m", 77))
    with pytest.raises(PlainError) as caught:
        read_header(path)
    assert caught.value.sentence.isprintable()
