"""Answering what is asked through the door: every request of node.requests."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import trio

from node import events as ev, requests as rq
from node.clean import clean
from node.door import NodeDoor
from node.errors import PlainError
from node.network.peers import Peers
from node.report import status_report_dict
from node.settings import Settings
from node.shards.inspect import shard_id_of
from node.swarm import commands as cmd
from node.swarm.handlers import Handlers
from node.swarm.job import Job
from node.swarm.serving import Commands
from node.swarm.torrents import Torrents

MIN_ABBREVIATION = 4
MAX_ORIGIN = 32
_HEX32 = re.compile(r"[0-9a-f]{64}")


class Requests:
    """Runs each request as a task of the node; the future gets the answer or a PlainError."""

    def __init__(
        self,
        door: NodeDoor,
        settings: Settings,
        stop: Callable[[str], None],
        nursery: trio.Nursery,
        commands: Commands,
        handlers: Handlers,
        peers: Peers,
        torrents: Torrents,
    ) -> None:
        self._door = door
        self._describe = settings.describe
        self._stop_node = stop
        self._nursery = nursery
        self._commands = commands
        self._handlers = handlers
        self._peers = peers
        self._torrents = torrents
        self._token = trio.lowlevel.current_trio_token()
        self._table: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            rq.STATUS: self._status,
            rq.SEND: self._send,
            rq.LOAD: self._load,
            rq.UNLOAD: self._unload,
            rq.SETTINGS: self._settings,
            rq.GET: self._get,
            rq.PAUSE: self._pause,
            rq.RESUME: self._resume,
            rq.CANCEL: self._cancel,
            rq.PUBLISH: self._publish,
            rq.STOP: self._stop,
        }

    def take(self, name: str, params: dict[str, Any], future: Future[dict[str, Any]]) -> None:
        """Accept a request from any thread."""
        try:
            self._token.run_sync_soon(self._start, name, params, future)
        except trio.RunFinishedError:
            future.set_exception(PlainError("The node has stopped.", "Start it again."))

    def _start(self, name: str, params: dict[str, Any], future: Future[dict[str, Any]]) -> None:
        try:
            self._nursery.start_soon(self._run, name, params, future)
        except RuntimeError:
            future.set_exception(PlainError("The node is stopping.", "Start it again."))

    async def _run(self, name: str, params: dict[str, Any], future: Future[dict[str, Any]]) -> None:
        answer: dict[str, Any] | None = None
        problem = PlainError("The node is stopping.", "Start it again.")
        try:
            serve = self._table.get(name)
            if serve is None:
                raise PlainError(
                    f"The node does not know the request '{clean(name, 40)}'.",
                    f"It knows {', '.join(rq.NAMES)}.",
                )
            answer = await serve(params)
        except PlainError as error:
            problem = error
        except cmd.MessageRefusedError as error:
            problem = PlainError(f"{error.field} {error.reason}.", "Correct it and try again.")
        except Exception as error:
            # A fault of ours must not end the node: whoever asked hears of it, and the log.
            problem = PlainError(
                f"The request '{clean(name, 40)}' failed inside the node.",
                "Export a bug report with 'e' or `swarmtui bundle`.",
            )
            self._door.emit(
                ev.Problem(
                    at=time.time(),
                    level="error",
                    tag="ERROR",
                    sentence=problem.sentence,
                    next_step=problem.next_step,
                    detail=clean(repr(error), 2000),
                )
            )
        finally:
            if not future.cancelled():
                if answer is not None:
                    future.set_result(answer)
                else:
                    future.set_exception(problem)

    # ------------------------------------------------------------ the requests

    async def _status(self, params: dict[str, Any]) -> dict[str, Any]:
        report: dict[str, Any] = status_report_dict(self._door.state, time.time())
        return report

    async def _settings(self, params: dict[str, Any]) -> dict[str, Any]:
        return dict(self._describe())

    async def _stop(self, params: dict[str, Any]) -> dict[str, Any]:
        self._stop_node(clean(params.get("reason") or "asked to stop", 80))
        return {}

    async def _load(self, params: dict[str, Any]) -> dict[str, Any]:
        return await self._own("LOAD_SHARD", {"shard_id": params.get("shard_id")})

    async def _unload(self, params: dict[str, Any]) -> dict[str, Any]:
        return await self._own("UNLOAD_SHARD", {"shard_id": params.get("shard_id")})

    async def _own(self, command: str, params: dict[str, Any]) -> dict[str, Any]:
        typed = cmd.parse_params(command, params)
        return await self._handlers.table()[command](typed, self._peers.own_id)

    # ------------------------------------------------------------ files

    async def _get(self, params: dict[str, Any]) -> dict[str, Any]:
        fetching = self._torrents.fetching
        what, root = str(params.get("what") or ""), params.get("root")
        if root is not None and not _HEX32.fullmatch(str(root)):
            raise PlainError("A root is 64 hex digits.", "Copy it whole from `torrent list`.")
        name = fetching.name_of(what)
        shard_id = shard_id_of(name)
        load = bool(params.get("load", shard_id is not None))
        here = self._torrents.library.get(name)
        if here is not None:
            if root is not None and here.root != root:
                raise PlainError(
                    f"This node has {name} with another content (root {here.root[:16]}…).",
                    "Move that file away first.",
                )
            if load and shard_id is not None and shard_id < self._total():
                await self._own("LOAD_SHARD", {"shard_id": shard_id})
            return {"info_hash": here.file.info_hash, "filename": name, "status": "here"}
        job = fetching.want(
            name,
            wanted_by="operator",
            root=None if root is None else str(root),
            load=load and shard_id is not None and shard_id < self._total(),
        )
        await job.resolved.wait()
        if job.error is not None:
            raise job.error
        return self._job_answer(job)

    def _total(self) -> int:
        node = self._door.state.node
        return node.total_shards if node is not None else 0

    @staticmethod
    def _job_answer(job: Job) -> dict[str, Any]:
        return {
            "info_hash": job.info_hash,
            "filename": clean(job.filename, 255),
            "status": job.status,
        }

    async def _pause(self, params: dict[str, Any]) -> dict[str, Any]:
        job = self._torrents.fetching.job(str(params.get("what") or ""))
        self._torrents.fetching.pause(job)
        return self._job_answer(job)

    async def _resume(self, params: dict[str, Any]) -> dict[str, Any]:
        job = self._torrents.fetching.job(str(params.get("what") or ""))
        self._torrents.fetching.resume(job)
        return self._job_answer(job)

    async def _cancel(self, params: dict[str, Any]) -> dict[str, Any]:
        fetching = self._torrents.fetching
        job = fetching.job(str(params.get("what") or ""))
        await fetching.cancel(job, keep=bool(params.get("keep", False)))
        return {**self._job_answer(job), "status": "cancelled"}

    async def _publish(self, params: dict[str, Any]) -> dict[str, Any]:
        path = Path(str(params.get("path") or ""))
        if not path.is_absolute():
            raise PlainError("The path of the file must be absolute.", "Give it from / on.")
        return await self._torrents.seeding.publish(path)

    # ------------------------------------------------------------ messages

    async def _send(self, params: dict[str, Any]) -> dict[str, Any]:
        command = str(params.get("command", "")).upper()
        target = str(params.get("to", ""))
        origin = clean(params.get("origin") or "node", MAX_ORIGIN)
        text = str(params.get("text") or "")
        body = params.get("params") or {}
        if command == "MESSAGE":
            if not text:
                raise PlainError("The message is empty.", "Give it some text.")
        else:
            if command not in cmd.PARAMS:
                raise PlainError(
                    f"There is no command '{clean(command, 40)}'.",
                    f"Use one of {', '.join(sorted(cmd.PARAMS))} or MESSAGE.",
                )
            cmd.parse_params(command, body)
        answers: list[dict[str, Any]] = []

        async def one(peer_id: str) -> None:
            if peer_id == self._peers.own_id:
                answers.append(await self._to_self(command, body))
            elif command == "MESSAGE":
                answers.append(await self._commands.message(peer_id, text, origin=origin))
            else:
                answers.append(await self._commands.send(peer_id, command, body, origin=origin))

        targets = self.targets(target)
        async with trio.open_nursery() as nursery:
            for peer_id in targets:
                nursery.start_soon(one, peer_id)
        answers.sort(key=lambda item: targets.index(item["peer_id"]))
        return {"answers": answers}

    async def _to_self(self, command: str, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = {"peer_id": self._peers.own_id, "command": command}
        if command == "MESSAGE":
            raise PlainError("A message to this node itself goes nowhere.", "Name another peer.")
        start = time.perf_counter()
        try:
            answer["result"] = await self._own(command, body)
            answer["status"] = "success"
        except PlainError as error:
            answer["status"], answer["error"] = "error", str(error)
        answer["duration_ms"] = round((time.perf_counter() - start) * 1000, 1)
        return answer

    def targets(self, target: str) -> list[str]:
        """The peer ids meant by "me", "all", a peer id, or a unique part of one.

        Raises PlainError when nobody or more than one is meant.
        """
        own = self._peers.own_id
        if target in ("me", own):
            return [own]
        known = sorted({item.peer_id for item in self._peers.known if item.heard})
        if target == "all":
            if not known:
                raise PlainError("No other node is known yet.", "Wait for one, or see --bootstrap.")
            return known
        found = [item for item in known if item == target]
        if not found and len(target) >= MIN_ABBREVIATION:
            found = [i for i in known if i.startswith(target) or i.endswith(target)]
        if len(found) == 1:
            return found
        shown = clean(target, 64)
        if not found:
            raise PlainError(
                f"No peer is known as '{shown}'.",
                "Use its peer id or the last characters of it, 'me' or 'all'.",
            )
        raise PlainError(f"'{shown}' fits {len(found)} peers.", "Give more of the peer id.")
