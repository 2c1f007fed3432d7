"""Senders and receivers as processes of their own, over TCP on loopback.

    transfer_child.py serve FILE RATE       prints its port; RATE in bytes per second, 0 for none
    transfer_child.py get FOLDER FILE PORT… fetches what FILE is into FOLDER

`get` prints JSON lines: {"state", "done", "fetched"} at each change of state or MiB, at the end
{"lag": seconds the loop was held at most}; exit code 2 and {"error", "next"} for a plain error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import trio

from node.errors import PlainError
from node.torrent import storage
from node.torrent.files import info_hash
from node.torrent.folder import RealFolder
from node.torrent.hashing import hash_file
from node.torrent.merkle import Buffer
from node.torrent.transfer.download import Download, Plan
from node.torrent.transfer.progress import TransferProgress
from node.torrent.transfer.server import Limits, serve
from node.torrent.transfer.shared import OpenFile, SharedFile
from node.torrent.transfer.streams import OpenStream
from node.torrent.transfer.upload import Uploads

PIECE = 256 * 1024
CHECKPOINT = 1024 * 1024
"""Instead of 64 MiB, so that small files have something to lose."""


class TcpStream:
    """A socket as the transfer wants a stream."""

    def __init__(self, socket: trio.SocketStream) -> None:
        self._socket = socket

    async def read(self, n: int) -> Buffer:
        return await self._socket.receive_some(n)

    async def write(self, data: Buffer) -> None:
        await self._socket.send_all(data)

    async def close(self) -> None:
        try:
            await self._socket.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def reset(self) -> None:
        await trio.aclose_forcefully(self._socket)


def plan_of(path: Path) -> Plan:
    """What has to be fetched to have a copy of `path`."""
    hashes = hash_file(path, PIECE)
    size = hashes.layout.size
    digest = bytes.fromhex(info_hash(path.name, size))
    return Plan(digest, hashes.root, size, PIECE, path.name)


def connect(port: int) -> OpenStream:
    """Opens streams to a sender."""

    async def open_stream() -> TcpStream:
        return TcpStream(await trio.open_tcp_stream("127.0.0.1", port))

    return open_stream


async def send(path: Path, rate: float) -> None:
    file = OpenFile(path, hash_file(path, PIECE), checked=True)
    uploads = Uploads(max_up=rate or None)

    class Library:
        def find(self, info_hash: bytes, root: bytes) -> SharedFile | None:
            return file if root == file.root else None

    async def handle(socket: trio.SocketStream) -> None:
        async with socket:
            await serve(TcpStream(socket), Library(), Limits(), uploads, peer_id="receiver")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, handle, 0)
        print(listeners[0].socket.getsockname()[1], flush=True)


async def get(folder: Path, path: Path, ports: list[int]) -> None:
    plan = plan_of(path)
    storage.CHECKPOINT_BYTES = CHECKPOINT  # type: ignore[misc]
    told = ("", -1)
    lag = 0.0
    failed: PlainError | None = None

    def tell(progress: TransferProgress) -> None:
        nonlocal told
        now = (str(progress.state), progress.done // CHECKPOINT)
        if now != told:
            told = now
            line = {"state": now[0], "done": progress.done, "fetched": progress.fetched}
            print(json.dumps(line), flush=True)

    async def watch() -> None:
        nonlocal lag
        while True:
            before = trio.current_time()
            await trio.sleep(0.01)
            lag = max(lag, trio.current_time() - before - 0.01)

    download = Download(
        plan,
        RealFolder(folder),
        emit_progress=tell,
        wrote=lambda pieces: tell(download.snapshot),
    )
    for port in ports:
        download.add_source(f"sender{port}", connect(port))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            await download.run()
        except PlainError as error:
            failed = error
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed
    print(json.dumps({"lag": lag}), flush=True)


def main() -> int:
    try:
        if sys.argv[1] == "serve":
            trio.run(send, Path(sys.argv[2]), float(sys.argv[3]))
        else:
            ports = [int(port) for port in sys.argv[4:]]
            trio.run(get, Path(sys.argv[2]), Path(sys.argv[3]), ports)
    except PlainError as error:
        print(json.dumps({"error": error.sentence, "next": error.next_step}), flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
