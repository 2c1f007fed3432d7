"""Files in every state of a transfer: what the pane and the detail view show, and the keys."""

from __future__ import annotations

from typing import Any

import pytest
import scenario
import transfer_scenario as tell
from hostile import STRINGS
from kit import Recorder, check_golden, console, press, run, settled

from node import events as ev
from node.door import NodeDoor
from swarmtui import transfers
from swarmtui.panes.torrents import TorrentsPane
from swarmtui.panes.view import View
from swarmtui.panes.why import explain
from swarmtui.panes.why_torrent import map_cells
from swarmtui.widgets.table import lay_out
from swarmtui.widgets.text import Ages

GIB = tell.GIB
FIRST = tell.info_hash("shard-1.gguf", GIB)
STALLED = tell.info_hash("shard-2.gguf", 2 * GIB)
PAUSED = tell.info_hash("shard-3.gguf", GIB)
FAILED = "?model-q4.gguf"
HASHING = tell.info_hash("draft.gguf", 700 * tell.MIB)
REMOTE = tell.info_hash("shard-7.gguf", GIB)


def detail_of(key: str, door: NodeDoor | None = None, kind: str = "torrent") -> str:
    """The detail view of an item as text."""
    state = (door or tell.transfer_door()).snapshot().state
    lines = explain(View(state, Ages(scenario.NOW)), kind, key)
    return "\n".join("".join(text for text, _ in line) for line in lines)


# ---------------------------------------------------------------- what is seen


@pytest.mark.parametrize(
    ("name", "size", "keys"),
    [
        ("torrents-80x24", (80, 24), ["4"]),
        ("torrents-120x40", (120, 40), ["4", "down"]),
        ("torrents-200x50", (200, 50), ["4"]),
        ("torrents-zoomed-120x40", (120, 40), ["4", "z"]),
        ("torrents-zoomed-200x50", (200, 50), ["4", "z"]),
        ("torrent-downloading", (120, 40), ["4", "enter"]),
        ("torrent-downloading-80x24", (80, 24), ["4", "enter"]),
        ("torrent-stalled", (120, 40), ["4", "down", "enter"]),
        ("torrent-two-contents", (120, 40), ["4", *["down"] * 4, "enter"]),
        ("torrent-seeding", (120, 40), ["4", *["down"] * 6, "enter"]),
        ("torrent-remote", (120, 40), ["4", *["down"] * 8, "enter"]),
        ("why-shard-stalled", (120, 40), ["enter"]),
    ],
)
def test_transfers_on_the_screen(name: str, size: tuple[int, int], keys: list[str]) -> None:
    async def test() -> None:
        async with console(tell.transfer_door(), size=size) as (_, pilot):
            check_golden(name, await press(pilot, *keys))

    run(test)


def test_transfers_are_first_and_stay_where_they_are() -> None:
    async def test() -> None:
        door = tell.transfer_door()
        async with console(door) as (app, pilot):
            await press(pilot, "4")
            before = [row.key for row in app._main.panes[4].rows]
            assert before[:4] == [FIRST, STALLED, PAUSED, "?shard-9.gguf"]
            assert before[4:7] == [FAILED, HASHING, scenario.HASH]
            door.emit(tell.changed("shard-3.gguf", GIB, "transfer", 0.9, shard_id=3))
            door.emit(tell.changed("shard-1.gguf", GIB, "endgame", 0.99, shard_id=1))
            app._main.tick()
            await settled(pilot)
            assert [row.key for row in app._main.panes[4].rows] == before
            assert "98 %" in app.screen_text() and "89 %" in app.screen_text()

    run(test)


