"""One source behind a delay line: what a long way costs.

Source, line and receiver are a process each. The rate is that from the first verified byte to the
last, so that it says how well the line is filled; what comes before is `first_s`. The same line
without delay is the measure, because it has a price of its own.

Goal: at least 0.8 x min(window / round trip, rate without delay); the window is MAX_WINDOW_BYTES.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from node.torrent.limits import MAX_WINDOW_BYTES, MIB
from tests.benchmarks._children import Child
from tests.benchmarks._swarm import machine
from tests.benchmarks.transfer_libp2p import OURS, Bench
from tests.benchmarks.transfer_raw import figures

LINE = "tests.benchmarks._delay_line"
ROUND_TRIPS_MS = (0, 20, 50, 100)
GOAL = 0.8


def main(short: bool) -> dict[str, Any]:
    """256 MiB and 1 round when `short`, else 512 MiB and 5."""
    size, rounds = (256 * MIB, 1) if short else (512 * MIB, 5)
    rates: dict[int, list[float]] = {item: [] for item in ROUND_TRIPS_MS}
    first: dict[int, list[float]] = {item: [] for item in ROUND_TRIPS_MS}
    with tempfile.TemporaryDirectory(prefix="swarmtui-delay-") as name, ExitStack() as stack:
        bench = Bench(Path(name), size, stack)
        source = bench.child(OURS, "serve", bench.source)
        line = stack.enter_context(Child(LINE, source.hello["address"].split("/")[4]))
        address = f"/ip4/127.0.0.1/tcp/{line.hello['port']}"
        way = {"peer_id": source.hello["peer_id"], "address": address}
        receiver = bench.child(OURS, "fetch")
        for number in range(rounds):
            for rtt in ROUND_TRIPS_MS if number % 2 == 0 else reversed(ROUND_TRIPS_MS):
                line.ask(rtt=rtt / 1000)
                found = bench.fetch(receiver, "fresh", sources=[way])
                began = found["connect_s"] + found["first_s"]
                rates[rtt].append(size / (found["seconds"] - began) / 1e6)
                first[rtt].append(began)
    result: dict[str, Any] = {**machine(), "bytes": size, "rounds": rounds}
    without = statistics.median(rates[0])
    result["pass"] = True
    for rtt in ROUND_TRIPS_MS:
        result[f"mb_per_s_{rtt}_ms"] = figures(rates[rtt], 1)
        result[f"first_s_{rtt}_ms"] = figures(first[rtt], 2)
        if rtt:
            possible = min(MAX_WINDOW_BYTES / rtt / 1000, without)
            ratio = statistics.median(rates[rtt]) / possible
            result[f"ratio_{rtt}_ms"] = {"value": round(ratio, 3), "goal": GOAL}
            result["pass"] = result["pass"] and ratio >= GOAL
    return result
