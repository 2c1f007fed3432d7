"""Downloads as processes: killed at enumerated system calls, with failing disks, without room."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torrent_child import CONTENT, LAYOUT, NAME, SIZE

from node.torrent import resume

CHILD = Path(__file__).with_name("torrent_child.py")
ROOT = Path(__file__).resolve().parents[2]
CALLS = {
    "pwrite64": "pwrite64",
    "fdatasync": "fdatasync",
    "fsync": "fsync",
    "rename": "rename,renameat,renameat2",
    "link": "link,linkat",
    "unlink": "unlink,unlinkat",
    "fallocate": "fallocate",
    "flock": "flock",
}


def run(
    folder: Path, *prefix: str, log: Path | None = None, limit: int | None = None
) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, str(CHILD), str(folder)]
    if log is not None:
        command.append(str(log))

    def cap() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=50,
        preexec_fn=cap if limit is not None else None,
        check=False,
    )


@functools.cache
def why_no_injection() -> str:
    """Why strace cannot inject here; empty when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    probe = [
        "strace",
        "-f",
        "-o",
        "/dev/null",
        "-e",
        "trace=fsync",
        "-e",
        "inject=fsync:error=EIO",
        sys.executable,
        "-c",
        "import os,sys\ntry: os.fsync(0)\nexcept OSError as e: sys.exit(7 if e.errno == 5 else 8)",
    ]
    found = subprocess.run(probe, stdin=subprocess.PIPE, capture_output=True, check=False)
    return "" if found.returncode == 7 else "strace cannot inject into processes here"


def inject(call: str, what: str) -> list[str]:
    if why_no_injection():
        pytest.skip(why_no_injection())
    names = CALLS[call]
    return [
        "strace",
        "-f",
        "-o",
        "/dev/null",
        "-e",
        f"trace={names}",
        "-e",
        f"inject={names}:{what}",
    ]


def tree(path: Path) -> dict[str, bytes | str]:
    """Everything below a folder, to see that nothing changed."""
    found: dict[str, bytes | str] = {}
    for item in sorted(path.rglob("*")):
        name = str(item.relative_to(path))
        if item.is_symlink():
            found[name] = f"-> {os.readlink(item)}"
        elif item.is_file():
            found[name] = item.read_bytes()
        else:
            found[name] = "folder"
    return found


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """(shards folder, a folder beside it that must stay as it is)."""
    shards, outside = tmp_path / "shards", tmp_path / "outside"
    shards.mkdir()
    outside.mkdir()
    (outside / "precious.gguf").write_bytes(b"precious" * 100)
    (outside / "link").symlink_to("precious.gguf")
    return shards, outside


@pytest.mark.parametrize("call", CALLS)
def test_kill_at_every_call(call: str, places: tuple[Path, Path], tmp_path: Path) -> None:
    """SIGKILL on entry of the k-th call of its kind, for every k, then a second run."""
    shards, outside = places
    before = tree(outside)
    at = 0
    while True:
        at += 1
        log = tmp_path / f"log-{at}"
        first = run(shards, *inject(call, f"signal=SIGKILL:when={at}"), log=log)
        if first.returncode == 0:
            break
        assert first.returncode in (-9, 137), first.stderr
        promised = int(log.read_text().split()[-1]) if log.exists() else 0
        second = run(shards)
        assert second.returncode == 0, second.stdout + second.stderr
        result = json.loads(second.stdout)
        assert result["have"] >= promised
        assert result["have"] + result["written"] >= LAYOUT.pieces
        assert (shards / NAME).read_bytes() == CONTENT
        assert os.listdir(shards) == [NAME]
        (shards / NAME).unlink()
    assert at > 1, f"{call} was never called"
    assert tree(outside) == before


def test_kills_one_after_another_in_one_download(places: tuple[Path, Path]) -> None:
    shards, _ = places
    for at in (9, 7, 6, 5, 8, 7):
        run(shards, *inject("pwrite64", f"signal=SIGKILL:when={at}"))
    last = run(shards)
    assert last.returncode == 0, last.stderr
    assert (shards / NAME).read_bytes() == CONTENT
    assert os.listdir(shards) == [NAME]


@pytest.mark.parametrize(
    ("call", "what", "kind"),
    [
        ("fdatasync", "error=EIO:when=1", "SyncFailedError"),
        ("fdatasync", "error=EIO:when=2", "SyncFailedError"),
        ("fdatasync", "error=EIO:when=3+", "SyncFailedError"),
        ("fsync", "error=EIO:when=1", "DiskFailedError"),
        ("fsync", "error=EIO:when=4", "SyncFailedError"),
        ("pwrite64", "error=EIO:when=3", "DiskFailedError"),
        ("pwrite64", "error=EIO:when=4", "SyncFailedError"),
        ("pwrite64", "error=ENOSPC:when=3+", "DiskFullError"),
        ("pwrite64", "error=ENOSPC:when=4+", "DiskFullError"),
        ("pwrite64", "error=EDQUOT:when=1", "DiskFullError"),
        ("fallocate", "error=ENOSPC", "DiskFullError"),
        ("link", "error=EIO", "DiskFailedError"),
        ("rename", "error=EROFS", "DiskFailedError"),
    ],
)
def test_errors_of_the_disk_end_plainly_and_the_next_run_completes(
    call: str, what: str, kind: str, places: tuple[Path, Path]
) -> None:
    shards, outside = places
    before = tree(outside)
    first = run(shards, *inject(call, what))
    assert first.returncode == 2, first.stdout + first.stderr
    told = json.loads(first.stdout)
    assert told["kind"] == kind
    assert kind != "DiskFullError" or told["missing"] > 0
    assert "Traceback" not in first.stderr
    assert not (shards / NAME).exists()
    second = run(shards)
    assert second.returncode == 0, second.stdout
    assert (shards / NAME).read_bytes() == CONTENT
    assert os.listdir(shards) == [NAME]
    assert tree(outside) == before


def test_a_file_size_limit_is_met_before_the_first_byte(places: tuple[Path, Path]) -> None:
    shards, _ = places
    first = run(shards, limit=SIZE - 1000)
    assert first.returncode == 2, first.stderr
    assert json.loads(first.stdout)["kind"] == "DiskFullError"
    assert os.listdir(shards) == []
    assert run(shards, limit=SIZE).returncode == 0
    assert (shards / NAME).read_bytes() == CONTENT


def test_a_small_file_system_tells_the_exact_number_and_takes_it_when_there_is_room(
    tmp_path: Path,
) -> None:
    """A tmpfs of 96 KiB in a mount namespace of its own."""
    shards = tmp_path / "shards"
    shards.mkdir()
    script = (
        f"mount -t tmpfs -o size=96k none {shards} || exit 77\n"
        f"{sys.executable} {CHILD} {shards}\n"
        f"stat -f -c '%a %S' {shards}; ls -A {shards}; echo --\n"
        f"mount -o remount,size=1m {shards} && {sys.executable} {CHILD} {shards}\n"
        f"sha256sum < {shards}/{NAME}\n"
    )
    found = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    if found.returncode == 77 or "unshare" in found.stderr:
        pytest.skip("no mount namespaces here: " + found.stderr.strip()[:100])
    first, room, separator, second, digest = found.stdout.splitlines()
    free, unit = map(int, room.split())
    assert json.loads(first)["missing"] == SIZE + resume.max_bytes(LAYOUT) - free * unit
    assert separator == "--"
    assert json.loads(second) == {"have": 0, "written": LAYOUT.pieces}
    assert digest.split()[0] == hashlib.sha256(CONTENT).hexdigest()
