"""The lab: a rendezvous node and several nodes as processes on loopback, in a temporary folder.

Whatever happens, interrupts and kill -9 included, no process and no file of it stays behind: the
processes hold a lifeline from this one (see swarmtui.lifeline), the folder goes with it (after a
kill -9 only the folder is left).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node import jobs
from node.clean import clean
from node.errors import PlainError
from node.settings import HOME_VARIABLE, Settings, load_settings
from swarmtui.interrupts import Interrupted, Signals
from swarmtui.lifeline import LIFELINE

if TYPE_CHECKING:
    from node.door_client import SocketDoor

STOP_S = 4.0
LOOK_S = 0.05
LAST_LINES = 12
_FOREIGN = ("LLAMA_", "SWARMTUI_", "NODE_GPU_")


@dataclass(frozen=True)
class Plan:
    """What to build: counts, the synthetic model's shape, seconds to wait until it is ready.

    empty: how many of the nodes start with no file and fetch their shards from the others
    """

    nodes: int
    shards: int
    layers: int
    embd: int
    vocab: int
    timeout_s: float
    transport: str = "dual"
    empty: int = 0

    def is_empty(self, node: int) -> bool:
        """Whether node `node` starts with no file: the last `empty` ones do."""
        return node >= self.nodes - self.empty

    def held_by(self, node: int) -> list[int]:
        """The shards of node `node`: node i gets shard i mod shards; spare shards go round."""
        if self.shards <= self.nodes:
            return [node % self.shards]
        return [shard for shard in range(self.shards) if shard % self.nodes == node]


class NotReady(Exception):
    """The swarm did not become ready; the text is the reason, `member` who is behind."""

    def __init__(self, reason: str, member: Member | None = None) -> None:
        super().__init__(reason)
        self.member = member


@dataclass
class Member:
    """One process of the lab."""

    label: str
    home: Path
    settings: Settings
    process: subprocess.Popen[bytes]
    door: SocketDoor | None = field(default=None)

    def last_words(self) -> list[str]:
        """The last lines of its log, and what it said on standard error."""
        found: list[str] = []
        for path in (self.settings.log_path, self.home / "stderr.txt"):
            try:
                found += path.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]
            except OSError:
                continue
        return [clean(line, 400) for line in found]


class Lab:
    """The processes of one lab below `folder`."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.members: list[Member] = []
        self.rendezvous: Member | None = None
        self.changed = threading.Event()
        self.started_at = 0.0
        self._lifeline = os.pipe()
        self._started: list[Member] = []

    def make_model(self) -> None:
        """Write the synthetic model's shards."""
        plan = self.plan
        whole = self.folder / "lab.gguf"
        shards = self.folder / "shards"
        shards.mkdir()
        jobs.synth(
            whole, layers=plan.layers, embd=plan.embd, vocab=plan.vocab, seed=1, quant="f32"
        )
        jobs.split(whole, plan.shards, shards)
        whole.unlink()

    def start(self) -> None:
        """Start the rendezvous node, learn its address from its door, start the nodes."""
        self.started_at = time.monotonic()
        deadline = self.started_at + self.plan.timeout_s
        self.rendezvous = self._launch("rendezvous", ["rendezvous", "--port", "0"], "rendezvous")
        door = self._await_door(self.rendezvous, deadline)
        self._await(lambda: bool(_addresses(door)), deadline, "The rendezvous node does not listen")
        bootstrap = [part for item in _addresses(door) for part in ("--bootstrap", item)]
        for number in range(self.plan.nodes):
            held = [part for i in self.plan.held_by(number) for part in ("--shard", str(i))]
            folder = self.folder / (f"empty-{number}" if self.plan.is_empty(number) else "shards")
            folder.mkdir(exist_ok=True)
            flags = [*held, *bootstrap, "--threads", "1", "--shards-dir", str(folder)]
            self.members.append(self._launch(f"node {number}", flags, f"lab-{number}"))

    def await_ready(self) -> float:
        """Wait until every node sees every shard LOCAL or ONLINE; seconds since `start`."""
        deadline = self.started_at + self.plan.timeout_s
        for member in self.members:
            self._await_door(member, deadline)
        self._await(self._all_complete, deadline, "The swarm is not ready")
        return time.monotonic() - self.started_at

    def report(self, seconds: float | None) -> dict[str, Any]:
        """The lab's report: shards as node 0 sees them."""
        views = [
            jobs.status_report(member.door.snapshot().state, time.time())
            for member in self.members
            if member.door is not None
        ]
        shards = views[0]["shards"] if views else {}
        ready = len(views) == self.plan.nodes and self._all_complete()
        report = {
            "ready": ready,
            "seconds_to_ready": None if seconds is None else round(seconds, 3),
            "shards": {
                number: {"status": shard["status"], "holders": shard["holders"]}
                for number, shard in shards.items()
            },
            "nodes": [
                {"peer_id": view["peer_id"], "discovered": view["discovered"]} for view in views
            ],
        }
        if self.plan.empty:
            report["transfers"] = self.transfers()
        return report

    def transfers(self) -> list[dict[str, Any]]:
        """What the nodes fetched: bytes received in all, from how many sources, how fast."""
        return [
            {
                "file": item.filename,
                "bytes": item.fetched,
                "sources": item.came_from,
                "mb_per_s": item.mb_per_s,
            }
            for member in self.members
            if member.door is not None
            for item in member.door.snapshot().state.torrents.values()
            if item.came_from
        ]

    def stop(self) -> None:
        """End every process: politely, and for certain after four seconds."""
        for member in self._started:
            if member.door is not None:
                member.door.close()
            if member.process.poll() is None:
                member.process.terminate()
        deadline = time.monotonic() + STOP_S
        for member in self._started:
            try:
                member.process.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                os.killpg(member.process.pid, signal.SIGKILL)
                member.process.wait()
            self._remove_socket(member.settings.socket_path)
        for end in self._lifeline:
            os.close(end)

    def _remove_socket(self, path: Path) -> None:
        """Sockets whose path would be too long lie in a shared folder outside the lab's own."""
        if path.is_relative_to(self.folder):
            return
        for left in (path, path.with_name(path.name + ".lock")):
            left.unlink(missing_ok=True)  # only a killed node leaves them
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # fails where another node uses it

    # ------------------------------------------------------------ processes

    def _launch(self, label: str, flags: list[str], name: str) -> Member:
        home = self.folder / name
        home.mkdir()
        command = [
            *(sys.executable, "-m", "swarmtui", *flags),
            *("--no-ui", "--no-mdns", "--listen", "127.0.0.1", "--name", name),
            *("--total-shards", str(self.plan.shards), "--cluster", "lab"),
            *("--transport", self.plan.transport),
        ]
        environ = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(_FOREIGN) and key != "BOOTSTRAP"
        }
        here = str(Path(__file__).resolve().parent.parent)
        environ |= {
            HOME_VARIABLE: str(home),
            LIFELINE: "1",
            # The node runs elsewhere, and a checkout that is not installed must still be found.
            "PYTHONPATH": os.pathsep.join(filter(None, (here, environ.get("PYTHONPATH")))),
        }
        settings = load_settings({"name": name}, environ={HOME_VARIABLE: str(home)}, cwd=home)
        # A signal between the fork and the list would leave a process nobody ends.
        with (home / "stderr.txt").open("wb") as errors, _signals.held():
            process = subprocess.Popen(
                command,
                stdin=self._lifeline[0],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=home,
                env=environ,
                start_new_session=True,
            )
            self._started.append(Member(label, home, settings, process))
        return self._started[-1]

    def _await_door(self, member: Member, deadline: float) -> SocketDoor:
        path = member.settings.socket_path
        while True:
            if path.exists():
                try:
                    member.door = jobs.connect(path)
                except PlainError:
                    member.door = None  # bound and not served yet
                else:
                    member.door.subscribe(self.changed.set)
                    return member.door
            self._check_alive()
            left = deadline - time.monotonic()
            if left <= 0:
                raise NotReady(
                    f"The {member.label} did not start within {self.plan.timeout_s:g} s.", member
                )
            # A process that is starting has no way to tell but its socket.
            try:
                member.process.wait(min(LOOK_S, left))
            except subprocess.TimeoutExpired:
                continue

    def _await(self, condition: Callable[[], bool], deadline: float, failure: str) -> None:
        while True:
            self.changed.clear()
            if condition():
                return
            self._check_alive()
            left = deadline - time.monotonic()
            if left <= 0:
                member, why = self._behind()
                raise NotReady(f"{failure} after {self.plan.timeout_s:g} s{why}.", member)
            self.changed.wait(left)

    def _check_alive(self) -> None:
        for member in [*self.members, *([self.rendezvous] if self.rendezvous else [])]:
            lost = member.door is not None and member.door.lost
            if lost:
                try:
                    member.process.wait(1.0)
                except subprocess.TimeoutExpired:
                    raise NotReady(f"The {member.label} does not answer.", member) from None
            code = member.process.poll()
            if code is not None:
                raise NotReady(f"The {member.label} ended with code {code}.", member)

    def _all_complete(self) -> bool:
        return all(
            member.door is not None and member.door.snapshot().state.complete
            for member in self.members
        )

    def _behind(self) -> tuple[Member | None, str]:
        for member in self.members:
            if member.door is None:
                return member, f": the {member.label} has not started"
            state = member.door.snapshot().state
            if not state.complete:
                now = time.time()
                missing = [
                    f"shard {i} ({state.why(i, now)})" for i in state.missing_shards[:4]
                ]
                return member, f": the {member.label} misses {', '.join(missing) or 'its start'}"
        return None, ""


