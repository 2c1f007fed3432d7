"""Two good sources with three bad ones beside them, against the two good ones alone.

Beside them are one at a tenth of the speed, one that falls silent in the middle of a block when
about half of the file is here, and one that corrupts one block in a hundred. Every source is a
process of its own with a real host; each good one is held to RATE, because on a small machine the
receiver's processor would be the limit and one source as good as five. The two cases are
interleaved, and every file is compared byte for byte.

Goals: at most 1.2 times the time of the two good ones, no wrong byte, the corrupter named in every
round, and nobody else.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from node.torrent.limits import MIB
from tests.benchmarks._children import Child
from tests.benchmarks._swarm import machine
from tests.benchmarks.transfer_libp2p import OURS, Bench
from tests.benchmarks.transfer_raw import figures

RATE = 40 * MIB
GOAL = 1.2
CORRUPT = 100


def main(short: bool) -> dict[str, Any]:
    """128 MiB and 1 round when `short`, else 512 MiB and 5."""
    size, rounds = (128 * MIB, 1) if short else (512 * MIB, 5)
    manners: dict[str, dict[str, Any]] = {
        "good": {"rate": RATE},
        "good too": {"rate": RATE},
        "slow": {"rate": RATE / 10},
        # Its part of the first half: four are about equally fast at the beginning.
        "stalling": {"rate": RATE, "stall_after": size // 8},
        "corrupting": {"rate": RATE, "corrupt": CORRUPT},
    }
    cases = {"two": list(manners)[:2], "all": list(manners)}
    seconds: dict[str, list[float]] = {"two": [], "all": []}
    wasted: list[float] = []
    named: list[list[str]] = []
    result: dict[str, Any] = {**machine(), "bytes": size, "rounds": rounds, "rate": RATE}
    with tempfile.TemporaryDirectory(prefix="swarmtui-sources-") as name, ExitStack() as stack:
        bench = Bench(Path(name), size, stack)
        sources = {key: bench.child(OURS, "serve", bench.source) for key in manners}
        names = {source.hello["peer_id"]: key for key, source in sources.items()}
        for number in range(rounds):
            for case in cases if number % 2 == 0 else reversed(cases):
                # Bans are a receiver's memory, so each transfer has a new one.
                with Child(OURS, "fetch") as receiver:
                    for key in cases[case]:
                        sources[key].ask(**manners[key])
                    hellos = [sources[key].hello for key in cases[case]]
                    found = bench.fetch(receiver, "fresh", sources=hellos)
                seconds[case].append(found["seconds"])
                if case == "all":
                    wasted.append(found["wasted"] / MIB)
                    named.append(sorted({names[peer] for peer in found["blamed"]}))
    ratio = statistics.median(seconds["all"]) / statistics.median(seconds["two"])
    result |= {f"{case}_seconds": figures(found, 2) for case, found in seconds.items()}
    result["ratio"] = {"value": round(ratio, 3), "goal": GOAL, "pass": ratio <= GOAL}
    result["wasted_mib"] = figures(wasted, 1)
    result["named"] = named
    result["corrupter_named"] = {"pass": all(item == ["corrupting"] for item in named)}
    result["pass"] = result["ratio"]["pass"] and result["corrupter_named"]["pass"]
    return result
