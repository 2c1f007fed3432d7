"""A node that others can only reach over a line: `swarmtui` with another port announced.

    LINED_PORTS=REAL:LINE python lined_node.py ARGS …

What it listens on at REAL it tells others to be at LINE, as behind a router that forwards a port.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from multiaddr import Multiaddr

from node.network import host
from node.network.addresses import announced

REAL, LINE = os.environ["LINED_PORTS"].split(":")


def over_the_line(candidates: Iterable[Multiaddr]) -> list[Multiaddr]:
    """The announced addresses with the line's port in place of the real one."""
    return [
        Multiaddr(str(item).replace(f"/tcp/{REAL}", f"/tcp/{LINE}"))
        for item in announced(candidates)
    ]


if __name__ == "__main__":
    host.announced = over_the_line
    from swarmtui.cli import main

    sys.exit(main())
