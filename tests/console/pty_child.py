"""Runs the console in the terminal it is started in; the tests look at it from outside.

Arguments: the file to write the ending to, and what to do: `hostile`, `plain`, `slow`, `crash`
or `stray`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import scenario
from hostile import hostile_events

from node.door import NodeDoor
from swarmtui.console import run_console


def main() -> None:
    result, mode = Path(sys.argv[1]), sys.argv[2]

    def handle(name: str, params: dict[str, Any], future: Future[dict[str, Any]]) -> None:
        from hostile import STRINGS

        answers = [{"peer_id": params.get("to", ""), "status": "success", "result": STRINGS}]
        future.set_result({"answers": answers})

    def connect() -> NodeDoor:
        assert "textual" in sys.modules and "libp2p" not in sys.modules
        door = NodeDoor()
        door.serve(handle)
        scenario.shift(time.time() - scenario.NOW)
        for event in scenario.recorded():
            door.emit(event)
        if mode == "hostile":
            for event in hostile_events():
                door.emit(event)
        if mode == "crash":
            threading.Thread(target=crash, daemon=True).start()
        if mode == "stray":
            os.write(2, b"STRAY LINE one\x1b]0;title\x07\nSTRAY LINE two\n")
        return door

    def crash() -> None:
        from textual import _context

        import swarmtui.app as module

        def broken(self: object) -> None:
            secret_local = "hunter2"
            raise ValueError(f"broken pane {len(secret_local)}")

        module.MainScreen.tick = broken  # type: ignore[method-assign]
        assert _context is not None

    ending = run_console(
        connect, theme=None, theme_dirs=[], attached=mode == "attached", title="swarmtui"
    )
    result.write_text(ending)


if __name__ == "__main__":
    main()
