"""What an operator gets wrong: one plain sentence, the next step, exit code 2, no traceback."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from swarm_processes import clean_environment, run_cli

pytestmark = pytest.mark.swarm

SENTENCE = re.compile(r"^[^\n]{10,400}[.!?]$")


def refused(result: subprocess.CompletedProcess[str], *words: str) -> str:
    """Assert that a command ended as an operator should see it end; what it said."""
    said = result.stderr.strip()
    assert result.returncode == 2, f"{result.returncode}: {said}\n{result.stdout}"
    assert "Traceback" not in result.stdout + said
    assert "Error(" not in said
    lines = said.splitlines()
    assert 1 <= len(lines) <= 4, said
    assert SENTENCE.match(lines[0]), said
    assert len(said) > len(lines[0]) + 10 or said.count(". ") >= 1, f"no next step: {said}"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", said), repr(said)
    for word in words:
        assert word in said, said
    return said


@pytest.fixture
def shard_file(two_shards: Path) -> Path:
    return two_shards / "shard-0.gguf"


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"GGUF",
        b"\x7fELF" + bytes(500),
        b"GGUF\x03\0\0\0" + b"\xff" * 60,
        os.urandom(4096),
    ],
    ids=["missing", "empty", "magic", "foreign", "impossible", "random"],
)
def test_a_model_that_is_none_cannot_be_split(tmp_path: Path, content: bytes | None) -> None:
    model = tmp_path / "model.gguf"
    if content is not None:
        model.write_bytes(content)
    out = tmp_path / "out"
    refused(
        run_cli(tmp_path, "split", str(model), "--shards", "2", "--out", str(out)), "model.gguf"
    )
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_model_cannot_be_split(tmp_path: Path, shard_file: Path, share: float) -> None:
    whole = shard_file.read_bytes()
    model = tmp_path / "model.gguf"
    model.write_bytes(whole[: int(len(whole) * share)])
    refused(
        run_cli(tmp_path, "split", str(model), "--shards", "2", "--out", str(tmp_path / "out")),
        "model.gguf",
    )


def lines_until(
    command: Sequence[str], home: Path, wanted: str, seconds: float = 60.0, **env: str
) -> str:
    """Run a headless node until its log has `wanted`; stop it politely; all it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "swarmtui", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=home,
        env=clean_environment(home, **env),
    )
    said: list[str] = []
    deadline = time.monotonic() + seconds
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if wanted in line or time.monotonic() > deadline:
                break
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=30)
        said.append(rest)
    finally:
        process.kill()
        process.wait()
    text = "".join(said)
    assert wanted in text, text
    assert "Traceback" not in text
    assert process.returncode == 0, text
    return text


NODE = ("--shard", "0", "--total-shards", "2", "--no-ui", "--no-mdns", "--listen", "127.0.0.1")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ("missing", "no file for shard 0"),
        ("empty", "shard-0.gguf"),
        ("foreign", "shard-0.gguf"),
        ("truncated", "shard-0.gguf"),
        ("another shard", "holds shard 1"),
    ],
)
def test_a_node_with_a_bad_shard_file_says_so_and_lives(
    tmp_path: Path, shard_file: Path, damage: str, word: str
) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    whole = shard_file.read_bytes()
    contents = {
        "empty": b"",
        "foreign": b"\x7fELF" + bytes(1000),
        "truncated": whole[: len(whole) // 2],
        "another shard": (shard_file.parent / "shard-1.gguf").read_bytes(),
    }
    if damage in contents:
        (folder / "shard-0.gguf").write_bytes(contents[damage])
    text = lines_until([*NODE, "--shards-dir", str(folder)], tmp_path, word)
    assert "LOADED" not in text.upper().split(word.upper())[0]


# ---------------------------------------------------------------- numbers, addresses, ports


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shard", "4"], ["shard 4", "0 to 3"]),
        (["--shard", "-1"], ["-1"]),
        (["--shard", "x"], ["x"]),
        (["--shard", "0", "--total-shards", "0"], ["total"]),
        (["--shard", "0", "--total-shards", "5000"], ["5000"]),
        (["--shard", "9", "--total-shards", "9"], ["shard 9"]),
        (["--shard", "0", "--port", "99999"], ["99999"]),
        (["--shard", "0", "--listen", "nowhere"], ["nowhere"]),
        (["--shard", "0", "--listen", "192.0.2.1"], ["192.0.2.1"]),
        (["--shard", "0", "--bootstrap", "nonsense"], ["nonsense"]),
        (["--shard", "0", "--bootstrap", "/ip4/192.0.2.1/tcp/1/p2p/QmX"], ["QmX"]),
        (["--shard", "0", "--cluster", "Not A Name"], ["Not A Name"]),
        (["--shard", "0", "--name", "../../etc"], ["etc"]),
        (["--shard", "0", "--transport", "pigeon"], ["pigeon"]),
        (["--shard", "0", "--bootstrap", "\x1b[2Jx:1"], []),
        (["status", "--name", "nobody"], ["nobody"]),
    ],
)
def test_a_setting_that_cannot_be(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    refused(run_cli(tmp_path, *arguments, *([] if "status" in arguments else ["--no-ui"])), *words)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["TCP", "UDP"])
def test_a_busy_port(tmp_path: Path, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        for command in (["--shard", "0", "--no-ui", "--no-mdns"], ["rendezvous"]):
            result = run_cli(tmp_path, *command, "--port", str(port), "--listen", "127.0.0.1")
            refused(result, f"port {port}", "--port")


# ---------------------------------------------------------------- folders


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file in the way")
    result = run_cli(tmp_path, "--shard", "0", "--no-ui", SWARMTUI_HOME=str(tmp_path / "home"))
    refused(result, str(tmp_path / "home"))


@pytest.mark.parametrize("variable", ["SWARMTUI_DATA_DIR", "SWARMTUI_RUNTIME_DIR"])
def test_a_folder_that_cannot_be_written(tmp_path: Path, variable: str) -> None:
    (tmp_path / "file").write_text("a file in the way")
    result = run_cli(
        tmp_path,
        *(*NODE, "--shards-dir", str(tmp_path)),
        **{variable: str(tmp_path / "file" / "below")},
    )
    refused(result, str(tmp_path / "file"))


def test_a_journal_that_cannot_be_written_is_told_and_the_node_lives(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file in the way")
    state = str(tmp_path / "file" / "below")
    lines_until(
        [*NODE, "--shards-dir", str(tmp_path)],
        tmp_path,
        "The journal cannot be written",
        SWARMTUI_STATE_DIR=state,
    )


def test_a_damaged_identity(tmp_path: Path) -> None:
    identity = tmp_path / "data" / "me" / "identity.key"
    identity.parent.mkdir(parents=True)
    identity.write_bytes(b"damaged")
    result = run_cli(tmp_path, *NODE, "--name", "me", SWARMTUI_DATA_DIR=str(identity.parent.parent))
    refused(result, "identity")


def test_settings_files(tmp_path: Path) -> None:
    for text, word in (
        ("nonsense = = 1", "swarmtui.toml"),
        ("no_such_setting = 1", "no_such_setting"),
        ("total_shards = 'x'", "total_shards"),
        ("ping_s = nan", "ping_s"),
    ):
        (tmp_path / "swarmtui.toml").write_text(text)
        refused(run_cli(tmp_path, "--shard", "0", "--no-ui"), word)
