"""A download as its own process, to be killed or starved: `torrent_child.py FOLDER [LOG]`.

Takes the pieces of a fixed content from itself, makes a checkpoint after every second one, and
appends the number of durable pieces to LOG. Prints one JSON line; exit code 2 for a plain error.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

from node.errors import PlainError
from node.torrent import merkle
from node.torrent.disk_errors import DiskFullError, PiecesLostError
from node.torrent.files import info_hash
from node.torrent.folder import RealFolder
from node.torrent.leftovers import tidy
from node.torrent.limits import LEAF_BYTES
from node.torrent.pieces import check_piece
from node.torrent.sizes import Layout
from node.torrent.storage import Part

NAME = "shard-0.gguf"
SIZE = 7 * LEAF_BYTES + 1234
CONTENT = random.Random(11).randbytes(SIZE)
LAYOUT = Layout(SIZE, LEAF_BYTES)


def piece_bytes(piece: int) -> bytes:
    start = LAYOUT.offset(piece)
    return CONTENT[start : start + LAYOUT.piece_size(piece)]


LAYER = b"".join(merkle.piece_hash(piece_bytes(i), LAYOUT) for i in range(LAYOUT.pieces))
ROOT = merkle.root_of_layer(LAYER, LAYOUT)


def open_part(folder: RealFolder) -> Part:
    return Part.open(
        folder,
        NAME,
        info_hash=info_hash(NAME, SIZE),
        root=ROOT,
        layout=LAYOUT,
        layer=LAYER,
    )


def download(path: Path, log: Path | None = None) -> dict[str, object]:
    """Bring the download to its end; what was there, what was written."""
    folder = RealFolder(path)
    tidy(folder, NAME)
    found = folder.facts_of(NAME)
    if found is not None and found.regular and (path / NAME).read_bytes() == CONTENT:
        return {"have": LAYOUT.pieces, "written": 0}
    part = open_part(folder)
    have, count = len(part.have), 0

    def note(durable: int) -> None:
        if log is not None:
            with log.open("a") as file:
                file.write(f"{durable}\n")

    while True:
        for piece in sorted(set(range(LAYOUT.pieces)) - part.written()):
            part.write(check_piece(LAYOUT, LAYER, piece, piece_bytes(piece)), 0.0)
            count += 1
            if count % 2 == 0:
                part.checkpoint()
                note(len(part.written()))
        try:
            part.finish()
        except PiecesLostError:
            continue
        return {"have": have, "written": count}


def main() -> int:
    log = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    try:
        result = download(Path(sys.argv[1]), log)
    except PlainError as error:
        missing = error.missing if isinstance(error, DiskFullError) else 0
        print(json.dumps({"error": str(error), "kind": type(error).__name__, "missing": missing}))
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
