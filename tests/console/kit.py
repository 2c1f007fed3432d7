"""Helpers of the console's tests: a running app on a recorded door, and waiting for conditions."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import scenario
from textual.pilot import Pilot

from node.door import NodeDoor
from node.errors import PlainError
from swarmtui.app import SwarmApp
from swarmtui.theming import load_themes

GOLDENS = Path(__file__).parent / "goldens"
PATIENCE_S = 20.0
# Read here: the tests themselves run without the operator's environment.
UPDATE = bool(os.environ.get("SWARMTUI_UPDATE_GOLDENS"))


class Recorder:
    """A request handler that notes what was asked and answers at once, or when told to."""

    def __init__(self, door: NodeDoor, *, answer: bool = True) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.futures: list[Future[dict[str, Any]]] = []
        self.error: PlainError | None = None
        self._answer = answer
        door.serve(self._handle)

    def _handle(self, name: str, params: dict[str, Any], future: Future[dict[str, Any]]) -> None:
        self.asked.append((name, params))
        self.futures.append(future)
        if self.error is not None:
            future.set_exception(self.error)
        elif self._answer:
            answers = [
                {
                    "peer_id": params.get("to", ""),
                    "status": "success",
                    "duration_ms": 12.0,
                    "result": {"shard_id": 1, "swarm_ready": False, "missing_shards": [2, 3]},
                }
            ]
            send = name == "send"
            future.set_result({"answers": answers} if send else {"status": "success"})


async def until(pilot: Pilot[Any], true: Callable[[], bool]) -> None:
    """Let the app work until `true()` holds; fail after a long while."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "the condition never became true"
        await pilot.pause(0.01)


@asynccontextmanager
async def console(
    door: NodeDoor | None = None,
    size: tuple[int, int] = (120, 40),
    clock: Callable[[], float] = lambda: scenario.NOW,
    **more: Any,
) -> AsyncIterator[tuple[SwarmApp, Pilot[Any]]]:
    """The app at work on `door`, everything drawn once."""
    door = door or scenario.recorded_door()
    app = SwarmApp(
        lambda: door, load_themes(), "night", clock=clock, meter=False, **more
    )
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.door is not None)
        await settled(pilot)
        yield app, pilot


async def settled(pilot: Pilot[Any]) -> None:
    """Everything asked to be drawn has been drawn: two pauses in a row show the same screen."""
    app: SwarmApp = pilot.app  # type: ignore[assignment]
    end = time.monotonic() + PATIENCE_S
    before = ""
    while True:
        await pilot.pause(0.02)
        text = app.screen_text()
        if text == before:
            return
        assert time.monotonic() < end, "the screen never came to rest"
        before = text


async def press(pilot: Pilot[Any], *keys: str) -> str:
    """Press keys one by one, and return the screen's text when it has come to rest."""
    for key in keys:
        await pilot.press(key)
        await settled(pilot)
    app: SwarmApp = pilot.app  # type: ignore[assignment]
    return app.screen_text()


def run(test: Callable[[], Any]) -> None:
    """Run an async test; Textual needs asyncio."""
    asyncio.run(test())


def check_golden(name: str, text: str) -> None:
    """Compare with goldens/<name>.txt; SWARMTUI_UPDATE_GOLDENS=1 writes it anew."""
    path = GOLDENS / f"{name}.txt"
    if UPDATE:
        GOLDENS.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"the screen differs from {path.name}"
