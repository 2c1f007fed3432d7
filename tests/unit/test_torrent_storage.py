"""Part and state file on a real folder: taking up, re-checking, finishing, refusing."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from node.errors import PlainError
from node.torrent import merkle, resume
from node.torrent.disk_errors import (
    InUseError,
    NameTakenError,
    OtherContentsError,
    PiecesLostError,
)
from node.torrent.files import info_hash
from node.torrent.folder import RealFolder
from node.torrent.leftovers import stored_layer
from node.torrent.limits import LEAF_BYTES
from node.torrent.names import part_name, state_name
from node.torrent.pieces import BadPieceError, VerifiedPiece, check_piece
from node.torrent.sizes import Layout
from node.torrent.storage import Part

NAME = "shard-0.gguf"


class File:
    """A content with its layout, layer and root."""

    def __init__(self, size: int, seed: int = 0, piece_length: int = 2 * LEAF_BYTES) -> None:
        self.content = random.Random(f"{seed}/{size}").randbytes(size)
        self.layout = Layout(size, piece_length)
        self.layer = b"".join(
            merkle.piece_hash(self.bytes_of(i), self.layout) for i in range(self.layout.pieces)
        )
        self.root = merkle.root_of_layer(self.layer, self.layout)

    def bytes_of(self, piece: int) -> bytes:
        start = self.layout.offset(piece)
        return self.content[start : start + self.layout.piece_size(piece)]

    def piece(self, piece: int) -> VerifiedPiece:
        return check_piece(self.layout, self.layer, piece, self.bytes_of(piece))

    def open(self, folder: RealFolder, name: str = NAME) -> Part:
        return Part.open(
            folder,
            name,
            info_hash=info_hash(name, self.layout.size),
            root=self.root,
            layout=self.layout,
            layer=self.layer,
            rng=random.Random(3),
        )

    def fill(self, part: Part, pieces: range | None = None) -> None:
        for piece in pieces or range(self.layout.pieces):
            part.write(self.piece(piece), 0.0)


FILE = File(17 * LEAF_BYTES + 5)


@pytest.mark.parametrize(
    "size",
    [0, 1, LEAF_BYTES, 2 * LEAF_BYTES - 1, 2 * LEAF_BYTES, 2 * LEAF_BYTES + 1, 8 * LEAF_BYTES],
)
def test_a_file_goes_from_nothing_to_its_name(tmp_path: Path, size: int) -> None:
    file = File(size)
    folder = RealFolder(tmp_path)
    part = file.open(folder)
    assert (part.have, part.recheck, part.restarted) == (frozenset(), "none", False)
    assert os.path.getsize(tmp_path / part_name(NAME)) == size
    file.fill(part)
    part.finish()
    assert sorted(os.listdir(tmp_path)) == [NAME]
    assert (tmp_path / NAME).read_bytes() == file.content
    with pytest.raises(NameTakenError):
        file.open(folder)


def test_only_checked_pieces_can_be_written(tmp_path: Path) -> None:
    spoiled = bytearray(FILE.bytes_of(3))
    spoiled[100] ^= 1
    for piece, data in ((3, spoiled), (4, FILE.bytes_of(3)), (3, FILE.bytes_of(3)[:-1]), (3, b"")):
        with pytest.raises(BadPieceError) as caught:
            check_piece(FILE.layout, FILE.layer, piece, data)
        assert caught.value.piece == piece
    with pytest.raises(IndexError):
        check_piece(FILE.layout, FILE.layer, 99, b"")
    with pytest.raises(TypeError):
        VerifiedPiece(3, (FILE.bytes_of(3),), object())


def test_a_piece_may_come_as_its_blocks(tmp_path: Path) -> None:
    file = File(5 * LEAF_BYTES + 9, piece_length=8 * LEAF_BYTES)
    whole = bytearray(file.content)
    view = memoryview(whole)
    blocks = [view[:LEAF_BYTES], view[LEAF_BYTES : 4 * LEAF_BYTES], view[4 * LEAF_BYTES :]]
    piece = check_piece(file.layout, file.layer, 0, blocks)
    part = file.open(RealFolder(tmp_path))
    part.write(piece, 0.0)
    part.finish()
    assert (tmp_path / NAME).read_bytes() == file.content
    with pytest.raises(BadPieceError):
        check_piece(file.layout, file.layer, 0, [blocks[1], blocks[0], blocks[2]])
    with pytest.raises(ValueError):
        check_piece(file.layout, file.layer, 0, [view[:5], view[5:]])


def test_a_restart_believes_what_was_checkpointed(tmp_path: Path) -> None:
    folder = RealFolder(tmp_path)
    part = FILE.open(folder)
    FILE.fill(part, range(4))
    assert part.checkpoint() == [0, 1, 2, 3]
    FILE.fill(part, range(4, 6))
    assert part.written() == frozenset(range(6))
    part.close()
    part = FILE.open(folder)
    assert (part.have, part.recheck, part.restarted) == (frozenset(range(4)), "sample", True)
    assert part.read(2, 10, 100) == FILE.bytes_of(2)[10:110]
    with pytest.raises(ValueError):
        part.read(5, 0, 1)
    with pytest.raises(ValueError, match="pieces are missing"):
        part.finish()
    FILE.fill(part)
    part.finish()
    assert (tmp_path / NAME).read_bytes() == FILE.content


def test_checkpoints_come_due_by_bytes_and_by_time(tmp_path: Path) -> None:
    big = File(66 << 20, piece_length=4 << 20)
    part = big.open(RealFolder(tmp_path))
    assert not part.checkpoint_due(1e9)
    for piece in range(15):
        part.write(big.piece(piece), 100.0 + piece / 10)
    assert not part.checkpoint_due(104.9)
    assert part.checkpoint_due(105.0)
    part.write(big.piece(15), 101.6)
    assert part.checkpoint_due(101.6)
    part.checkpoint()
    assert not part.checkpoint_due(1e9)
    part.write(big.piece(16), 200.0)
    assert not part.checkpoint_due(204.0) and part.checkpoint_due(205.0)
    part.discard()
    assert os.listdir(tmp_path) == []


def test_an_edit_that_the_sample_misses_is_found_before_the_end(tmp_path: Path) -> None:
    file = File(200 * LEAF_BYTES, piece_length=LEAF_BYTES)
    folder = RealFolder(tmp_path)
    part = file.open(folder)
    file.fill(part, range(150))
    part.checkpoint()
    file.fill(part, range(150, 152))
    part.checkpoint()
    part.close()
    saved = resume.read_state((tmp_path / state_name(NAME)).read_bytes())
    assert saved.records[-1] == (150, 151)
    sampled = {150, 151, *random.Random(3).sample(range(150), 64)}
    untouched = next(piece for piece in range(150) if piece not in sampled)
    with open(tmp_path / part_name(NAME), "r+b") as raw:
        raw.seek(untouched * LEAF_BYTES)
        raw.write(b"edited")
    part = file.open(folder)
    assert part.recheck == "sample" and untouched in part.have
    file.fill(part)
    with pytest.raises(PiecesLostError) as caught:
        part.finish()
    assert caught.value.pieces == (untouched,)
    assert not (tmp_path / NAME).exists()
    part.write(file.piece(untouched), 0.0)
    part.finish()
    assert (tmp_path / NAME).read_bytes() == file.content


def test_an_edit_in_the_last_record_reads_everything_again(tmp_path: Path) -> None:
    folder = RealFolder(tmp_path)
    part = FILE.open(folder)
    FILE.fill(part)
    part.checkpoint()
    part.close()
    with open(tmp_path / part_name(NAME), "r+b") as raw:
        raw.write(b"edited")
    part = FILE.open(folder)
    assert part.recheck == "full"
    assert part.have == frozenset(range(1, FILE.layout.pieces))
    part.close()


def test_two_contents_under_one_name_are_never_mixed(tmp_path: Path) -> None:
    folder = RealFolder(tmp_path)
    part = FILE.open(folder)
    FILE.fill(part, range(3))
    part.checkpoint()
    part.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for other in (File(FILE.layout.size, seed=1), File(3 * LEAF_BYTES), File(99 * LEAF_BYTES)):
        with pytest.raises(OtherContentsError) as caught:
            other.open(folder)
        assert caught.value.root == FILE.root
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert FILE.open(folder).have == frozenset(range(3))


def test_another_piece_length_keeps_what_is_right(tmp_path: Path) -> None:
    folder = RealFolder(tmp_path)
    part = FILE.open(folder)
    FILE.fill(part, range(4))
    part.checkpoint()
    part.close()
    wider = File(FILE.layout.size, piece_length=4 * LEAF_BYTES)
    assert wider.root == FILE.root
    part = wider.open(folder)
    assert (part.have, part.recheck) == (frozenset(range(2)), "full")
    part.close()


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    folder = RealFolder(tmp_path)
    part = FILE.open(folder)
    with pytest.raises(InUseError, match="already being downloaded"):
        FILE.open(folder)
    part.close()
    FILE.open(folder).close()


def test_a_name_that_appears_before_the_link_is_kept(tmp_path: Path) -> None:
    folder = RealFolder(tmp_path)
    part = FILE.open(folder)
    FILE.fill(part)
    (tmp_path / NAME).write_bytes(b"precious")
    with pytest.raises(NameTakenError):
        part.finish()
    assert (tmp_path / NAME).read_bytes() == b"precious"
    (tmp_path / NAME).unlink()
    part.finish()
    assert (tmp_path / NAME).read_bytes() == FILE.content


def test_a_part_that_was_replaced_or_linked_elsewhere_is_not_finished(tmp_path: Path) -> None:
    folder = RealFolder(tmp_path)
    part = FILE.open(folder)
    FILE.fill(part)
    os.link(tmp_path / part_name(NAME), tmp_path / "elsewhere")
    with pytest.raises(PlainError, match="something else changed it"):
        part.finish()
    part.close()
    with pytest.raises(PlainError, match="another name"):
        FILE.open(folder)
    (tmp_path / part_name(NAME)).unlink()
    part = FILE.open(folder)
    FILE.fill(part)
    (tmp_path / part_name(NAME)).unlink()
    (tmp_path / part_name(NAME)).write_bytes(b"other")
    with pytest.raises(PlainError):
        part.finish()
    assert not (tmp_path / NAME).exists()


def test_an_unproven_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not match"):
        Part.open(
            RealFolder(tmp_path),
            NAME,
            info_hash=info_hash(NAME, FILE.layout.size),
            root=bytes(32),
            layout=FILE.layout,
            layer=FILE.layer,
        )
    assert os.listdir(tmp_path) == []


def test_writers_and_checkpoints_beside_each_other(tmp_path: Path) -> None:
    file = File(400 * LEAF_BYTES, piece_length=LEAF_BYTES)
    folder = RealFolder(tmp_path)
    part = file.open(folder)
    durable: list[int] = []

    def work(first: int) -> None:
        for piece in range(first, file.layout.pieces, 3):
            part.write(file.piece(piece), 0.0)

    def checkpoints() -> None:
        while len(durable) < file.layout.pieces:
            durable.extend(part.checkpoint())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    threads.append(threading.Thread(target=checkpoints))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(durable) == list(range(file.layout.pieces))
    part.close()
    assert file.open(folder).have == frozenset(range(file.layout.pieces))


def test_the_stored_layer_needs_its_root(tmp_path: Path) -> None:
    folder = RealFolder(tmp_path)
    FILE.open(folder).close()
    assert stored_layer(folder, NAME, root=FILE.root, layout=FILE.layout) == FILE.layer
    assert stored_layer(folder, NAME, root=bytes(32), layout=FILE.layout) is None


def test_the_state_file_is_bounded() -> None:
    record = sum(len(resume.write_record(1, [p])) for p in range(FILE.layout.pieces))
    assert resume.body_bytes(FILE.layout) + record <= resume.max_bytes(FILE.layout)
