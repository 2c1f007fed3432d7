"""The keys on files and on shards without one: what they ask, of whom, and what they say."""

from __future__ import annotations

import pytest
import scenario
import transfer_scenario as tell
from kit import Recorder, check_golden, console, press, run, until

GIB = tell.GIB
FIRST = tell.info_hash("shard-1.gguf", GIB)
STALLED = tell.info_hash("shard-2.gguf", 2 * GIB)
PAUSED = tell.info_hash("shard-3.gguf", GIB)
FAILED = "?model-q4.gguf"
HASHING = tell.info_hash("draft.gguf", 700 * tell.MIB)
REMOTE = tell.info_hash("shard-7.gguf", GIB)


# ---------------------------------------------------------------- the keys


@pytest.mark.parametrize(
    ("key", "request_name", "cli"),
    [
        (FIRST, "pause", "swarmtui torrent pause shard-1.gguf"),
        (STALLED, "pause", "swarmtui torrent pause shard-2.gguf"),
        # Two contents are called shard-3.gguf here, so the command line needs the info hash.
        (PAUSED, "resume", f"swarmtui torrent resume {PAUSED}"),
        ("?shard-9.gguf", "pause", "swarmtui torrent pause shard-9.gguf"),
    ],
)
def test_pause_and_resume_are_one_key(key: str, request_name: str, cli: str) -> None:
    async def test() -> None:
        door = tell.transfer_door()
        recorder = Recorder(door)
        async with console(door) as (app, pilot):
            await press(pilot, "4")
            app._main.panes[4].move_to(key)
            await press(pilot, "P")
            what = "shard-9.gguf" if key.startswith("?") else key
            assert recorder.asked == [(request_name, {"what": what})]
            assert app.commander.last is not None and app.commander.last.cli == cli
            await until(pilot, lambda: "✓ success" in app.screen_text())

    run(test)


@pytest.mark.parametrize(
    ("key", "pressed", "words"),
    [
        (REMOTE, "P", "Nothing to pause"),
        (REMOTE, "X", "Nothing to give up"),
        (scenario.HASH, "P", "Nothing to pause"),
        (scenario.HASH, "D", "shard-0.gguf is on this node's disk already."),
        (HASHING, "D", "draft.gguf is on this node's disk already."),
        (FIRST, "D", "shard-1.gguf is on its way already."),
        (PAUSED, "D", "Press P to let it go on."),
        ("?shard-9.gguf", "y", "Nothing to copy"),
        (FIRST, "y", f"Copied: shard-1.gguf@{tell.ROOT}"),
    ],
)
def test_keys_that_cannot_do_anything_say_why(key: str, pressed: str, words: str) -> None:
    async def test() -> None:
        door = tell.transfer_door()
        recorder = Recorder(door)
        async with console(door) as (app, pilot):
            await press(pilot, "4")
            app._main.panes[4].move_to(key)
            assert words in await press(pilot, pressed)
            assert recorder.asked == []

    run(test)


def test_a_remote_file_is_downloaded_after_a_yes() -> None:
    async def test() -> None:
        door = tell.transfer_door()
        recorder = Recorder(door)
        async with console(door) as (app, pilot):
            await press(pilot, "4")
            app._main.panes[4].move_to(REMOTE)
            text = await press(pilot, "D")
            check_golden("download-dialog", text)
            assert "$" not in text.split("Same")[1].split("\n")[0]
            for keys in (["enter"], ["escape"], ["n"]):
                assert "was not asked for" in await press(pilot, *keys)
                assert recorder.asked == []
                await press(pilot, "D")
            await press(pilot, "y")
            assert recorder.asked == [("get", {"what": REMOTE, "load": True})]
            await press(pilot, "D", "down", "y")
            assert recorder.asked[1] == ("get", {"what": REMOTE, "load": False})
            assert app.commander.last is not None
            assert app.commander.last.cli == "swarmtui torrent get shard-7.gguf --no-load"

    run(test)


