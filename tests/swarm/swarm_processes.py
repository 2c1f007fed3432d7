"""Real nodes as separate processes on loopback, seen through their doors.

A `Swarm` starts processes below one folder, waits for conditions with deadlines, and stops all of
them: politely, and for certain after a grace. Every wait that fails says what each node said last.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from node.door_client import SocketDoor
from node.errors import PlainError
from node.events import Event
from node.settings import HOME_VARIABLE, Settings, load_settings
from node.state import State

ROOT = Path(__file__).resolve().parents[2]
START_S = 45.0
PATIENCE_S = 30.0
LEAVE_GRACE_S = 6.0
LOOK_S = 0.05
LAST_LINES = 12
FOREIGN = ("LLAMA_", "SWARMTUI_", "NODE_GPU_")
LOOPBACK = ("--listen", "127.0.0.1", "--no-mdns")


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment without settings of nodes, for a process that lives in `home`."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(FOREIGN) and key not in ("BOOTSTRAP", "COLUMNS", "LINES")
    }
    path = os.pathsep.join(filter(None, (str(ROOT), kept.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path, HOME_VARIABLE: str(home), **more}


def free_port() -> int:
    """A port of 127.0.0.1 that is free for TCP and UDP at this moment."""
    for _ in range(50):
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            tcp.bind(("127.0.0.1", 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free for TCP and UDP")


@dataclass
class Member:
    """One process. `door` is there once `Swarm.open` has connected to it."""

    name: str
    home: Path
    settings: Settings
    process: subprocess.Popen[bytes]
    command: list[str]
    output: Path
    errors: Path
    door: SocketDoor | None = field(default=None)

    @property
    def state(self) -> State:
        """What the node sees now."""
        assert self.door is not None, f"{self.name} has no open door"
        return self.door.snapshot().state

    @property
    def peer_id(self) -> str:
        node = self.state.node
        assert node is not None
        return node.peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        node = self.state.node
        return node.addresses if node is not None else ()

    @property
    def board_path(self) -> Path:
        """The file with which it can be found on this machine."""
        return self.settings.runtime_dir / self.name / "node.json"

    def events(self, kind: type[Event] | None = None) -> list[Any]:
        """The events since the door was opened, oldest first."""
        assert self.door is not None
        found, _ = self.door.events(0, 100_000)
        return [item for item in found if kind is None or isinstance(item, kind)]

    def log(self) -> str:
        """Its standard output so far."""
        return self.output.read_text("utf-8", "replace") if self.output.exists() else ""

    def status(self) -> dict[int, str]:
        """Shard -> LOCAL, ONLINE or OFFLINE."""
        state = self.state
        return {i: state.status_of(i) for i in state.shard_ids}

    def describe(self) -> str:
        """What is known of it, for a failed assertion."""
        code = self.process.poll()
        lines = [f"--- {self.name}: {'running' if code is None else f'ended with {code}'}"]
        if self.door is not None:
            state, now = self.state, time.time()
            rows = [f"{i}: {state.status_of(i)} ({state.why(i, now)})" for i in state.shard_ids]
            peers = [
                f"{item.peer_id[-4:]}: {'+'.join(item.transports) or 'not connected'}"
                f"{' silent' if item.silent else ''} {item.note}"
                for item in state.peers.values()
            ]
            lines += [f"    shards {'; '.join(rows)}", f"    peers {'; '.join(peers)}"]
        crashes = sorted(self.settings.crash_dir.glob("*.txt"))
        for path in (self.output, self.errors, *crashes):
            if path.exists():
                text = path.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]
                lines += [f"    {line[:160]}" for line in text]
        return "\n".join(lines)


class Swarm:
    """The processes of one test; a context manager that leaves none of them behind."""

    def __init__(self, folder: Path, shards_dir: Path, total: int = 4) -> None:
        self.folder = folder
        self.shards_dir = shards_dir
        self.total = total
        self.members: list[Member] = []
        self._changed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_all()

    # ------------------------------------------------------------ starting

    def launch(
        self,
        name: str,
        args: Sequence[str],
        *,
        home: Path | None = None,
        env: dict[str, str] | None = None,
        python: Sequence[str] = (),
    ) -> Member:
        """Start `swarmtui ARGS`; `name` is the node's name (its door is looked for under it).

        `python` replaces `-m swarmtui` in the interpreter's arguments.
        """
        home = home or self.folder / name
        home.mkdir(parents=True, exist_ok=True)
        turn = sum(item.name == name for item in self.members)
        output = self.folder / f"{name}.{turn}.out"
        errors = self.folder / f"{name}.{turn}.err"
        command = [sys.executable, *(python or ("-m", "swarmtui")), *args]
        with output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=home,
                env=clean_environment(home, **(env or {})),
                start_new_session=True,
            )
        settings = load_settings({"name": name}, environ={HOME_VARIABLE: str(home)}, cwd=home)
        member = Member(name, home, settings, process, command, output, errors)
        self.members.append(member)
        return member

    def rendezvous(self, port: int = 0, *flags: str, name: str = "rendezvous") -> Member:
        """Start a rendezvous node and wait until it listens."""
        args = ["rendezvous", "--port", str(port), "--name", name, "--log-format", "json"]
        member = self.launch(name, [*args, "--total-shards", str(self.total), *LOOPBACK, *flags])
        self.open(member)
        self.until(lambda: bool(member.addresses), "the rendezvous node does not listen")
        return member

    def node(
        self,
        name: str,
        *shards: int,
        via: Member | Sequence[str] | None = None,
        flags: Sequence[str] = (),
        home: Path | None = None,
        env: dict[str, str] | None = None,
        log: str = "json",
        python: Sequence[str] = (),
    ) -> Member:
        """Start a node that holds `shards` and joins through `via`; does not wait."""
        args = [part for item in shards for part in ("--shard", str(item))]
        args += ["--name", name, "--no-ui", "--log-format", log, "--threads", "1", *LOOPBACK]
        args += ["--total-shards", str(self.total), "--shards-dir", str(self.shards_dir)]
        where = via.addresses if isinstance(via, Member) else via or ()
        args += [part for item in where for part in ("--bootstrap", item)]
        return self.launch(name, [*args, *flags], home=home, env=env, python=python)

    def open(self, *members: Member) -> None:
        """Connect to the doors of processes that are starting."""
        deadline = time.monotonic() + START_S
        for member in members:
            path = member.settings.socket_path
            while member.door is None:
                if path.exists():
                    try:
                        member.door = SocketDoor(path)
                    except PlainError:
                        member.door = None  # bound and not served yet
                    else:
                        member.door.subscribe(self._changed.set)
                        break
                # A process that is starting has no way to tell but its socket.
                try:
                    member.process.wait(LOOK_S)
                except subprocess.TimeoutExpired:
                    pass
                else:
                    raise AssertionError(f"{member.name} ended\n{self.describe()}")
                late = f"{member.name} opens no door\n{self.describe()}"
                assert time.monotonic() < deadline, late

    # ------------------------------------------------------------ waiting

    def until(
        self, condition: Callable[[], bool], failure: str, timeout: float = PATIENCE_S
    ) -> float:
        """Wait until the nodes' states make `condition` true; seconds it took."""
        begun = time.monotonic()
        while True:
            self._changed.clear()
            if condition():
                return time.monotonic() - begun
            left = begun + timeout - time.monotonic()
            assert left > 0, f"after {timeout:g} s: {failure}\n{self.describe()}"
            # Conditions on files and processes wake nobody: look again from time to time.
            self._changed.wait(min(left, 0.2))

    def until_ready(self, *members: Member, timeout: float = PATIENCE_S) -> float:
        """Wait until every one of `members` sees every shard LOCAL or ONLINE."""
        return self.until(
            lambda: all(item.state.complete for item in members), "the swarm is not ready", timeout
        )

    def until_status(self, *wanted: tuple[Member, str]) -> None:
        """Wait until members see their shards so: "LO" is 0 LOCAL and 1 ONLINE, "-" OFFLINE."""
        words = {"L": "LOCAL", "O": "ONLINE", "-": "OFFLINE"}
        self.until(
            lambda: all(
                list(member.status().values()) == [words[letter] for letter in letters]
                for member, letters in wanted
            ),
            "not " + ", ".join(f"{member.name} {letters}" for member, letters in wanted),
        )

    def describe(self) -> str:
        """Every process, for a failed assertion."""
        return "\n".join(item.describe() for item in self.members)

    # ------------------------------------------------------------ stopping

    def stop(self, member: Member, number: int = signal.SIGTERM) -> float:
        """Signal one process and wait for its end; the seconds it took."""
        begun = time.monotonic()
        member.process.send_signal(number)
        try:
            member.process.wait(LEAVE_GRACE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{member.name} ignored signal {number} for {LEAVE_GRACE_S:g} s\n{self.describe()}"
            ) from None
        took = time.monotonic() - begun
        if member.door is not None:
            member.door.close()
        return took

    def stop_all(self) -> None:
        """End every process: politely, and for certain after a grace."""
        for member in self.members:
            if member.door is not None:
                member.door.close()
            if member.process.poll() is None:
                member.process.terminate()
        deadline = time.monotonic() + LEAVE_GRACE_S
        for member in self.members:
            try:
                member.process.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()


def processes_in(folder: Path) -> list[psutil.Process]:
    """The processes that work below `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def json_lines(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of a log, one per line; AssertionError on anything else."""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            value = json.loads(line)
        except ValueError:
            raise AssertionError(f"line {number} is not JSON: {line[:200]}") from None
        assert isinstance(value, dict), f"line {number} is no object: {line[:200]}"
        yield value


def run_cli(
    home: Path, *args: str, timeout: float = 60.0, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run `swarmtui ARGS` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "swarmtui", *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=home,
        env=clean_environment(home, **env),
        timeout=timeout,
        check=False,
    )


def make_model(folder: Path, shards: int = 4) -> Path:
    """A small synthetic model cut into shards; the folder with the shard files."""
    from node.shards.split import split_model
    from node.shards.synth import synth_model

    whole = folder / "whole.gguf"
    synth_model(whole, layers=max(8, shards), embd=64, vocab=512, seed=1, quant="f32")
    out = folder / "shards"
    out.mkdir()
    split_model(whole, shards, out)
    whole.unlink()
    return out
