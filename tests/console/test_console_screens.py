"""What the screen shows at the three sizes, compared with recorded text."""

from __future__ import annotations

import threading

import pytest
import scenario
from kit import check_golden, console, press, run, settled, until

from node import events as ev
from node.door import NodeDoor
from node.errors import PlainError
from swarmtui.app import SwarmApp
from swarmtui.theming import Themes, load_themes

SIZES = [(80, 24), (120, 40), (200, 50)]


@pytest.mark.parametrize("size", SIZES)
def test_the_recorded_swarm(size: tuple[int, int]) -> None:
    async def test() -> None:
        async with console(size=size) as (app, _):
            check_golden(f"swarm-{size[0]}x{size[1]}", app.screen_text())

    run(test)


def test_one_table_at_a_time_where_it_is_narrow() -> None:
    async def test() -> None:
        async with console(size=(80, 24)) as (_, pilot):
            for key, name in (("2", "peers"), ("3", "queries"), ("4", "torrents"), ("5", "log")):
                check_golden(f"narrow-{name}", await press(pilot, key))

    run(test)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("why-shard", ["enter"]),
        ("why-peer", ["2", "G", "enter"]),
        ("why-query", ["3", "down", "enter"]),
        ("why-torrent", ["4", "enter"]),
        ("zoomed-queries", ["3", "z"]),
        ("zoomed-log", ["5", "z"]),
        ("load-dialog", ["L"]),
        ("quit-dialog", ["q"]),
        ("help", ["question_mark"]),
    ],
)
def test_screens_and_dialogs(name: str, keys: list[str]) -> None:
    async def test() -> None:
        async with console() as (_, pilot):
            check_golden(name, await press(pilot, *keys))

    run(test)


def test_a_swarm_of_one_shows_how_the_next_node_joins() -> None:
    async def test() -> None:
        door = NodeDoor()
        door.emit(scenario.started())
        command = "swarmtui --shard 1 --bootstrap /ip4/10.0.0.1/tcp/4001/p2p/" + scenario.ME
        door.emit(ev.NodeAlone(at=scenario.T0 + 3, join_command=command))
        async with console(door) as (app, _):
            text = app.screen_text()
            check_golden("alone", text)
            assert "The next node joins with:" in text

    run(test)


def test_many_shards_still_fit_the_coverage_bar() -> None:
    async def test() -> None:
        door = NodeDoor()
        door.emit(scenario.started(total=200))
        async with console(door, size=(80, 24)) as (app, _):
            line = app.screen_text().splitlines()[2]
            assert line.count("✗") >= 20
            assert "0/200" in line and "weakest 0 ×0" in line and len(line) <= 80

    run(test)


def test_it_survives_any_size() -> None:
    async def test() -> None:
        async with console(size=(30, 8)) as (_, pilot):
            for size in ((1, 1), (10, 3), (250, 12), (40, 60), (120, 40)):
                await pilot.resize_terminal(*size)
                await pilot.pause(0.05)
            await settled(pilot)
            assert "1 Shards" in pilot.app.screen_text()  # type: ignore[attr-defined]

    run(test)


def test_the_first_frame_comes_before_the_node_and_says_so() -> None:
    order: list[str] = []
    go = threading.Event()

    def connect() -> NodeDoor:
        order.append("connect")
        go.wait(10)
        return scenario.recorded_door()

    async def test() -> None:
        app = SwarmApp(
            connect, load_themes(), "night", clock=lambda: scenario.NOW, meter=False,
            on_first_paint=lambda: order.append("paint"),
        )
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: len(order) == 2)
            assert order == ["paint", "connect"]
            await settled(pilot)
            check_golden("starting", app.screen_text())
            assert "still starting" in await press(pilot, "I")
            go.set()
            await until(pilot, lambda: app.door is not None)
            await settled(pilot)
            assert "LOCAL" in app.screen_text()

    run(test)


def test_a_node_that_does_not_start_is_explained() -> None:
    def connect() -> NodeDoor:
        raise PlainError("Port 4001 is in use.", "Choose another with --port.")

    async def test() -> None:
        app = SwarmApp(connect, load_themes(), "night", meter=False)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: "Port 4001 is in use." in app.screen_text())
            assert "Choose another with --port." in app.screen_text()
            await pilot.press("q")
            await pilot.pause()
        assert app.return_value == "stop"

    run(test)


def test_an_unexpected_failure_to_start_is_one_sentence_too() -> None:
    def connect() -> NodeDoor:
        raise RuntimeError("boom\x1b]0;x\x07")

    async def test() -> None:
        app = SwarmApp(connect, load_themes(), "night", meter=False)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: "The node could not be started: boom" in app.screen_text())
            assert "--no-ui" in app.screen_text()

    run(test)


def test_nothing_is_drawn_while_nothing_changes() -> None:
    async def test() -> None:
        now = [scenario.NOW]
        door = scenario.recorded_door()
        async with console(door, clock=lambda: now[0]) as (app, pilot):
            drawn: list[float] = []
            real = app._main.draw

            def draw() -> None:
                drawn.append(now[0])
                real()

            app._main.draw = draw  # type: ignore[method-assign]
            for _ in range(20):
                app._main.tick()
            assert drawn == []
            now[0] = app._main._due + 0.01
            app._main.tick()
            assert len(drawn) == 1
            door.emit(ev.PeerHeard(at=now[0], peer_id=scenario.BOB, rtt_ms=7.0, transport="tcp"))
            app._main.tick()
            assert len(drawn) == 2
            await settled(pilot)
            assert "7 ms" in app.screen_text()

    run(test)


def test_a_broken_user_theme_is_a_line_not_an_end() -> None:
    async def test() -> None:
        themes = load_themes()
        broken = Themes(themes.found, (PlainError("The theme file x.toml is wrong.", "Mend it."),))
        app = SwarmApp(scenario.recorded_door, broken, "night", meter=False)
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: "The theme file x.toml is wrong." in app.screen_text())

    run(test)


def test_a_stopped_node_says_so() -> None:
    async def test() -> None:
        door = scenario.recorded_door()
        async with console(door) as (app, pilot):
            door.emit(ev.NodeStopping(at=scenario.NOW, reason="told to"))
            app._main.tick()
            await settled(pilot)
            assert "STOPPING told to" in app.screen_text()
            door.emit(ev.NodeStopped(at=scenario.NOW))
            app._main.tick()
            await settled(pilot)
            assert "STOPPED press q" in app.screen_text()

    run(test)


def test_a_lost_connection_says_so() -> None:
    async def test() -> None:
        door = scenario.recorded_door()
        async with console(door, attached=True) as (app, pilot):
            door.lost = "the node closed the connection"  # type: ignore[attr-defined]
            app._main.tick()
            await settled(pilot)
            line = app.screen_text().splitlines()[0]
            assert "■ NO CONNECTION the node closed the connection, press q" in line

    run(test)
