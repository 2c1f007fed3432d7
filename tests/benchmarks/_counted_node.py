"""Runs `swarmtui ARGS` and counts what it writes to the network: a node for the scale benchmark.

Every write to a TCP connection and every UDP datagram counts, so pings, DHT calls, gossip,
commands, acknowledgements and window updates are all in it. The totals go to the file in COUNTS
whenever the process gets SIGUSR1.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from libp2p.io.trio import TrioTCPStream
from libp2p.transport.quic import connection as quic_connection, listener as quic_listener

from node.network.fast.noise_messages import Buffer
from node.network.fast.wire import SocketWire
from swarmtui.cli import main

totals = {"writes": 0, "bytes": 0}


def count(size: int) -> None:
    totals["writes"] += 1
    totals["bytes"] += size


def count_tcp() -> None:
    """Count the writes of TCP connections: py-libp2p's own and those of our session."""
    inner = TrioTCPStream.write

    async def write(self: TrioTCPStream, data: bytes) -> None:
        count(len(data))
        await inner(self, data)

    TrioTCPStream.write = write  # type: ignore[method-assign]
    now = SocketWire.write_now

    def write_now(self: SocketWire, parts: Sequence[Buffer]) -> int:
        written = now(self, parts)
        if written:
            count(written)
        return written

    SocketWire.write_now = write_now  # type: ignore[method-assign]


def count_quic() -> None:
    """Count the datagrams QUIC hands over for sending."""
    for core in {quic_connection.QuicConnection, quic_listener.QuicConnection}:
        inner = core.datagrams_to_send

        def datagrams_to_send(self: Any, now: float, inner: Any = inner) -> Any:
            found = inner(self, now)
            for data, _ in found:
                count(len(data))
            return found

        core.datagrams_to_send = datagrams_to_send  # type: ignore[method-assign]


def tell(number: int, frame: object) -> None:
    """Write the totals, all at once."""
    path = Path(os.environ["COUNTS"])
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(totals))
    temporary.replace(path)


if __name__ == "__main__":
    count_tcp()
    count_quic()
    signal.signal(signal.SIGUSR1, tell)
    main(sys.argv[1:])