def run_lab(plan: Plan, *, console: bool, as_json: bool) -> int:
    """Build the swarm, show it, take it down; 0 when it was ready, else 1."""
    from swarmtui.commands.run import terminal

    if plan.empty >= plan.nodes:
        raise PlainError(
            f"Of {plan.nodes} nodes {plan.empty} cannot be empty: somebody must have the files.",
            f"Give --empty at most {plan.nodes - 1}, or more --nodes.",
        )
    if plan.shards > plan.layers:
        raise PlainError(
            f"A model of {plan.layers} layers cannot be cut into {plan.shards} shards.",
            "Give more --layers or fewer --shards.",
        )
    theme = load_settings()
    folder = Path(tempfile.mkdtemp(prefix="swarmtui-lab-"))
    lab = Lab(plan, folder)
    previous = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        for number in previous:
            signal.signal(number, _signals.handle)
        return _run(lab, theme, console=console and terminal(), as_json=as_json)
    except Interrupted as stop:
        _progress("stopping")
        return 128 + stop.number
    finally:
        for number in previous:
            # A second Ctrl-C must not leave processes behind.
            signal.signal(number, signal.SIG_IGN)
        lab.stop()
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _run(lab: Lab, settings: Settings, *, console: bool, as_json: bool) -> int:
    plan = lab.plan
    seconds = None
    try:
        _progress(f"making a model of {plan.layers} layers in {plan.shards} shards")
        lab.make_model()
        _progress(f"starting a rendezvous node and {plan.nodes} nodes")
        lab.start()
        seconds = lab.await_ready()
        _progress(f"ready after {seconds:.1f} s")
    except NotReady as problem:
        _progress(clean(problem, 600))
        if problem.member is not None:
            _progress(f"the last lines of the {problem.member.label}:")
            for line in problem.member.last_words():
                _progress(f"  {line}")
    report = lab.report(seconds)
    if console and report["ready"]:
        _console(lab, settings)
        return 0
    if as_json:
        print(json.dumps(report, ensure_ascii=False), flush=True)
    elif lab.members and lab.members[0].door is not None:
        view = jobs.status_report(lab.members[0].door.snapshot().state, time.time())
        print(jobs.status_text(view), flush=True)
    return 0 if report["ready"] else 1


def _console(lab: Lab, settings: Settings) -> None:
    from swarmtui.commands.run import theme_dirs
    from swarmtui.console import run_console

    path = lab.members[0].settings.socket_path
    run_console(
        lambda: jobs.connect(path),
        theme=settings.theme,
        theme_dirs=theme_dirs(settings),
        attached=True,
        title="lab node 0",
    )


def _addresses(door: SocketDoor) -> tuple[str, ...]:
    node = door.snapshot().state.node
    return node.addresses if node is not None else ()


_signals = Signals()


def _progress(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)
