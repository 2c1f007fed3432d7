"""What the keys do, seen from the door: which request, to whom, and how its answer shows."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import scenario
from kit import Recorder, console, press, run, settled, until

from node import events as ev
from node.errors import PlainError
from swarmtui.actions import ACTIONS, cli_line, footer


def test_get_status_goes_to_the_best_holder_of_the_selected_shard() -> None:
    async def test() -> None:
        door = scenario.recorded_door()
        recorder = Recorder(door)
        async with console(door) as (app, pilot):
            app._main.panes[1].move_to("1")
            await press(pilot, "i")
            assert recorder.asked == [
                ("send", {"command": "GET_STATUS", "to": scenario.BOB, "origin": "console"})
            ]
            await until(pilot, lambda: "✓ success" in app.screen_text())
            assert "#1 GET_STATUS → 12D3…oB0b" in app.screen_text()
            text = await press(pilot, "o")
            assert f"$ swarmtui send GET_STATUS --to {scenario.BOB}" in text
            assert "missing_shards" in text and "2, 3" in text

    run(test)


def test_get_status_goes_to_the_selected_peer_and_to_all() -> None:
    async def test() -> None:
        door = scenario.recorded_door()
        recorder = Recorder(door)
        async with console(door) as (app, pilot):
            await press(pilot, "2")
            app._main.panes[2].move_to(scenario.CARA)
            await press(pilot, "i", "I")
            assert [params["to"] for _, params in recorder.asked] == [scenario.CARA, "all"]

    run(test)


def test_load_here_asks_first_and_no_is_the_default() -> None:
    async def test() -> None:
        door = scenario.recorded_door()
        recorder = Recorder(door)
        async with console(door) as (app, pilot):
            for keys in (["enter"], ["escape"], ["n"], ["right", "left", "enter"]):
                text = await press(pilot, "L", *keys)
                assert recorder.asked == [], keys
                assert "was not sent" in text
            await press(pilot, "L", "y")
            assert recorder.asked == [("load", {"shard_id": 2})]
            await press(pilot, "L", "right", "enter")
            assert len(recorder.asked) == 2
            await until(pilot, lambda: "#2 LOAD_SHARD 2 → this node ✓ success" in app.screen_text())

    run(test)


def test_load_at_a_peer() -> None:
    async def test() -> None:
        door = scenario.recorded_door()
        recorder = Recorder(door)
        async with console(door) as (_, pilot):
            text = await press(pilot, "L", "down")
            assert "swarmtui send LOAD_SHARD --to" in text and f"{scenario.BOB} --shard 2" in text
            await press(pilot, "y")
            assert recorder.asked == [
                (
                    "send",
                    {
                        "command": "LOAD_SHARD",
                        "to": scenario.BOB,
                        "origin": "console",
                        "params": {"shard_id": 2},
                    },
                )
            ]

    run(test)


def test_the_dialog_keeps_its_shard_when_the_table_turns_over_behind_it() -> None:
    async def test() -> None:
        door = scenario.recorded_door()
        recorder = Recorder(door)
        async with console(door) as (app, pilot):
            await press(pilot, "L")
            dora = scenario.DORA
            door.emit(ev.PeerHeard(at=scenario.NOW, peer_id=dora, rtt_ms=9, transport="tcp"))
            app._main.tick()
            await press(pilot, "y")
            assert recorder.asked == [("load", {"shard_id": 2})]
            assert app._main.panes[1].cursor == "2"

    run(test)


def test_unload_offers_only_those_that_have_it() -> None:
    async def test() -> None:
        door = scenario.recorded_door()
        recorder = Recorder(door)
        async with console(door) as (app, pilot):
            app._main.panes[1].move_to("3")
            assert "nothing to unload" in await press(pilot, "U")
            app._main.panes[1].move_to("0")
            await press(pilot, "U", "y")
            assert recorder.asked == [("unload", {"shard_id": 0})]

    run(test)


def test_in_the_message_every_letter_is_text() -> None:
    async def test() -> None:
        door = scenario.recorded_door()
        recorder = Recorder(door)
        async with console(door) as (app, pilot):
            await press(pilot, "2", "m", *"quiLit", "space", *"12", "question_mark")
            assert recorder.asked == []
            await press(pilot, "enter")
            assert recorder.asked == [
                (
                    "send",
                    {
                        "command": "MESSAGE",
                        "to": scenario.BOB,
                        "origin": "console",
                        "text": "quiLit 12?",
                    },
                )
            ]
            await until(pilot, lambda: "MESSAGE → 12D3…oB0b ✓" in app.screen_text())
            await press(pilot, "m", "up", *"hi", "enter")
            assert recorder.asked[-1][1]["to"] == "all"
            await press(pilot, "m", "x", "escape")
            assert len(recorder.asked) == 2

    run(test)


def test_an_error_shows_its_sentence_and_next_step() -> None:
    async def test() -> None:
        door = scenario.recorded_door()
        recorder = Recorder(door)
        recorder.error = PlainError("That peer does not answer.", "Try another.")
        async with console(door) as (app, pilot):
            await press(pilot, "I")
            await until(pilot, lambda: "✗ error" in app.screen_text())
            text = await press(pilot, "o")
            assert "That peer does not answer." in text and "→ Try another." in text

    run(test)


def test_the_console_works_while_an_answer_is_awaited() -> None:
    async def test() -> None:
        door = scenario.recorded_door()
        recorder = Recorder(door, answer=False)
        async with console(door) as (app, pilot):
            text = await press(pilot, "I")
            assert "… waiting" in text
            await press(pilot, "3", "2")
            assert app.focused is not None and app.focused.id == "peers"
            recorder.futures[0].set_result({"answers": []})
            await until(pilot, lambda: "No peer was there to answer." in app.screen_text())

    run(test)


def test_answers_of_many_peers_are_counted() -> None:
    async def test() -> None:
        door = scenario.recorded_door()
        recorder = Recorder(door, answer=False)
        async with console(door) as (app, pilot):
            await press(pilot, "I")
            recorder.futures[0].set_result(
                {
                    "answers": [
                        {"peer_id": scenario.BOB, "status": "success"},
                        {"peer_id": scenario.CARA, "status": "success"},
                        {"peer_id": scenario.DORA, "status": "timeout"},
                    ]
                }
            )
            await until(pilot, lambda: "2 success, 1 timeout" in app.screen_text())
            assert "✗ timeout" in app.screen_text()

    run(test)


@pytest.mark.parametrize(
    ("attached", "keys", "ending"),
    [
        (False, ["q", "h"], "headless"),
        (False, ["q", "s"], "stop"),
        (False, ["ctrl+c", "s"], "stop"),
        (True, ["q", "d"], "detached"),
        (True, ["q", "s"], "stop"),
    ],
)
def test_quit_asks(attached: bool, keys: list[str], ending: str) -> None:
    async def test() -> None:
        door = scenario.recorded_door()
        recorder = Recorder(door)
        async with console(door, attached=attached) as (app, pilot):
            for cancel in ("c", "escape", "enter"):
                text = await press(pilot, "q", cancel)
                assert "Quit?" not in text
            await pilot.press(keys[0])
            await settled(pilot)
            assert "Quit?" in app.screen_text()
            await pilot.press(keys[1])
            await until(pilot, lambda: app.return_value is not None)
            assert app.return_value == ending
            asked_to_stop = [name for name, _ in recorder.asked] == ["stop"]
            assert asked_to_stop == (attached and ending == "stop")

    run(test)


def test_e_writes_a_report_with_the_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.chdir(tmp_path)
        door = scenario.recorded_door()
        Recorder(door)
        async with console(door) as (app, pilot):
            await press(pilot, "e")
            await until(pilot, lambda: "wrote swarmtui-report" in app.screen_text())
            (path,) = tmp_path.glob("*.zip")
            assert path.name in app.screen_text()
            with zipfile.ZipFile(path) as archive:
                assert "1 Shards" in archive.read("screen.txt").decode()
                assert archive.read("screen.svg").startswith(b"<svg")

    run(test)


def test_the_filter_keeps_matching_rows_and_escape_clears_it() -> None:
    async def test() -> None:
        async with console() as (_, pilot):
            text = await press(pilot, "slash", *"silent", "enter")
            assert "/silent" in text
            assert "✗ OFFLINE     3" not in text and "✗ OFFLINE     2" in text
            text = await press(pilot, "escape")
            assert "✗ OFFLINE     3" in text

    run(test)


def test_tab_goes_round_and_numbers_go_straight() -> None:
    async def test() -> None:
        async with console() as (app, pilot):
            seen = []
            for _ in range(5):
                seen.append(app.focused.id if app.focused is not None else None)
                await press(pilot, "tab")
            assert seen == ["shards", "peers", "queries", "torrents", "log"]
            await press(pilot, "4")
            assert app.focused is not None and app.focused.id == "torrents"

    run(test)


def test_themes_switch_and_say_so() -> None:
    async def test() -> None:
        async with console() as (app, pilot):
            assert app.theme == "night"
            assert "Theme day" in await press(pilot, "t")
            assert app.theme == "day"
            assert app.palette["base"].bgcolor.name == "#fbfaf7"  # type: ignore[union-attr]
            await press(pilot, "t")
            assert app.theme == "night"

    run(test)


def test_commands_work_from_a_detail_screen() -> None:
    async def test() -> None:
        door = scenario.recorded_door()
        recorder = Recorder(door)
        async with console(door) as (_, pilot):
            await press(pilot, "enter", "I")
            assert [params["to"] for _, params in recorder.asked] == ["all"]
            text = await press(pilot, "enter", "L")
            assert "Which node loads it" in text

    run(test)


def test_the_table_of_actions_is_sound() -> None:
    keys = [key for item in ACTIONS for key in item.keys.split(",") if key]
    assert len(keys) == len(set(keys))
    for item in ACTIONS:
        assert item.title and item.help.endswith(".")
        if item.group == "Change":
            assert item.shown.isupper()
        if item.keys and "ctrl" in item.keys:
            assert item.name == "quit_dialog"
    assert footer()[0] == ("?", "Help")


def test_command_lines_are_quoted_for_a_shell() -> None:
    assert cli_line("MESSAGE", "all", text="it's; rm") == (
        "swarmtui send MESSAGE 'it'\"'\"'s; rm' --to all"
    )
    assert cli_line("LOAD_SHARD", "me", 3) == "swarmtui send LOAD_SHARD --to me --shard 3"


def test_a_key_typed_right_after_a_pane_goes_to_that_pane() -> None:
    async def test() -> None:
        for size in ((80, 24), (120, 40)):
            async with console(size=size) as (app, pilot):
                await pilot.press("4", "2", "down", "enter")
                await settled(pilot)
                assert "Why: peer 12D3…Car4" in app.screen_text()

    run(test)
