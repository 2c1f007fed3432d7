"""The exact command with which the next node joins."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_fold import STARTED
from test_state import loaded

from node.door import NodeDoor
from node.settings import load_settings
from node.swarm.finding import Finding

ADDRESS = "/ip4/127.0.0.1/udp/4001/quic-v1/p2p/12D3KooWGdo63G7RA6EQMcMprGyfn8Y7DzAnCJ6Urdeic1fAzKtV"


def finding(tmp_path: Path, addresses: list[str], own: list[int], **flags: Any) -> Finding:
    settings = load_settings(
        {"shards": tuple(own), **flags}, environ={"SWARMTUI_HOME": str(tmp_path)}, cwd=tmp_path
    )
    door = NodeDoor()
    door.emit(STARTED)
    for shard in own:
        door.emit(loaded(shard))
    return Finding(settings, door, None, None, None, addresses)  # type: ignore[arg-type]


def test_the_next_node_takes_the_next_missing_shard(tmp_path: Path) -> None:
    command = finding(tmp_path, [ADDRESS], [0]).join_command()
    assert command == f"swarmtui --shard 1 --bootstrap {ADDRESS}"


def test_what_differs_from_the_defaults_is_in_it(tmp_path: Path) -> None:
    command = finding(
        tmp_path, [ADDRESS], [0], total_shards=8, cluster="mine", transport="tcp"
    ).join_command()
    for part in ("--total-shards 8", "--cluster mine", "--transport tcp"):
        assert part in command


@pytest.mark.parametrize("own", [[0], [0, 1], [0, 1, 2, 3]])
def test_the_command_line_understands_its_own_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: list[int]
) -> None:
    import swarmtui.cli as cli

    command = finding(tmp_path, [ADDRESS], own, total_shards=4).join_command()
    seen: list[Any] = []
    import swarmtui.commands.run as run

    monkeypatch.setattr(run, "run_node", lambda settings: seen.append(settings) or 0)
    monkeypatch.setenv("SWARMTUI_HOME", str(tmp_path))
    result = CliRunner().invoke(cli.cli, shlex.split(command)[1:])
    assert result.exception is None or getattr(result.exception, "code", 1) == 0, result.output
    assert seen[0].bootstrap == (ADDRESS,)
