"""The hash tree: equal to libtorrent's for every size, proofs that prove and nothing else."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from node.errors import PlainError
from node.torrent import hashing, merkle
from node.torrent.hashing import HashingStopped, hash_file
from node.torrent.limits import HASH_BYTES, KIB, LEAF_BYTES, MIB
from node.torrent.sizes import Layout

PIECES = [16 * KIB, 32 * KIB, 64 * KIB, 256 * KIB, 1 * MIB]
OUR_LENGTHS = [KIB << shift for shift in range(8, 13)]
"""Those of the table for files up to 64 GiB."""
EDGES = sorted(
    {
        max(0, piece * factor + delta)
        for piece in PIECES
        for factor in (1, 2, 3, 4)
        for delta in (-1, 0, 1)
        if piece * factor <= 2 * MIB
    }
    | {0, 1, 2, 31, 32, 16383, 16384, 16385, 5 * 16384, 7 * 16384 + 3}
)


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(f"{seed}/{size}").randbytes(size)


def oracle(path: Path, piece_length: int) -> tuple[bytes, bytes]:
    """(root, piece layer) by libtorrent."""
    lt = pytest.importorskip("libtorrent", reason="libtorrent is the oracle of this test")
    storage = lt.file_storage()
    storage.add_file(path.name, path.stat().st_size)
    torrent = lt.create_torrent(storage, piece_length, lt.create_torrent.v2_only)
    lt.set_piece_hashes(torrent, str(path.parent))
    entry = torrent.generate()
    attributes = entry[b"info"][b"file tree"][path.name.encode()][b""]
    root = attributes[b"pieces root"]
    return root, entry[b"piece layers"].get(root, b"")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("piece_length", PIECES)
def test_roots_and_layers_equal_libtorrents(tmp_path: Path, piece_length: int) -> None:
    pytest.importorskip("libtorrent", reason="libtorrent is the oracle of this test")
    sizes = [size for size in EDGES if size > 0]
    sizes += [random.Random(piece_length).randrange(1, 3 * MIB) for _ in range(6)]
    for size in sizes:
        path = tmp_path / f"f{size}"
        path.write_bytes(noise(size))
        ours = hash_file(path, piece_length, keep_leaves=True)
        root, layer = oracle(path, piece_length)
        assert ours.root == root, size
        if layer:
            assert ours.layer == layer, size
        else:
            assert ours.layer == root, size
        assert len(ours.leaves) == ours.layout.leaves * HASH_BYTES
        assert merkle.climb(ours.leaves, 0, ours.layout.height) == root
        path.unlink()


@st.composite
def sizes_near_pieces(draw: st.DrawFn) -> tuple[int, int]:
    """(size, piece length): any size, and often one at the edge of a leaf, a block or a piece."""
    piece_length = draw(st.sampled_from(OUR_LENGTHS))
    whole = draw(st.integers(0, max(2, 6 * MIB // piece_length)))
    rest = draw(
        st.one_of(
            st.integers(0, min(piece_length, 3 * MIB) - 1),
            st.builds(
                lambda unit, count, delta: unit * count + delta,
                st.sampled_from([LEAF_BYTES, 256 * KIB]),
                st.integers(0, 8),
                st.integers(-2, 2),
            ),
        )
    )
    return max(1, whole * piece_length + rest), piece_length


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@given(cut=sizes_near_pieces())
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_size_with_any_piece_length_of_ours_equals_libtorrents(
    tmp_path: Path, cut: tuple[int, int]
) -> None:
    pytest.importorskip("libtorrent", reason="libtorrent is the oracle of this test")
    size, piece_length = cut
    path = tmp_path / "f"
    path.write_bytes(noise(size))
    ours = hash_file(path, piece_length)
    root, layer = oracle(path, piece_length)
    assert (ours.root, ours.layer) == (root, layer or root)
    assert merkle.layer_matches(ours.layer, ours.layout, root)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_tiny_files(tmp_path: Path, count: int) -> None:
    lt = pytest.importorskip("libtorrent", reason="libtorrent is the oracle of this test")
    folder = tmp_path / "many"
    folder.mkdir()
    storage = lt.file_storage()
    for number in range(count):
        path = folder / f"{number:05}.gguf"
        path.write_bytes(noise(number % 40, number))
        storage.add_file(f"many/{path.name}", number % 40)
    torrent = lt.create_torrent(storage, 256 * KIB, lt.create_torrent.v2_only)
    lt.set_piece_hashes(torrent, str(tmp_path))
    tree = torrent.generate()[b"info"][b"file tree"]
    tree = tree.get(b"many", tree)
    for number in range(count):
        name = f"{number:05}.gguf"
        root = tree[name.encode()][b""].get(b"pieces root", bytes(32))
        assert hash_file(folder / name, 256 * KIB).root == root, number


def test_an_empty_file_has_the_padding_as_its_root(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    found = hash_file(path)
    assert (found.root, found.layer, found.layout.pieces) == (bytes(32), b"", 0)


def test_one_leaf_is_the_plain_hash(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_bytes(b"x" * 100)
    assert hash_file(path).root == hashlib.sha256(b"x" * 100).digest()


@given(
    size=st.integers(1, 40 * LEAF_BYTES),
    piece_log=st.integers(14, 18),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_the_root_does_not_depend_on_the_piece_length(size: int, piece_log: int, seed: int) -> None:
    data = noise(size, seed)
    layout = Layout(size, 1 << piece_log)
    layer = b"".join(
        merkle.piece_hash(data[layout.offset(i) : layout.offset(i) + layout.piece_length], layout)
        for i in range(layout.pieces)
    )
    root = merkle.climb(merkle.leaf_hashes(data), 0, layout.height)
    assert merkle.root_of_layer(layer, layout) == root
    assert merkle.layer_matches(layer, layout, root)
    flipped = bytearray(layer)
    flipped[seed % len(layer)] ^= 1
    assert not merkle.layer_matches(bytes(flipped), layout, root)
    assert not merkle.layer_matches(layer[:-32], layout, root)


@st.composite
def layer_requests(draw: st.DrawFn) -> tuple[Layout, int, int, int]:
    layout = Layout(draw(st.integers(2, 700)) * LEAF_BYTES - draw(st.integers(0, 100)), 32 * KIB)
    base = layout.piece_layer
    depth = layout.height - base
    if depth < 1:
        layout = Layout(9 * LEAF_BYTES, 32 * KIB)
        depth = layout.height - base
    count = 1 << draw(st.integers(1, depth))
    index = draw(st.integers(0, (1 << depth) // count - 1)) * count
    return layout, base, index, count


@given(request=layer_requests(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_ranges_of_the_piece_layer_prove_themselves(
    request: tuple[Layout, int, int, int], data: st.DataObject
) -> None:
    layout, base, index, count = request
    if count > 512:
        return
    layer = noise(layout.pieces * HASH_BYTES)
    root = merkle.root_of_layer(layer, layout)
    tree = merkle.Tree(layer, base, layout.height)
    assert tree.top == root
    proof = merkle.full_proof_layers(layout.height, base)
    nodes, uncles = tree.answer(base, index, count, proof)
    assert len(nodes) == count * HASH_BYTES
    assert len(uncles) == merkle.uncle_count(count, proof) * HASH_BYTES
    assert merkle.range_matches(base, index, count, proof, nodes, uncles, root)
    whole = nodes + uncles
    at = data.draw(st.integers(0, len(whole) * 8 - 1))
    spoiled = bytearray(whole)
    spoiled[at // 8] ^= 1 << at % 8
    assert not merkle.range_matches(
        base, index, count, proof, bytes(spoiled[: len(nodes)]), bytes(spoiled[len(nodes) :]), root
    )
    width = 1 << (layout.height - base)
    if width > count and index < layout.pieces:  # a range of padding only has equals
        other = (index + count) % width
        assert not merkle.range_matches(base, other, count, proof, nodes, uncles, root)
    assert not merkle.range_matches(base, index, count, proof, nodes[:-1], uncles, root)
    assert not merkle.range_matches(base, index, count, proof, nodes, uncles + bytes(32), root)


@given(size=st.integers(2, 90 * LEAF_BYTES), data=st.data())
@settings(max_examples=80, deadline=None)
def test_leaves_prove_themselves_to_the_root_and_to_their_piece(
    size: int, data: st.DataObject
) -> None:
    layout = Layout(size, 128 * KIB)
    if layout.height == 0:
        return
    content = noise(size)
    leaves = merkle.leaf_hashes(content)
    per_piece = 1 << layout.piece_layer
    layer = b"".join(
        merkle.piece_hash_of_leaves(
            leaves[i * per_piece * HASH_BYTES : (i + 1) * per_piece * HASH_BYTES], layout
        )
        for i in range(layout.pieces)
    )
    root = merkle.root_of_layer(layer, layout)
    piece = data.draw(st.integers(0, layout.pieces - 1))
    count = 1 << data.draw(st.integers(1, layout.piece_layer))
    index = piece * per_piece + data.draw(st.integers(0, per_piece // count - 1)) * count
    upper = merkle.Tree(layer, layout.piece_layer, layout.height)
    own = leaves[piece * per_piece * HASH_BYTES : (piece + 1) * per_piece * HASH_BYTES]
    tree = merkle.Tree(own, 0, layout.piece_layer)
    for top, height in ((root, layout.height), (merkle.node_at(layer, piece), layout.piece_layer)):
        proof = merkle.full_proof_layers(height, 0)
        nodes, uncles = merkle.leaf_answer(tree, upper, layout, index, count, proof)
        at = index if top == root else index - piece * per_piece
        assert merkle.range_matches(0, at, count, proof, nodes, uncles, top)


@pytest.mark.parametrize(
    ("base", "index", "count", "proof"),
    [
        (0, 0, 3, 0),
        (0, 0, 1, 0),
        (0, 0, 0, 0),
        (0, 0, -2, 0),
        (0, 1, 2, 0),
        (0, -2, 2, 0),
        (0, 16, 2, 0),
        (0, 0, 32, 0),
        (0, 0, 1024, 0),
        (0, 0, 2, 4),
        (0, 0, 2, -1),
        (4, 0, 2, 0),
        (9, 0, 2, 0),
        (-1, 0, 2, 0),
    ],
)
def test_requests_outside_the_tree_are_refused(
    base: int, index: int, count: int, proof: int
) -> None:
    tree = merkle.Tree(noise(11 * HASH_BYTES), 0, 4)
    with pytest.raises(ValueError):
        tree.answer(base, index, count, proof)


def test_the_bad_leaf_is_named() -> None:
    content = noise(10 * LEAF_BYTES + 5)
    leaves = merkle.leaf_hashes(content)
    spoiled = bytearray(content)
    spoiled[3 * LEAF_BYTES + 7] ^= 1
    spoiled[-1] ^= 0x80
    assert merkle.bad_leaves(content, leaves) == []
    assert merkle.bad_leaves(spoiled, leaves) == [3, 10]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_the_result(tmp_path: Path, threads: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(noise(3 * MIB + 17))
    told: list[int] = []
    found = hash_file(path, 64 * KIB, threads=threads, progress=told.append)
    assert sum(told) == 3 * MIB + 17
    assert found.root == merkle.climb(merkle.leaf_hashes(path.read_bytes()), 0, found.layout.height)


def test_a_file_that_shrinks_under_the_hasher_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(noise(MIB))

    def shrink(size: int) -> None:
        with path.open("r+b") as file:
            file.truncate(100)

    with pytest.raises(PlainError, match="changed while"):
        hash_file(path, 64 * KIB, threads=1, progress=shrink)


def test_symlinks_fifos_and_folders_are_not_hashed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("link", "folder", "missing", "fifo"):
        with pytest.raises(PlainError):
            hash_file(tmp_path / name)


def test_hashing_can_be_stopped(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(noise(MIB))
    stop = threading.Event()
    with pytest.raises(HashingStopped):
        hash_file(path, 64 * KIB, progress=lambda size: stop.set(), stop=stop)


def test_a_truncated_source_leaves_pieces_out_and_read_errors_are_raised() -> None:
    layout = Layout(4 * LEAF_BYTES, LEAF_BYTES)
    content = noise(2 * LEAF_BYTES + 10)

    def read(view: memoryview, offset: int) -> int:
        part = content[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)

    assert sorted(hashing.hash_pieces(read, layout, range(4))) == [0, 1]

    def broken(view: memoryview, offset: int) -> int:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        hashing.hash_pieces(broken, layout, range(4))
