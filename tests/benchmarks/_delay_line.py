"""A delay line in a process of its own: `_delay_line.py TARGET_PORT`, then orders {"rtt": seconds}.

The kernel of a small machine may have no delay to offer (`tc netem`), so this passes TCP on in
user space. Its own cost is there without any delay, too.
"""

from __future__ import annotations

import json
import sys

import trio

from tests.benchmarks._children import say
from tests.faults.network_lines import TcpLine


async def main(target: int) -> None:
    """Pass bytes on until standard input ends."""
    line = TcpLine(target)
    async with trio.open_nursery() as nursery:
        await nursery.start(line.run)
        say(port=line.port)
        while order := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            line.quality.delay = json.loads(order)["rtt"] / 2
            say()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
