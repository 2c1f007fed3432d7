"""One source to a verified, durable file: ours over plain TCP, against the plainest fast pipeline.

The reference has no protocol at all: one process sends the file down a socket, the other receives
1 MiB at a time, and hashes (one SHA-256 over each piece) and writes it in a thread beside the
receiving. Both end with the file on disk (fdatasync), in fresh pages that were preallocated, the
source in the page cache; interleaved, the order turned round each time. `ratio` is ours divided by
the reference, of the medians. CPU seconds count both ends.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import queue
import random
import socket
import statistics
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import trio

from node.torrent.files import info_hash
from node.torrent.folder import RealFolder
from node.torrent.hashing import hash_file
from node.torrent.limits import MIB
from node.torrent.transfer.download import Download, Plan
from node.torrent.transfer.progress import State, TransferProgress
from tests.benchmarks._raw_tcp import connect, serve_forever

GOAL = 0.65
BUFFERS = 16


def plain_sender(path: str, pipe: Connection) -> None:
    """Send the file to each that connects."""
    listener = socket.create_server(("127.0.0.1", 0))
    pipe.send(listener.getsockname()[1])
    buffer = memoryview(bytearray(MIB))
    with open(path, "rb", buffering=0) as file:
        while True:
            connection, _ = listener.accept()
            file.seek(0)
            while count := file.readinto(buffer):
                connection.sendall(buffer[:count])
            connection.close()


def _own_cpu() -> float:
    """CPU seconds of this process and of its helpers that have ended."""
    return sum(os.times()[:4])


def our_sender(path: str, pipe: Connection) -> None:
    """Serve the file with the transfer's own server."""
    hashes = hash_file(Path(path))

    async def run() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        pipe.send(listener.socket.getsockname()[1])
        await serve_forever(listener, hashes, path)

    trio.run(run)


def receive_plain(port: int, path: Path, size: int) -> float:
    """Receive into `path`; the seconds it took."""
    begin = time.perf_counter()
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.posix_fallocate(handle, 0, size)
    free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
    full: queue.SimpleQueue[tuple[int, memoryview, bytearray] | None] = queue.SimpleQueue()
    for _ in range(BUFFERS):
        free.put(bytearray(MIB))
    digests = []

    def work() -> None:
        while (item := full.get()) is not None:
            offset, view, buffer = item
            digests.append(hashlib.sha256(view).digest())
            os.pwrite(handle, view, offset)
            free.put(buffer)

    worker = threading.Thread(target=work)
    worker.start()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for offset in range(0, size, MIB):
            buffer = free.get()
            view = memoryview(buffer)[: min(MIB, size - offset)]
            got = 0
            while got < len(view):
                got += connection.recv_into(view[got:])
            full.put((offset, view, buffer))
    full.put(None)
    worker.join()
    os.fdatasync(handle)
    os.close(handle)
    return time.perf_counter() - begin


def receive_ours(port: int, folder: Path, plan: Plan) -> tuple[float, float]:
    """Download into `folder`; the seconds it took, and those to the first verified piece."""
    first: list[float] = []

    def look(progress: TransferProgress) -> None:
        assert progress.state != State.FAILED, progress.reason

    async def run() -> None:
        download = Download(
            plan,
            RealFolder(folder),
            emit_progress=look,
            wrote=lambda pieces: first.append(time.perf_counter()),
        )
        download.add_source("sender", lambda: connect(port))
        await download.run()

    begin = time.perf_counter()
    trio.run(run)
    return time.perf_counter() - begin, first[0] - begin


def make_source(path: Path, size: int) -> Plan:
    """A random file and how to ask for it."""
    noise = random.Random(1)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(noise.randbytes(MIB))
    os.sync()
    hashes = hash_file(path)
    return Plan(
        info_hash=bytes.fromhex(info_hash(path.name, size)),
        root=hashes.root,
        size=size,
        piece_length=hashes.layout.piece_length,
        filename=path.name,
    )


def figures(values: list[float], digits: int = 3) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def main(short: bool) -> dict[str, object]:
    """256 MiB and 3 rounds when `short`, else 1 GiB and 5 rounds."""
    size, rounds = (256 * MIB, 3) if short else (1024 * MIB, 5)
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    cpu: dict[str, list[float]] = {"ours": [], "plain": []}
    firsts: list[float] = []
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="swarmtui-transfer-") as name:
        folder = Path(name)
        source = folder / "shard-0.gguf"
        plan = make_source(source, size)
        target = folder / "target"
        target.mkdir()
        wanted = hash_file(source).root
        senders = {}
        ports = {}
        for kind, work in (("ours", our_sender), ("plain", plain_sender)):
            near, far = context.Pipe()
            senders[kind] = context.Process(target=work, args=(str(source), far), daemon=True)
            senders[kind].start()
            ports[kind] = near.recv()
        try:
            for number in range(rounds):
                for kind in ("ours", "plain") if number % 2 == 0 else ("plain", "ours"):
                    sender = psutil.Process(senders[kind].pid).cpu_times
                    before = sum(sender()[:2]) + _own_cpu()
                    result = target / source.name
                    if kind == "ours":
                        took, first = receive_ours(ports[kind], target, plan)
                        firsts.append(first)
                    else:
                        took = receive_plain(ports[kind], result, size)
                    spent = sum(sender()[:2]) + _own_cpu() - before
                    rates[kind].append(size / took / 1e6)
                    cpu[kind].append(spent / size * 1e9)
                    if hash_file(result).root != wanted:
                        raise AssertionError(f"{kind} made another file")
                    result.unlink()
        finally:
            for process in senders.values():
                process.terminate()
                process.join()
    pairs = [one / two for one, two in zip(rates["ours"], rates["plain"], strict=True)]
    return {
        "bytes": size,
        "rounds": rounds,
        "goal": GOAL,
        "ours_mb_per_s": figures(rates["ours"], 0),
        "plain_mb_per_s": figures(rates["plain"], 0),
        "ours_cpu_s_per_gb": figures(cpu["ours"]),
        "plain_cpu_s_per_gb": figures(cpu["plain"]),
        "first_piece_s": figures(firsts),
        "ratio": round(statistics.median(rates["ours"]) / statistics.median(rates["plain"]), 3),
        "ratio_by_round": figures(pairs),
    }