def test_a_wanted_file_nobody_named_the_size_of_has_a_dash_for_its_hash() -> None:
    state = tell.transfer_door().snapshot().state
    item = state.torrents["?shard-9.gguf"]
    assert transfers.hash_words(item) == "—"
    assert "?" not in detail_of("?shard-9.gguf")
    assert "wanted by the operator" in detail_of("?shard-9.gguf")


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (61, ["FILE", "STATE", "PROGRESS", "DOWN", "SRC", "ETA"]),
        (76, ["FILE", "SHARD", "SIZE", "STATE", "PROGRESS", "DOWN", "SRC", "ETA"]),
        (
            116,
            ["FILE", "SHARD", "SIZE", "STATE", "PROGRESS", "PIECES", "DOWN", "UP", "RATIO",
             "SRC", "ETA", "WHY"],
        ),
        (
            196,
            ["FILE", "SHARD", "SIZE", "STATE", "PROGRESS", "PIECES", "DOWN", "UP", "RATIO",
             "SRC", "ETA", "WHY", "INFO HASH"],
        ),
    ],
)
def test_columns_that_matter_least_go_first(width: int, shown: list[str]) -> None:
    columns = TorrentsPane.COLUMNS
    assert [columns[index].title for index, _ in lay_out(columns, width)] == shown


def test_every_cell_but_a_name_a_reason_and_a_hash_fits_its_column() -> None:
    async def test() -> None:
        door = tell.transfer_door()
        door.emit(
            tell.changed(
                "shard-1.gguf", GIB, "transfer", 0.999, shard_id=1, rate_down=1023.96 * tell.MIB,
                rate_up=999.9 * tell.MIB, uploaded=31 * GIB, eta_s=1e9,
            )
        )
        async with console(door, size=(200, 50)) as (app, pilot):
            await press(pilot, "4", "z")
            long = {"FILE", "WHY", "INFO HASH"}
            for row in app._main.panes[4].rows:
                for column, (text, _) in zip(TorrentsPane.COLUMNS, row.cells, strict=True):
                    assert column.title in long or len(text) <= column.width, (column, text)

    run(test)


def test_the_reason_shows_below_where_its_column_does_not() -> None:
    async def test() -> None:
        async with console(tell.transfer_door(), size=(80, 24)) as (_, pilot):
            text = await press(pilot, "4", "down")
            assert "No source is connected: 12D3…Dor4 does not answer. ─╯" in text
            assert "No source is connected" not in await press(pilot, "up")

    run(test)


def test_a_quiet_node_without_files_says_what_to_do() -> None:
    async def test() -> None:
        door = NodeDoor()
        door.emit(scenario.started())
        async with console(door, size=(80, 24)) as (_, pilot):
            text = await press(pilot, "4")
            assert "No shard file is known." in text
            assert "Put shard files into /srv/shards" in text
            assert "swarmtui split MODEL.gguf" in text

    run(test)


# ---------------------------------------------------------------- the piece map


@pytest.mark.parametrize(("pieces", "cells"), [(1, 1), (200, 200), (512, 256)])
def test_the_map_of_a_seeded_file_is_full(pieces: int, cells: int) -> None:
    door = NodeDoor()
    door.emit(scenario.started())
    door.emit(
        ev.TorrentSeeded(
            at=1.0, info_hash="ab" * 32, filename="x.gguf", size=pieces * tell.PIECE, shard_id=None,
            pieces=pieces, piece_length=tell.PIECE,
        )
    )
    assert map_cells(door.snapshot().state.torrents["ab" * 32]) == "8" * cells


def test_a_map_of_anything_is_drawn_within_its_lines() -> None:
    door = tell.transfer_door()
    door.emit(
        tell.changed("shard-1.gguf", GIB, "transfer", 0.5, piece_map="\x1b[31m9x" * 100 + "8" * 900)
    )
    item = door.snapshot().state.torrents[FIRST]
    cells = map_cells(item)
    assert len(cells) == 256 and set(cells) <= set("012345678")
    text = detail_of(FIRST, door)
    assert "\x1b" not in text
    drawn = [line for line in text.splitlines() if " % " in line and len(line) == 38]
    assert len(drawn) == 8


