"""Publishing: hashing a file the way a seeder does, against libtorrent's create on the same file.

Interleaved, the page cache warm. `ratio` is ours divided by libtorrent's, of the medians; the roots
are compared, so neither side can win by doing less.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from node.torrent.hashing import hash_file
from node.torrent.limits import GIB, MIB
from node.torrent.sizes import piece_length_for

GOAL = 1.0


def libtorrent_root(path: Path, piece_length: int) -> bytes:
    """The root by libtorrent's own create, one hashing pass over the file."""
    import libtorrent as lt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        storage = lt.file_storage()
        storage.add_file(path.name, path.stat().st_size)
        torrent = lt.create_torrent(storage, piece_length, lt.create_torrent.v2_only)
        lt.set_piece_hashes(torrent, str(path.parent))
        tree = torrent.generate()[b"info"][b"file tree"]
    root: bytes = tree[path.name.encode()][b""][b"pieces root"]
    return root


def speed(work: Callable[[], bytes], size: int) -> tuple[float, float, bytes]:
    """(MB/s, CPU seconds per GB, what `work` returned)."""
    cpu = time.process_time()
    begin = time.perf_counter()
    found = work()
    took = time.perf_counter() - begin
    return size / took / 1e6, (time.process_time() - cpu) / size * 1e9, found


def main(short: bool) -> dict[str, object]:
    """256 MiB and 3 rounds when `short`, else 2 GiB and 5 rounds."""
    size, rounds = (256 * MIB, 3) if short else (2 * GIB, 5)
    figures: dict[str, list[float]] = {"ours": [], "libtorrent": []}
    cpu: dict[str, list[float]] = {"ours": [], "libtorrent": []}
    piece_length = piece_length_for(size)
    with tempfile.TemporaryDirectory(prefix="swarmtui-hashing-") as folder:
        path = Path(folder) / "shard-0.gguf"
        noise = random.Random(1)
        with path.open("wb") as file:
            for _ in range(size // MIB):
                file.write(noise.randbytes(MIB))
        os.sync()
        runs: dict[str, Callable[[], bytes]] = {
            "ours": lambda: hash_file(path).root,
            "libtorrent": lambda: libtorrent_root(path, piece_length),
        }
        for number in range(rounds):
            roots = set()
            order = list(runs) if number % 2 == 0 else list(reversed(runs))
            for name in order:
                rate, seconds, root = speed(runs[name], size)
                figures[name].append(rate)
                cpu[name].append(seconds)
                roots.add(root)
            if len(roots) != 1:
                raise AssertionError("the two roots differ")
    result: dict[str, object] = {"bytes": size, "rounds": rounds, "goal": GOAL}
    for name, rates in figures.items():
        result[f"{name}_mb_per_s"] = {
            "median": round(statistics.median(rates)),
            "min": round(min(rates)),
            "max": round(max(rates)),
        }
        result[f"{name}_cpu_s_per_gb"] = round(statistics.median(cpu[name]), 2)
    ratio = statistics.median(figures["ours"]) / statistics.median(figures["libtorrent"])
    result["ratio"] = round(ratio, 2)
    result["pass"] = ratio >= GOAL
    return result
