"""The console's keys against a live swarm of two nodes: what is sent arrives, answers show."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from swarm_processes import Member, Swarm
from textual.pilot import Pilot

from node import events as ev, jobs
from node.settings import HOME_VARIABLE, load_settings
from swarmtui.app import SwarmApp
from swarmtui.theming import load_themes

pytestmark = pytest.mark.swarm
PATIENCE_S = 30.0


async def _until(pilot: Pilot[Any], true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        app: SwarmApp = pilot.app  # type: ignore[assignment]
        assert time.monotonic() < end, f"{what}\n{app.screen_text()}"
        await pilot.pause(0.02)


def _received(member: Member, command: str) -> bool:
    return any(item.command == command for item in member.events(ev.CommandReceived))


def test_keys_reach_the_other_node_and_its_answers_show(
    swarm: Callable[[int], Swarm],
) -> None:
    members = swarm(2)
    other = members.node("other", 1)
    members.open(other)
    members.until(lambda: other.status()[1] == "LOCAL", "shard 1 is not loaded")
    home = members.folder / "here"
    home.mkdir()
    settings = load_settings(
        {
            "name": "here",
            "shards": (0,),
            "total_shards": 2,
            "shards_dir": str(members.shards_dir),
            "bootstrap": other.addresses,
            "listen": "127.0.0.1",
            "mdns": False,
        },
        environ={HOME_VARIABLE: str(home)},
        cwd=home,
    )

    async def drive() -> None:
        app = SwarmApp(lambda: jobs.start_node(settings), load_themes(), "night", meter=False)
        async with app.run_test(size=(160, 45)) as pilot:
            await _until(pilot, lambda: app.door is not None, "the node did not start")
            door = app.door
            assert door is not None
            try:
                await _until(pilot, lambda: "● READY" in app.screen_text(), "not READY")
                assert "★ LOCAL" in app.screen_text() and "✓ ONLINE" in app.screen_text()

                await pilot.press("2", "i")
                await _until(
                    pilot,
                    lambda: "GET_STATUS" in app.screen_text() and "✓ success" in app.screen_text(),
                    "no answer to GET_STATUS",
                )
                assert _received(other, "GET_STATUS")
                await pilot.press("o")
                await _until(
                    pilot, lambda: "all_shards_loaded" in app.screen_text(), "no answer to open"
                )
                await pilot.press("escape")

                await pilot.press("m", *"good", "space", *"evening", "enter")
                await _until(
                    pilot,
                    lambda: "message=received" in app.screen_text(),
                    "no answer to the message",
                )
                texts = [item.text for item in other.events(ev.MessageReceived)]
                assert texts == ["good evening"]

                # Shard 0 is loaded here; have the other node load it too.
                await pilot.press("1")
                app._main.panes[1].move_to("0")
                await pilot.press("L")
                await _until(pilot, lambda: "LOAD_SHARD" in app.screen_text(), "no dialog")
                await pilot.press("down", "y")
                await _until(
                    pilot, lambda: _received(other, "LOAD_SHARD"), "LOAD_SHARD did not arrive"
                )
                await _until(
                    pilot, lambda: other.status()[0] == "LOCAL", "shard 0 is not loaded there"
                )
                await _until(
                    pilot, lambda: "loaded, 1 more" in app.screen_text(), "the replica is not shown"
                )
            finally:
                door.request("stop", {}).result(5.0)
                await _until(pilot, lambda: jobs.stopped(door), "the node did not stop")

    asyncio.run(drive())
