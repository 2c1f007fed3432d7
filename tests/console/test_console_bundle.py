"""The bug report: what is in it, what is not, and what happens where it cannot be written."""

from __future__ import annotations

import getpass
import json
import os
import re
import stat
import subprocess
import sys
import zipfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import scenario

from node import events as ev
from node.door import NodeDoor
from node.errors import PlainError
from swarmtui.bundle import redactor, without_secrets, write_bundle

SETTINGS = {
    "port": {"value": 4001, "source": "flag"},
    "hub_token": "hf_abcdefghijklmnopqrstuvwxyz",
    "nested": [{"password": "hunter2", "max_tokens": 12}],
}


def served(settings: dict[str, Any] | PlainError = SETTINGS) -> NodeDoor:
    door = scenario.recorded_door()

    def handle(name: str, params: dict[str, Any], future: Future[dict[str, Any]]) -> None:
        assert (name, params) == ("settings", {})
        if isinstance(settings, PlainError):
            future.set_exception(settings)
        else:
            future.set_result(settings)

    door.serve(handle)
    return door


def read(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_what_is_in_it(tmp_path: Path) -> None:
    path = write_bundle(served(), tmp_path, screen_text="the screen", screen_svg="<svg/>")
    assert re.fullmatch(r"swarmtui-report-alice-\d{8}T\d{6}Z\.zip", path.name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    files = read(path)
    assert set(files) == {
        "log.txt", "events.jsonl", "state.json", "settings.json", "versions.json", "screen.txt",
        "screen.svg",
    }
    events = [ev.decode(line.encode()) for line in files["events.jsonl"].splitlines()]
    assert events == scenario.recorded()
    assert json.loads(files["state.json"])["shards"]["2"]["holders"]
    assert "Discovered shard 1 from peer" in files["log.txt"]
    assert json.loads(files["settings.json"])["port"] == {"value": 4001, "source": "flag"}
    versions = json.loads(files["versions.json"])
    assert {"python", "system", "swarmtui", "textual", "libp2p", "llama-cpp-python", "trio"} <= set(
        versions
    )
    assert files["screen.txt"] == "the screen"


def test_secrets_home_and_user_are_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/margaret")
    monkeypatch.setattr(getpass, "getuser", lambda: "margaret")
    door = served()
    key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\n-----END PRIVATE KEY-----"
    door.emit(
        ev.Problem(
            at=scenario.NOW,
            level="warning",
            tag="[LOADER]",
            sentence="Cannot read /home/margaret/models with token=abc123 as margaret.",
            detail=f'{key} {{"api_key": "s3cr3t"}} https://user:pw@host/ Bearer abcdefgh12345',
        )
    )
    files = read(write_bundle(door, tmp_path))
    everything = "\n".join(files.values())
    for secret in ("hf_abc", "hunter2", "abc123", "s3cr3t", "MC4CAQ", "pw@host", "abcdefgh12345"):
        assert secret not in everything, secret
    assert "margaret" not in everything
    assert "~/models" in files["events.jsonl"]
    for line in files["events.jsonl"].splitlines():
        ev.decode(line.encode())
    assert json.loads(files["settings.json"])["nested"][0]["max_tokens"] == 12
    json.loads(files["state.json"])


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ('{"token":123}', '{"token":"[hidden]"}'),
        ('{"a":"{\\"api_key\\": \\"abc\\"}"}', '{"a":"{\\"api_key\\": \\"[hidden]\\"}"}'),
        ("password: hunter2, next", "password: [hidden], next"),
        ('{"max_tokens": 12}', '{"max_tokens": 12}'),
        (f"peer {scenario.ME} root {scenario.HASH}", f"peer {scenario.ME} root {scenario.HASH}"),
    ],
)
def test_what_the_redactor_hides_and_what_it_leaves(text: str, hidden: str) -> None:
    assert redactor()(text) == hidden


def test_keys_that_name_a_secret_are_hidden_at_any_depth() -> None:
    value = without_secrets({"a": [{"Private-Key": 1}], "passphrase": {"x": 1}, "keys": [1]})
    assert value == {"a": [{"Private-Key": "[hidden]"}], "passphrase": "[hidden]", "keys": [1]}


def test_a_node_that_does_not_answer_is_still_reported(tmp_path: Path) -> None:
    door = served(PlainError("The node is gone.", "Start it again."))
    files = read(write_bundle(door, tmp_path))
    assert json.loads(files["settings.json"]) == {"problem": "The node is gone. Start it again."}


def test_two_reports_in_one_second_do_not_replace_each_other(tmp_path: Path) -> None:
    door = served()
    paths = {write_bundle(door, tmp_path) for _ in range(3)}
    assert len(paths) == 3 and all(path.exists() for path in paths)


def test_a_hostile_node_name_stays_in_the_folder(tmp_path: Path) -> None:
    door = NodeDoor()
    import msgspec

    door.emit(msgspec.structs.replace(scenario.started(), name="../../etc/\x1b[2Jx"))
    path = write_bundle(door, tmp_path)
    assert path.parent == tmp_path and re.fullmatch(r"[\w.-]+", path.name)


def test_a_folder_that_cannot_be_written_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(PlainError, match="cannot be written to") as caught:
        write_bundle(served(), tmp_path / "missing")
    assert caught.value.next_step
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(PlainError, match="cannot be written to"):
        write_bundle(served(), file)


@pytest.mark.parametrize("module", ["bundle", "history", "actions", "theming", "console"])
def test_these_modules_import_no_terminal_library(module: str) -> None:
    code = (
        f"import sys, swarmtui.{module}; "
        "sys.exit(any(n in sys.modules for n in ('textual', 'rich', 'libp2p', 'trio')))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0