def test_of_two_contents_the_operator_chooses_one() -> None:
    async def test() -> None:
        door = tell.transfer_door()
        recorder = Recorder(door)
        async with console(door) as (app, pilot):
            await press(pilot, "4")
            app._main.panes[4].move_to(FAILED)
            text = await press(pilot, "D", "down")
            assert "Two contents are called model-q4.gguf" in text
            check_golden("contents-dialog", text)
            await press(pilot, "y")
            root = tell.ROOTS[1]
            asked = {"what": "model-q4.gguf", "root": root, "load": False}
            assert recorder.asked == [("get", asked)]
            assert app.commander.last is not None
            assert app.commander.last.cli == f"swarmtui torrent get model-q4.gguf@{root}"

    run(test)


@pytest.mark.parametrize(
    ("keys", "keep", "end"), [(["y"], True, "--keep"), (["down", "y"], False, "shard-2.gguf")]
)
def test_giving_up_asks_what_to_keep(keys: list[str], keep: bool, end: str) -> None:
    async def test() -> None:
        door = tell.transfer_door()
        recorder = Recorder(door)
        async with console(door) as (app, pilot):
            await press(pilot, "4")
            app._main.panes[4].move_to(STALLED)
            text = await press(pilot, "X")
            assert "keep the 1.6 GiB that are here for a later start" in text
            assert "goes on" in await press(pilot, "enter")
            assert recorder.asked == []
            await press(pilot, "X", *keys)
            assert recorder.asked == [("cancel", {"what": STALLED, "keep": keep})]
            assert app.commander.last is not None and app.commander.last.cli.endswith(end)

    run(test)


def test_on_a_shard_the_keys_mean_its_file() -> None:
    async def test() -> None:
        door = tell.transfer_door()
        recorder = Recorder(door)
        async with console(door) as (app, pilot):
            app._main.panes[1].move_to("2")
            await press(pilot, "P")
            assert recorder.asked == [("pause", {"what": STALLED})]
            await press(pilot, "enter", "P")
            assert recorder.asked[1] == ("pause", {"what": STALLED})
            await press(pilot, "2")
            assert "Press 4 to choose one" in await press(pilot, "D")

    run(test)


def test_load_on_a_file_means_its_shard() -> None:
    async def test() -> None:
        door = tell.transfer_door()
        recorder = Recorder(door)
        async with console(door) as (app, pilot):
            await press(pilot, "4")
            app._main.panes[4].move_to(FIRST)
            assert "LOAD_SHARD shard 1" in await press(pilot, "L")
            await press(pilot, "y")
            assert recorder.asked == [("load", {"shard_id": 1})]
            app._main.panes[4].move_to(HASHING)
            assert "draft.gguf holds no shard of this model." in await press(pilot, "L")

    run(test)


def test_the_footer_offers_what_suits_the_pane_and_always_the_way_out() -> None:
    async def test() -> None:
        async with console(tell.transfer_door(), size=(80, 24)) as (_, pilot):
            for key in "12345":
                keys = (await press(pilot, key)).splitlines()[-1]
                assert "? Help" in keys and "q Quit" in keys
                assert ("P Pause" in keys and "D Download" in keys) == (key in "45")
                assert ("L Load" in keys) == (key in "123")

    run(test)


def test_a_shard_whose_file_nobody_named_can_be_asked_for() -> None:
    async def test() -> None:
        door = scenario.recorded_door()
        recorder = Recorder(door)
        async with console(door) as (app, pilot):
            app._main.panes[1].move_to("2")
            text = await press(pilot, "D")
            assert "swarmtui torrent get 2" in text
            await press(pilot, "y")
            assert recorder.asked == [("get", {"what": "2", "load": True})]

    run(test)


def test_the_answer_is_a_sentence_in_the_strip() -> None:
    async def test() -> None:
        door = tell.transfer_door()
        recorder = Recorder(door, answer=False)
        async with console(door, size=(200, 50)) as (app, pilot):
            await press(pilot, "4", "P")
            answer = {"info_hash": FIRST, "filename": "shard-1.gguf", "status": "paused"}
            recorder.futures[0].set_result(answer)
            await until(pilot, lambda: "shard-1.gguf: paused" in app.screen_text())
            assert "$ swarmtui torrent pause shard-1.gguf" in app.screen_text()

    run(test)


