"""One libp2p stream over loopback between two processes, without disk: ours against stock.

Both stacks speak Noise and Yamux over TCP through the same host code; only the session and the
muxer differ. Rounds are interleaved. Two shapes, because stock depends on the size of a write:
64 KiB and 1 MiB per call of `write` and `read`. Round trips are of 64 bytes and 16 KiB.

`python -m tests.benchmarks stream_throughput` runs it; CPU seconds are those of both processes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import trio

ROOT = Path(__file__).resolve().parents[2]
STACKS = ("ours", "stock")
SHAPES = {"64 KiB": 64 * 1024, "1 MiB": 1024 * 1024}
MIB = 1024 * 1024
BULK, ECHO = "/benchmark-bulk/1", "/benchmark-echo/1"
GOAL = 4.0


# ------------------------------------------------------------ the two processes


async def _serve(stack: str) -> None:
    from libp2p.abc import INetStream

    from node.network.host import build_host, running_host, set_handler
    from node.network.identity import Identity
    from node.network.streams import end_writing, read_exactly

    host = build_host(Identity.create(), "tcp", stock=stack == "stock")

    async def bulk(stream: INetStream) -> None:
        order = json.loads((await read_exactly(stream, 64)).rstrip())
        left, piece = order["bytes"], order["piece"]
        cpu = time.process_time()
        while left:
            left -= len(await stream.read(min(piece, left)))
        answer = json.dumps({"cpu": time.process_time() - cpu, "left": left})
        await stream.write(answer.encode())
        await end_writing(stream)

    async def echo(stream: INetStream) -> None:
        size = json.loads((await read_exactly(stream, 64)).rstrip())["bytes"]
        try:
            while True:
                await stream.write(await read_exactly(stream, size))
        except Exception:
            await stream.reset()

    async with running_host(host, "127.0.0.1", 0, "tcp") as addresses:
        set_handler(host, BULK, bulk)
        set_handler(host, ECHO, echo)
        print(f"{addresses[0]}/p2p/{host.get_id()}", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


async def _send(stack: str, target: str, total: int, trips: int) -> None:
    from libp2p.peer.id import ID
    from multiaddr import Multiaddr

    from node.network.dialer import Dialer
    from node.network.host import build_host, running_host
    from node.network.identity import Identity
    from node.network.streams import open_stream, read_exactly, read_to_end

    host = build_host(Identity.create(), "tcp", stock=stack == "stock")
    address, peer_id = target.rsplit("/p2p/", 1)
    peer = ID.from_base58(peer_id)
    result: dict[str, Any] = {"bulk": {}, "trip_ms": {}}
    async with running_host(host, "127.0.0.1", 0, "tcp"):
        await Dialer(host).dial(peer, Multiaddr(address))
        for name, piece in SHAPES.items():
            stream, _ = await open_stream(host, peer, BULK)
            await stream.write(json.dumps({"bytes": total, "piece": piece}).ljust(64).encode())
            data = bytes(piece)
            begin, cpu = time.perf_counter(), time.process_time()
            for _ in range(total // piece):
                await stream.write(data)
            answer = json.loads(await read_to_end(stream, 1024))
            seconds = time.perf_counter() - begin
            assert answer["left"] == 0
            result["bulk"][name] = {
                "mib_s": total / MIB / seconds,
                "sender_cpu": (time.process_time() - cpu) / (total / 2**30),
                "receiver_cpu": answer["cpu"] / (total / 2**30),
            }
            await stream.close()
        for size in (64, 16 * 1024):
            stream, _ = await open_stream(host, peer, ECHO)
            await stream.write(json.dumps({"bytes": size}).ljust(64).encode())
            data, taken = bytes(size), []
            for _ in range(trips):
                begin = time.perf_counter()
                await stream.write(data)
                await read_exactly(stream, size)
                taken.append(time.perf_counter() - begin)
            result["trip_ms"][str(size)] = statistics.median(taken) * 1000
            await stream.reset()
    print(json.dumps(result), flush=True)


# ------------------------------------------------------------ rounds and figures


def _round(stack: str, total: int, trips: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.stream_throughput"]
    server = subprocess.Popen(
        [*command, "serve", stack],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    try:
        assert server.stdout is not None
        target = server.stdout.readline().strip()
        done = subprocess.run(
            [*command, "send", stack, target, str(total), str(trips)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            check=True,
            timeout=300,
        )
        result: dict[str, Any] = json.loads(done.stdout)
        return result
    finally:
        server.communicate("", timeout=30)


def _cpu(bulk: dict[str, float]) -> float:
    return bulk["sender_cpu"] + bulk["receiver_cpu"]


def _spread(values: list[float], digits: int = 2) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def main(short: bool) -> dict[str, Any]:
    """Medians with min and max per stack, and the ratios; `ok` when the goal is met."""
    rounds, total, trips = (2, 128 * MIB, 300) if short else (7, 512 * MIB, 2000)
    runs: dict[str, list[dict[str, Any]]] = {stack: [] for stack in STACKS}
    for index in range(rounds):
        for stack in STACKS if index % 2 == 0 else reversed(STACKS):
            runs[stack].append(_round(stack, total, trips))
    result: dict[str, Any] = {"rounds": rounds, "mib_per_run": total // MIB, "goal": GOAL}
    for shape in SHAPES:
        figures: dict[str, Any] = {}
        for stack in STACKS:
            bulk = [run["bulk"][shape] for run in runs[stack]]
            figures[stack] = {
                "mib_per_s": _spread([item["mib_s"] for item in bulk], 0),
                "sender_cpu_s_per_gib": _spread([item["sender_cpu"] for item in bulk]),
                "receiver_cpu_s_per_gib": _spread([item["receiver_cpu"] for item in bulk]),
            }
        pairs = [
            (ours["bulk"][shape], stock["bulk"][shape])
            for ours, stock in zip(runs["ours"], runs["stock"], strict=True)
        ]
        figures["ratio"] = _spread([a["mib_s"] / b["mib_s"] for a, b in pairs])
        # Less at the mercy of a busy machine than time by the clock.
        figures["cpu ratio"] = _spread([_cpu(b) / _cpu(a) for a, b in pairs])
        result[f"writes of {shape}"] = figures
    for size in ("64", "16384"):
        result[f"round trip of {size} bytes, p50 ms"] = {
            stack: _spread([run["trip_ms"][size] for run in runs[stack]], 3) for stack in STACKS
        }
    result["ok"] = all(result[f"writes of {shape}"]["ratio"]["median"] >= GOAL for shape in SHAPES)
    return result


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        trio.run(_serve, sys.argv[2])
    elif sys.argv[1] == "send":
        stack, target, total, trips = sys.argv[2:]
        trio.run(partial(_send, stack, target, int(total), int(trips)))
    else:
        sys.exit("serve STACK | send STACK TARGET BYTES TRIPS")