# ---------------------------------------------------------------- shards


def test_a_shard_without_a_file_can_be_loaded_because_it_is_downloaded() -> None:
    async def test() -> None:
        door = scenario.recorded_door()
        recorder = Recorder(door)
        async with console(door) as (app, pilot):
            app._main.panes[1].move_to("3")
            text = await press(pilot, "L")
            assert "no file here yet: it is downloaded and verified first" in text
            await press(pilot, "y")
            assert recorder.asked == [("load", {"shard_id": 3})]
            app._main.panes[1].move_to("3")
            text = await press(pilot, "enter")
            assert "its file  1 peer has it" in text
            assert "Press L: its file is downloaded from who has it, verified, and loaded" in text

    run(test)


@pytest.mark.parametrize(
    ("phase", "more", "words"),
    [
        ("transfer", {"rate_down": 5e6, "eta_s": 100.0}, ["downloading 50 %", "1m left"]),
        ("stalled", {"reason": "No source is known."}, ["stalled 50 %", "No source is known."]),
        ("paused", {"reason": "Paused."}, ["paused 50 %", "Press P to go on"]),
        ("waiting", {"reason": "Nobody offers it."}, ["waiting 50 %", "Nobody offers it."]),
    ],
)
def test_why_of_a_shard_that_is_coming(
    phase: str, more: dict[str, Any], words: list[str]
) -> None:
    door = NodeDoor()
    door.emit(scenario.started())
    door.emit(tell.wanted("shard-2.gguf", GIB, 2))
    door.emit(tell.changed("shard-2.gguf", GIB, phase, 0.5, shard_id=2, **more))
    text = detail_of("2", door, "shard")
    for word in words:
        assert word in text
    assert "problem   Paused" not in text


def test_a_holder_that_downloads_says_so() -> None:
    door = NodeDoor()
    door.emit(scenario.started())
    door.emit(
        scenario.discovered(
            1, scenario.BOB, scenario.NOW, loaded=False, phase="downloading", progress=0.25
        )
    )
    assert "downloading 25 %" in detail_of("1", door, "shard")


# ---------------------------------------------------------------- hostile peers


@pytest.mark.parametrize("part", range(4))
def test_hostile_names_and_reasons_are_only_text(part: int) -> None:
    async def test() -> None:
        door = NodeDoor()
        door.emit(scenario.started())
        for number, text in list(enumerate(STRINGS))[part::4]:
            key = f"{number:02}" * 32
            row = ev.SourceRow(peer_id=text, state=text, reason=text)
            door.emit(
                ev.TransferWanted(
                    at=1.0, filename=text, shard_id=None, wanted_by=text, info_hash=key
                )
            )
            door.emit(
                ev.TransferChanged(
                    at=2.0, info_hash=key, filename=text, size=10**18, root=text, phase="stalled",
                    reason=text, sources=(row,), done=10**17, pieces=3, piece_map=text,
                )
            )
            door.emit(
                ev.TransferSourceBlamed(
                    at=3.0, info_hash=key, filename=text, peer_id=text, piece=1, reason=text
                )
            )
            door.emit(
                ev.TransferFailed(
                    at=4.0, info_hash=f"{number}{text}", filename=text, shard_id=None,
                    sentence=text, next_step=text, offers=(text,),
                )
            )
        Recorder(door)
        async with console(door, size=(120, 40)) as (app, pilot):
            await press(pilot, "4", "z")
            for row in list(app._main.panes[4].rows):
                app._main.panes[4].move_to(row.key)
                for keys in (["enter"], ["escape"], ["X"], ["escape"], ["D"], ["escape"], ["y"]):
                    text = await press(pilot, *keys)
                    assert not set(text) & {"\x1b", "\x9b", "\x07", "\u202e", "\u2066", "\ud800"}
                    assert max(len(line) for line in text.splitlines()) <= 120

    run(test)
